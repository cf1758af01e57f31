"""Speed and memory of record files: index, open, read in workers, check.

    python benchmarks/records.py [--records 600000] [--images 5000] [--folder FOLDER] [--decode]

Rows and images are made up in a temporary folder (about 0.5 GB) that is removed afterwards. Times are given
as `wall (CPU)` seconds: on a busy machine the first says little. Private memory is what no other process
shares (USS).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_cvit.data.records.file import RecordFile
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import AnswerFormat, Task
from lit_cvit.data.validation.check import check_task
from lit_cvit.metrics.scoring import scorer

NUM_READ = 10_000

WORDS = "red bicycle leans near a wooden door while two dogs watch from under that narrow bench"


def main() -> None:
    """Make the files and print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=600_000)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--folder", help="Where the temporary folder is made.")
    parser.add_argument("--decode", action="store_true", help="Also check with every image decoded.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_images(folder / "img", args.images)
        for form in ("jsonl", "json"):
            measure_file(make_records(folder / f"train.{form}", args.records, args.images))
        make_records(folder / "test.jsonl", 1000, args.images, start=args.records)
        measure_check(folder, decode=False)
        if args.decode:
            measure_check(folder, decode=True)


def make_images(folder: Path, count: int, pixels: np.ndarray | None = None) -> None:
    """Write JPEG files, 100 folders of them: of pixels that are shifted each time, by default 64 x 64."""
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for number in range(count):
        path = folder / image_path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(pixels, number, axis=0)).save(path)


def image_path(number: int) -> str:
    """Path of an image under the root."""
    return f"{number % 100:02d}/image_{number:06d}.jpg"


def make_records(path: Path, count: int, num_images: int, *, start: int = 0) -> Path:
    """Write LLaVA training rows, as JSONL or as one list, by the ending."""
    draw, known = np.random.default_rng(start), WORDS.split()
    as_list = path.suffix == ".json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[" if as_list else "")
        for number in range(start, start + count):
            words = " ".join(draw.permutation(known)[:14])
            turns = [
                {"from": "human", "value": f"<image>\nWhy does {words} {number}?\nAnswer in one word."},
                {"from": "gpt", "value": "caf\u00e9" if number % 50 == 0 else "yes"},
            ]
            row = {"id": f"q{number}", "image": image_path(number % num_images), "conversations": turns}
            last = number == start + count - 1
            file.write(json.dumps(row, ensure_ascii=False) + (("]" if last else ", ") if as_list else "\n"))
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))
    return path


def measure_file(path: Path) -> None:
    """Print times to index and to open, and the private memory of processes that read."""
    print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
    time.sleep(2.1)  # an index of a file younger than that is not trusted without hashing the file
    for what in ("first open (digest, scan, copy, save)", "open with the saved index"):
        print(f"  {what}: {in_process('spawn', opened, path)}")
    file = RecordFile(path)
    for method in ("fork", "spawn"):
        print(f"  {NUM_READ} random records in a worker ({method}): {in_process(method, read, file)}")


def measure_check(folder: Path, *, decode: bool) -> None:
    """Print the time of `check` over a JSONL training split and its images."""
    train, test = (
        RecordSource(folder / name, task="T", image_root=folder / "img")
        for name in ("train.jsonl", "test.jsonl")
    )
    task = Task("T", AnswerFormat.SHORT, scorer("exact"), test=test, train=train)
    figures = Figures()
    report = check_task(task, decode_images=decode)
    print(f"check, images {'decoded' if decode else 'looked up'}: {figures.read()}")
    print(f"  {report.lines()[0]}")


def opened(path: Path) -> None:
    """Open a file."""
    len(RecordFile(path))


def read(file: RecordFile) -> None:
    """Read random records."""
    for index in np.random.default_rng(1).integers(0, len(file), NUM_READ):
        file[int(index)]


class Figures:
    """Time and private memory since its construction."""

    def __init__(self) -> None:
        self.began, self.cpu, self.memory = time.perf_counter(), cpu_seconds(), private_memory()

    def read(self) -> str:
        """The figures as text."""
        seconds, cpu = time.perf_counter() - self.began, cpu_seconds() - self.cpu
        return f"{seconds:.2f} s ({cpu:.2f}), {private_memory() - self.memory:+.1f} MB private memory"


def in_process(method: str, action: Callable[[Any], None], argument: object) -> str:
    """Run in a new process; return its figures."""
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    process = context.Process(target=timed, args=(action, argument, answers))
    process.start()
    answer: str = answers.get()
    process.join()
    return answer


def timed(action: Callable[[Any], None], argument: object, answers: Any) -> None:
    """Body of the process."""
    figures = Figures()
    action(argument)
    answers.put(figures.read())


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def private_memory() -> float:
    """Memory that this process shares with no other, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


if __name__ == "__main__":
    main()
