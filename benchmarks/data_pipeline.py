"""Records per second from the record file to the batch: each part alone, and the loader with its workers.

    python benchmarks/data_pipeline.py [--workers 0 1 2 4] [--backbones llava] [--json FILE]

A record file with photographs (JPEG, 640 x 480, made up of smoothed noise) goes through a stage's own loader,
with the encoder of `tiny` and with that of a LLaVA-1.5 (CLIP's processor for 336 pixels, images padded to
squares). Before any time is taken, batches that workers make are compared with those of the main process.
The parts are those of the loader without workers, by the clock on their functions (`clock.py`). The loaders
take turns in every round; their rates are those behind the first batch of each worker, since workers start
once an epoch. CPU milliseconds a record are of all processes together, their start included: where the cores
are busy with other work, they say more than the rates do. Image files are read from the system's cache, so
what a slow disk adds is in none of the figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import Clock, Functions
from PIL import Image
from records import make_images, make_records
from rounds import machine, options, ratio, shown, timed, write_json

from lit_cvit.backbones import Backbone, Llava, Tiny, encode
from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.backbones.encode import SampleEncoder
from lit_cvit.data.batches import TrainBuilder
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.images import FileImage
from lit_cvit.data.records.file import RecordFile
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import AnswerFormat, Batch, Benchmark, Encoder, Task
from lit_cvit.metrics.scoring import scorer

INSTRUCTION = "Answer in one word."
WIDTH, HEIGHT, NUM_IMAGES = 640, 480, 64

Loaders = dict[int, Iterable[Batch]]


def photograph() -> np.ndarray:
    """(480, 640, 3) bytes that JPEG packs like a photograph: coarse shapes under a fine grain."""
    draw = np.random.default_rng(0)
    layers = [
        (draw.normal(size=(HEIGHT // scale, WIDTH // scale, 3)), weight)
        for scale, weight in ((80, 50), (20, 24), (5, 12), (2, 14))
    ]
    return np.clip(128 + sum(weight * resized(layer) for layer, weight in layers), 0, 255).astype(np.uint8)


def resized(noise: np.ndarray) -> np.ndarray:
    """Noise at the size of the photograph, smooth between its points."""
    colours = [
        Image.fromarray(noise[..., colour].astype(np.float32)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        for colour in range(3)
    ]
    return np.stack([np.asarray(each) for each in colours], axis=-1)


def make_task(folder: Path, num_records: int) -> Task:
    """Record files and photographs, as a task."""
    make_images(folder / "img", NUM_IMAGES, photograph())
    train, test = (
        RecordSource(
            make_records(folder / f"{split}.jsonl", count, NUM_IMAGES, start=start),
            task="T",
            instructions=(INSTRUCTION,),
            image_root=folder / "img",
        )
        for split, count, start in (("train", num_records, 0), ("test", 1, num_records))
    )
    return Task("T", AnswerFormat.SHORT, scorer("exact"), test=test, train=train, instructions=(INSTRUCTION,))


def loader(task: Task, encoder: Encoder, batch_size: int, workers: int) -> Iterable[Batch]:
    """The training loader of a stage that learns the task."""
    data = ContinualDataModule(batch_size=batch_size, num_workers=workers)
    vars(data)["benchmark"] = Benchmark("photographs", (task,))
    data.attach(encoder)
    data.begin_stage(data.stages(seed=0)[0])
    return data.train_dataloader()


def require_equal(one: Batch, other: Batch) -> None:
    """Check that two batches are the same."""
    assert one.inputs.keys() == other.inputs.keys()
    pairs = [(one.inputs[name], other.inputs[name]) for name in one.inputs]
    pairs += [(one.answer_mask, other.answer_mask), (one.prompt_mask, other.prompt_mask)]
    assert all(torch.equal(left, right) for left, right in [*pairs, (one.image_rows, other.image_rows)])
    assert (list(one.samples), one.indices, one.place) == (list(other.samples), other.indices, other.place)
    assert (one.step_tokens, one.step_samples) == (other.step_tokens, other.step_samples)


def use_up(batches: Iterable[Batch]) -> None:
    """Go through a loader as a training loop does; its workers end with it."""
    for batch in batches:
        assert batch.step_tokens


def watched(processor: Any) -> Functions:
    """The functions by part; `batch` holds all others, `sample` the record, `image` its decoding."""
    owner = next(family for family in type(processor).__mro__ if "__call__" in vars(family))
    return {
        "batch": [(TrainBuilder, "__call__")],
        "record": [(RecordFile, "__getitem__")],
        "sample": [(RecordSource, "sample")],
        "decode": [(FileImage, "open")],
        "image": [(SampleEncoder, "_images")],
        "scaled": [(encode, "scaled")],
        "processor": [(owner, "__call__")],
        "tokens": [(SampleEncoder, "_row")],
    }


def parts(batches: Iterable[Batch], encoder: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of every part in every round, without what lies within it."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        clock = Clock()
        with clock.watching(watched(encoder.image_processor)):
            use_up(batches)
        whole = clock.totals
        alone = {
            "record by index": whole["record"],
            "record parsed": whole["sample"] - whole["record"],
            "image opened, decoded": whole["decode"],
            "image framed": whole["image"] - whole["decode"],
            "image scaled": whole["scaled"],
            "image processor": whole["processor"],
            "text, tokens": whole["tokens"],
            "collating": whole["batch"]
            - sum(whole[name] for name in ("sample", "image", "scaled", "processor", "tokens")),
        }
        for part, seconds in alone.items():
            found.setdefault(part, []).append(seconds)
    return found


def steady(batches: Iterable[Batch], skipped: int) -> float:
    """Seconds a batch, behind the first ones."""
    ends = [time.perf_counter() for batch in batches if batch.step_tokens]
    return (ends[-1] - ends[skipped - 1]) / (len(ends) - skipped)


def cpu_ms(batches: Iterable[Batch], num_records: int) -> float:
    """CPU milliseconds a record, of this process and the workers."""
    began = sum(os.times()[:4])
    use_up(batches)
    return 1000 * (sum(os.times()[:4]) - began) / num_records


def measure(task: Task, encoder: Encoder, args: argparse.Namespace) -> dict[str, Any]:
    """Compare, measure, print."""
    made = {workers: loader(task, encoder, args.batch_size, workers) for workers in {0, 1, *args.workers}}
    for workers in args.workers:
        for one, other in zip(made[0], made[workers], strict=True):
            require_equal(one, other)
    alone = parts(made[0], encoder, args.rounds)
    total = sum(statistics.median(seconds) for seconds in alone.values())
    print(f"  {'part alone':24}{'records/s':>12}{'share, %':>10}")
    for part, seconds in alone.items():
        middle = statistics.median(seconds)
        print(f"  {part:24}{args.records / middle:12.0f}{100 * middle / total:10.1f}")
    loops: dict[str, list[float]] = {str(workers): [] for workers in made}
    for _ in range(args.rounds):
        for workers, batches in made.items():
            loops[str(workers)].append(steady(batches, max(workers, 1)))
    start = {
        workers: timed(lambda each=batches: next(iter(each))) for workers, batches in made.items() if workers
    }
    cpu = {workers: cpu_ms(batches, args.records) for workers, batches in made.items()}
    print(
        f"  {'workers':>8}  {'records/s':27}{'x one worker':24}{'CPU ms a record':>16}{'first batch, s':>16}"
    )
    for workers in made:
        rates = rates_of(loops[str(workers)], args.batch_size)
        scaling = ratio({"own": loops[str(workers)], "one": loops["1"]}, "one", "own")
        first = f"{start[workers]:16.2f}" if workers else f"{'-':>16}"
        print(f"  {workers:8}  {rates:27}{shown(scaling):24}{cpu[workers]:16.1f}{first}")
    return {"parts": alone, "loops": loops, "cpu": cpu, "first": start}


def rates_of(seconds: Sequence[float], batch_size: int) -> str:
    """Median and outer quartiles of records a second."""
    low, middle, high = statistics.quantiles([batch_size / each for each in seconds], n=4)
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def main() -> None:
    """Make the files and measure with every encoder."""
    parser = options(__doc__)
    parser.add_argument("--records", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--backbones", nargs="*", choices=["tiny", "llava"], default=["tiny", "llava"])
    parser.add_argument("--folder", help="where the temporary folder is made")
    args = parser.parse_args()
    print(machine())
    found = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        task = make_task(folder, args.records)
        sizes = [path.stat().st_size / 1000 for path in (folder / "img").rglob("*.jpg")]
        print(f"{NUM_IMAGES} images of {min(sizes):.0f}-{max(sizes):.0f} kB, {args.records} records an epoch")
        for chosen in args.backbones:
            backbone: Backbone = Tiny() if chosen == "tiny" else llava(folder / "llava")
            print(f"{chosen}:")
            found[chosen] = measure(task, backbone.encoder, args)
    write_json(args.json, args, found)


def llava(folder: Path) -> Llava:
    """A backbone that reads text and images as LLaVA-1.5 does; of its model only the config is looked at."""
    return Llava(
        str(build_llava_folder(folder, image_size=336, patch_size=14, max_length=2048)), image_aspect="pad"
    )


if __name__ == "__main__":
    main()
