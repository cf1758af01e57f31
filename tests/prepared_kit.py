"""Made-up prepared records of the published benchmarks, as `python -m lit_cvit prepare` lays them out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from lit_cvit.data.benchmarks.cvit import DOWNSTREAM
from lit_cvit.data.tasks import Sample, SampleSource

OPTIONS = "Which is alive?\nA. a stone\nB. a snail"
TEN = ["red", *["red", "crimson"] * 4, "rot"]
CAPTIONS = ["A dog runs on sand.", "A dog is on the beach.", "One dog runs."]
WHAT: dict[str, dict[str, Any]] = {
    "ScienceQA": {"question": OPTIONS, "answers": ["B"], "choices": ["a stone", "a snail"]},
    "TextVQA": {"question": "What does it say?", "answers": TEN},
    "Flickr30k": {"question": "", "answers": CAPTIONS},
    "ImageNet": {"question": "", "answers": ["tabby cat"]},
    "GQA": {"question": "Is it red?", "answers": ["yes"]},
    "VQAv2": {"question": "What colour is it?", "answers": TEN},
    "VizWiz": {"question": "What is this?", "answers": ["unanswerable"] * 10},
    "TextCaps": {"question": "", "answers": CAPTIONS},
    "OCR-VQA": {"question": "Who wrote this book?", "answers": ["A. Writer"]},
    "Places365": {"question": "", "answers": ["beach"]},
    "Grounding": {"question": "the left dog", "answers": ["[0.10, 0.20, 0.30, 0.40]"]},
    "ImageNet-R": {"question": "", "answers": ["goldfish"]},
    "ArxivQA": {"question": OPTIONS, "answers": ["A"], "choices": ["a stone", "a snail"]},
    "VizWiz-cap": {"question": "", "answers": CAPTIONS},
    "IconQA": {"question": OPTIONS, "answers": ["B"], "choices": ["a stone", "a snail"]},
    "CLEVR-Math": {"question": "Subtract one ball. How many are left?", "answers": ["3"]},
}
"""A record of each task, without id and image."""

TASKS = {
    "cvit": tuple(WHAT)[:10],
    "coin": ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCR-VQA"),
    "ucit": ("ImageNet-R", "ArxivQA", "VizWiz-cap", "IconQA", "CLEVR-Math", "Flickr30k"),
}
IMAGES = {"train": "a.png", "test": "b.png"}
TEST_ONLY = tuple(name for name, spec in DOWNSTREAM.items() if not spec.trained)


def records(task: str, split: str, count: int) -> list[dict[str, Any]]:
    """So many records of a task; those of a split differ in their ids alone."""
    return [{"id": f"{split}-{n}", "image": IMAGES[split], **WHAT[task]} for n in range(count)]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def write_task(
    folder: Path, task: str, benchmark: str, *, num_train: int = 6, num_test: int = 4, **manifest: Any
) -> None:
    """Write the folder of one task; its images lie in `raw/<task>` beside the folder of the benchmark."""
    if task not in TEST_ONLY or benchmark != "cvit":
        write_jsonl(folder / task / "train.jsonl", records(task, "train", num_train))
    write_jsonl(folder / task / "test.jsonl", records(task, "test", num_test))
    written = {"task": task, "benchmark": benchmark, "image_root": f"../../raw/{task}", **manifest}
    (folder / task / "manifest.json").write_text(json.dumps(written))
    for image in IMAGES.values():
        write_image(folder.parent / "raw" / task / image)


def write_prepared(parent: Path, benchmark: str, **sizes: int) -> Path:
    """Write every task of a benchmark; returns what is given as `root`."""
    folder = parent / benchmark
    for task in TASKS[benchmark]:
        write_task(folder, task, benchmark, **sizes)
    return folder


def samples(source: SampleSource | None, epoch: int = 0) -> list[Sample]:
    assert source is not None
    return [source.sample(index, epoch) for index in range(len(source))]
