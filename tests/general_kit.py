"""Made-up files in the schemas and the layout of POPE, MME, MMBench and SEED-Bench, small."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from lit_cvit.metrics.general import MME_CATEGORIES

CATEGORIES = tuple(name for names in MME_CATEGORIES.values() for name in names)
# MME packs these with the texts and the images in folders of their own.
_IN_FOLDERS = ("artwork", "celebrity", "landmark", "posters", "scene")
COLUMNS = (
    "index",
    "question",
    "hint",
    "A",
    "B",
    "C",
    "D",
    "answer",
    "category",
    "image",
    "l2-category",
    "split",
)


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (shade, 0, 255 - shade))


def encoded(shade: int) -> str:
    buffer = io.BytesIO()
    picture(shade).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def save(shade: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(shade).save(path, "PNG")


def write_pope(root: Path) -> None:
    for number, subset in enumerate(("random", "popular", "adversarial")):
        image = f"COCO_val2014_00000000000{number}.jpg"
        save(number, root / "pope" / "val2014" / image)
        rows = [
            {"question_id": 1, "image": image, "text": "Is there a dog in the image?", "label": "yes"},
            {"question_id": 2, "image": image, "text": "Is there a car in the image?", "label": "no"},
        ]
        path = root / "pope" / "coco" / f"coco_pope_{subset}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def write_mme(root: Path, categories: Iterable[str] = CATEGORIES) -> None:
    for number, category in enumerate(categories):
        folder = root / "MME" / "MME_Benchmark_release_version" / category
        texts = folder / "questions_answers_YN" if category in _IN_FOLDERS else folder
        images = folder / "images" if category in _IN_FOLDERS else folder
        for name in ("0001", "0002"):
            save(number, images / f"{name}.{'jpg' if name == '0001' else 'png'}")
            texts.mkdir(parents=True, exist_ok=True)
            lines = [
                f"Is this {category}? Please answer yes or no.\tYes",
                f"Is this not {category}? Please answer yes or no.\tNo",
            ]
            (texts / f"{name}.txt").write_text("\n".join(lines))


def write_mme_table(root: Path) -> None:
    rows = [
        {"index": 0, "image": encoded(1), "question": "Is it? Please answer yes or no.", "answer": "Yes"},
        {"index": 1, "image": "0", "question": "Is it not? Please answer yes or no.", "answer": "No"},
        {"index": 2, "image": encoded(2), "question": "And here? Please answer yes or no.", "answer": "Yes"},
    ]
    paths = ("images/a.jpg", "images/a.jpg", "images/b.jpg")
    table = [{**row, "category": "OCR", "image_path": path} for row, path in zip(rows, paths, strict=True)]
    write_table(root / "MME" / "MME.tsv", table, tuple(table[0]))


def question(index: int, options: tuple[str, ...], answer: str, **more: object) -> dict[str, object]:
    """A row of MMBench."""
    named = dict(zip("ABCD", options, strict=False))
    group = {"category": "ocr", "l2-category": "finegrained_perception", "split": "dev"}
    return {"index": index, "question": f"Question {index}?", "answer": answer, **group, **named, **more}


QUESTIONS = (
    question(7, ("red", "green", "blue", "none of them"), "B", image=encoded(1), hint='Look "here".\nTwice.'),
    question(9, ("yes", "no"), "A", image="7", category="scene", **{"l2-category": "coarse_perception"}),
)


def write_mmbench(root: Path, rows: Iterable[Mapping[str, object]] = QUESTIONS) -> Path:
    path = root / "mmbench" / "mmbench_dev_20230712.tsv"
    write_table(path, rows, COLUMNS)
    return path


def write_table(path: Path, rows: Iterable[Mapping[str, object]], columns: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_seed(root: Path) -> None:
    types = {"Scene Understanding": 1, "Instance Identity": 2, "Action Recognition": 10}
    rows = []
    for number, kind in enumerate((1, 1, 2, 10)):
        save(number, root / "seed_bench" / "SEED-Bench-image" / f"14544{number}_25911")
        rows.append(
            {
                "answer": "ABCA"[number],
                "choice_a": "one",
                "choice_b": "two",
                "choice_c": "three",
                "choice_d": "four",
                "data_id": f"14544{number}_25911",
                "data_type": "video" if kind == 10 else "image",
                "question": f"How many are in picture {number}?",
                "question_id": str(101669 + number),
                "question_type_id": kind,
            }
        )
    path = root / "seed_bench" / "SEED-Bench.json"
    path.write_text(json.dumps({"question_type": types, "questions": rows}))


def write_all(root: Path) -> None:
    write_pope(root)
    write_mme(root)
    write_mmbench(root)
    write_seed(root)
