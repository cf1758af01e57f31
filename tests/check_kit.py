"""Small splits to check: held in lists, or written to files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import AnswerFormat, ImageSource, Sample, Task
from lit_cvit.metrics.scoring import scorer


@dataclass(frozen=True)
class Drawn:
    """A drawn image; negative colours cannot be drawn."""

    colour: int

    def open(self) -> Image.Image:
        if self.colour < 0:
            raise ValueError(f"cannot draw {self.colour}")
        return Image.new("RGB", (2, 2), (self.colour, 0, 0))


class Listed:
    """A split held in a list."""

    def __init__(self, *samples: Sample) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        return self._samples[index]

    def digest(self) -> str:
        return ""


def sample(
    name: str, image: ImageSource | None = None, text: str = "Q", answers: tuple[str, ...] = ("a",)
) -> Sample:
    return Sample(id=name, task="T", question=text, instruction="", answers=answers, image=image)


def task(train: Listed | RecordSource | None, test: Listed | RecordSource, name: str = "T") -> Task:
    return Task(name, AnswerFormat.SHORT, scorer("exact"), test=test, train=train)


def of_files(folder: Path, train: list[dict[str, object]], test: list[dict[str, object]]) -> Task:
    (folder / "img").mkdir(exist_ok=True)
    for name, rows in {"train": train, "test": test}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = [
        RecordSource(folder / f"{n}.jsonl", task="T", image_root=folder / "img") for n in ("train", "test")
    ]
    return task(sources[0], sources[1])


def row(name: str, **more: object) -> dict[str, object]:
    return {"question_id": name, "text": f"Text {name}", "answer": "a"} | more
