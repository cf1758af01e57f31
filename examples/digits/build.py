"""Build a folder of records and images from scikit-learn's scanned digits, as input for `custom`.

    python examples/digits/build.py --out digits [--train 600 --test 100]

Three tasks in LLaVA's format: naming a digit with a word, odd or even by letter, the larger of two digits as
a figure. Training and test samples are made from different scans. The same arguments give the same folder.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
SIDE = 96
NUM_TEST_SCANS = 360
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMING = "Name the digit in the image with one word."
PARITY = "Answer with the option's letter from the given choices directly."
LARGER = "Answer the question with a single figure."

Row = tuple[tuple[int, ...], str, str]
"""Scans of a sample (one, or two side by side), the user's text, the answer."""


def naming(scans: Sequence[int], labels: np.ndarray, count: int, rng: random.Random) -> list[Row]:
    """Name the digit with a word."""
    return [((scan,), NAMING, WORDS[labels[scan]]) for scan in rng.sample(scans, count)]


def parity(scans: Sequence[int], labels: np.ndarray, count: int, rng: random.Random) -> list[Row]:
    """Say by letter whether the digit is even or odd."""
    text = f"Is the digit even or odd?\nA. even\nB. odd\n{PARITY}"
    return [((scan,), text, "AB"[labels[scan] % 2]) for scan in rng.sample(scans, count)]


def larger(scans: Sequence[int], labels: np.ndarray, count: int, rng: random.Random) -> list[Row]:
    """Give the larger of two different digits as a figure."""
    pairs: dict[tuple[int, ...], int] = {}
    while len(pairs) < count:
        left, right = rng.sample(scans, 2)
        if labels[left] != labels[right]:
            pairs[left, right] = max(labels[left], labels[right])
    text = f"Which of the two digits is larger?\n{LARGER}"
    return [(pair, text, str(answer)) for pair, answer in pairs.items()]


TASKS: dict[str, Callable[[Sequence[int], np.ndarray, int, random.Random], list[Row]]] = {
    "naming": naming,
    "parity": parity,
    "larger": larger,
}


def draw(pixels: np.ndarray, scans: tuple[int, ...]) -> Image.Image:
    """Enlarge the 8 x 8 scans (0 to 16, bright on dark) and put them side by side."""
    image = Image.new("L", (SIDE * len(scans), SIDE))
    for position, scan in enumerate(scans):
        small = Image.fromarray((pixels[scan] * 255 / 16).round().astype(np.uint8))
        image.paste(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (SIDE * position, 0))
    return image


def record(split: str, number: int, image: str, text: str, answer: str) -> dict[str, Any]:
    """One row in LLaVA's format for the split."""
    if split == "test":
        return {"question_id": f"test-{number}", "image": image, "text": text, "answer": answer}
    turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": answer}]
    return {"id": f"train-{number}", "image": image, "conversations": turns}


def build(out: Path, *, num_train: int = 600, num_test: int = 100) -> None:
    """Write images, records and `digits.yaml` to `out`, which must be absent or empty.

    Raises:
        ValueError: `out` has content, or more samples are wanted than there are scans.
    """
    digits = load_digits()
    scans = list(range(len(digits.target)))
    random.Random("split").shuffle(scans)
    pools = {"train": scans[NUM_TEST_SCANS:], "test": scans[:NUM_TEST_SCANS]}
    wanted = {"train": num_train, "test": num_test}
    for split, count in wanted.items():
        if not 1 <= count <= len(pools[split]):
            raise ValueError(f"--{split} must be 1 to {len(pools[split])}, got {count}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty folder; name a new one")
    (out / "images").mkdir(parents=True, exist_ok=True)
    for task, make in TASKS.items():
        for split, count in wanted.items():
            rows = []
            made = make(pools[split], digits.target, count, random.Random(f"{task} {split}"))
            for number, (used, text, answer) in enumerate(made):
                name = f"{'-'.join(f'{scan:04d}' for scan in used)}.png"
                if not (out / "images" / name).exists():
                    draw(digits.images, used).save(out / "images" / name)
                rows.append(record(split, number, name, text, answer))
            (out / f"{task}-{split}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(HERE / "digits.yaml", out / "digits.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the folder that the command line asks for."""
    parser = argparse.ArgumentParser(description="Build the digits example.", allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, absent or empty")
    parser.add_argument("--train", type=int, default=600, help="training samples per task")
    parser.add_argument("--test", type=int, default=100, help="test samples per task")
    args = parser.parse_args(argv)
    try:
        build(args.out, num_train=args.train, num_test=args.test)
    except ValueError as error:
        parser.error(str(error))
    sizes = f"{len(TASKS)} tasks of {args.train} + {args.test} samples"
    print(f"wrote {sizes}; benchmark: {args.out / 'digits.yaml'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
