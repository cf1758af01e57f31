"""What a training step costs beside the model: measuring answer tokens once, and dealing micro-batches.

    python benchmarks/bookkeeping.py [--records 600000] [--ranks 8] [--accumulate 8] [--batch_size 8]

Rows are made up in a temporary folder (about 0.25 GB) that is removed afterwards: half of them have a short
answer, as visual questions have, half a caption of their own. Times are given as `wall (CPU)` seconds: on a
busy machine the first says little. Ranks are simulated one after the other, in this process.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

# The figures are those of one core; it is read when the tokenizer is imported.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from lit_cvit.backbones import Tiny
from lit_cvit.data.answer_tokens import AnswerTokens
from lit_cvit.data.measured import Measured
from lit_cvit.data.memory import SubsetSource
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.sampling import TrainBatchSampler
from lit_cvit.data.stage import UnionSource
from lit_cvit.data.tasks import Encoder

INSTRUCTION = "Answer the question using a single word or phrase."
WORDS = "red bicycle leans near a wooden door while two dogs watch from under that narrow bench"
SHORT = ("yes", "no", "two", "red", "dog", "on the table", "frisbee", "to the left", "blue and white")


def main() -> None:
    """Make the rows and print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=600_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = make_records(Path(folder) / "train.jsonl", args.records)
        source = RecordSource(path, task="T", instructions=(INSTRUCTION,), image_root=Path(folder))
        tokens = measure(source, Tiny().encoder)
        for rank in range(args.ranks):
            deal(tokens, source, rank, args)


def make_records(path: Path, count: int) -> Path:
    """Write LLaVA training rows as JSONL."""
    draw, known = np.random.default_rng(0), WORDS.split()
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = " ".join(draw.permutation(known)[:14])
            answer = SHORT[number % len(SHORT)] if number % 2 else f"{words.capitalize()} {number}."
            turns = [
                {"from": "human", "value": f"<image>\nWhy does {words} {number}?\n{INSTRUCTION}"},
                {"from": "gpt", "value": answer},
            ]
            row = {"id": f"q{number}", "image": f"{number % 5000}.jpg", "conversations": turns}
            file.write(json.dumps(row) + "\n")
    return path


def measure(source: RecordSource, encoder: Encoder) -> AnswerTokens:
    """Print the time to measure the answer tokens, of which reading the records is a part."""
    began = clock()
    for row in range(len(source)):
        source.sample(row)
    print(f"{len(source)} records read: {since(began)}")
    tokens, began = AnswerTokens(encoder, Measured()), clock()
    counts = tokens.of(source)
    print(f"answer tokens measured, {int(counts.sum())} in all: {since(began)}")
    return tokens


def deal(tokens: AnswerTokens, source: RecordSource, rank: int, args: argparse.Namespace) -> None:
    """Print the time that a rank's micro-batches of an epoch take before they are read and encoded."""
    # In two parts, as a stage with replayed rows has them.
    both = UnionSource((source, SubsetSource(source, tuple(range(0, len(source), 10)))))
    began, slowest, total, last = clock(), 0.0, 0, time.perf_counter()
    sampler = TrainBatchSampler(
        len(both),
        args.batch_size,
        args.batch_size * args.accumulate * args.ranks,
        seed=0,
        stage=1,
        rank=rank,
        world_size=args.ranks,
        answer_tokens=lambda epoch: tokens.of(both, epoch),
    )
    for micro in sampler:
        now = time.perf_counter()
        # The first one has the order of the epoch in it.
        slowest, last = max(slowest, now - last if total else 0.0), now
        total += micro.place.ends_step
    cost = (clock()[1] - began[1]) / len(sampler) * 1e3
    print(
        f"rank {rank}: {len(sampler)} micro-batches, {total} steps: {since(began)}; each {cost:.4f} ms of "
        f"CPU, the slowest but the first {slowest * 1e3:.2f} ms"
    )


def clock() -> tuple[float, float]:
    """Wall and CPU time in seconds."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> str:
    """What went by, as text."""
    now = clock()
    return f"{now[0] - began[0]:.2f} s ({now[1] - began[1]:.2f})"


if __name__ == "__main__":
    main()
