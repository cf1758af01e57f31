"""Whether to keep the image features of a frozen tower: its share of an evaluation, and what reading takes.

    python benchmarks/image_features.py [--samples 64] [--rounds 5] [--json FILE]
    python benchmarks/image_features.py --width 1024 --layers 8 --samples 16

Without `--width` the model is `tiny`; with it a LLaVA of random weights whose tower has LLaVA-1.5's
proportions to the decoder, a quarter of the width and three quarters of the layers, and 4 tokens an answer.
Measured are the tower's share of a pass, the bytes of an image's features, and the time to compute them
beside that of reading them from a file, both from the disk and from the system's cache of it. What can be
kept is what the tower gives before the projector, which may be adapted.

Below that come shares in real models. They are arithmetic, not measured: operations of products and attention
by the models' sizes. As decoding takes longer than its operations say, the shares are upper bounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import machine, on_device, options, synchronise, timed, write_json
from wide import wide_llava

from lit_cvit.backbones import Backbone, Llava, Tiny
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.tasks import Task
from lit_cvit.evaluation import evaluate_task
from lit_cvit.methods import ContinualMethod, SeqLoRA

TASK, SHORT = "TextVQA", 4


@dataclass(frozen=True)
class Layers:
    """Sizes of a transformer.

    Attributes:
        number: Layers.
        width: Width.
        ffn: Elements of the matrices of a layer's feed-forward part.
        kv_width: Width of keys and values together.
    """

    number: int
    width: int
    ffn: int
    kv_width: int

    def operations(self, positions: int, context: int) -> float:
        """Of so many positions, each of which attends to `context` ones on average."""
        weights = self.width * (2 * self.width + self.kv_width) + self.ffn
        return positions * self.number * (2.0 * weights + 4 * context * self.width)


@dataclass(frozen=True)
class Model:
    """A published model, as far as its evaluation costs.

    Attributes:
        tower: Its tower.
        decoder: Its decoder.
        patches: Positions of the tower for an image, by tile.
        tiles: Tiles of an image.
        image: Positions of the decoder for an image.
    """

    tower: Layers
    decoder: Layers
    patches: int
    tiles: int
    image: int

    def share(self, *, text: int, tokens: int) -> float:
        """The tower's share of the operations of an answer."""
        own = self.tower.operations(self.patches * self.tiles, self.patches)
        prompt = self.image + text
        rest = self.decoder.operations(prompt, prompt // 2) + self.decoder.operations(tokens, prompt)
        return own / (own + rest)

    @property
    def kept_bytes(self) -> int:
        """Bytes of an image's features in 16 bits."""
        return 2 * self.tower.width * self.patches * self.tiles


CLIP = Layers(24, 1024, 8 * 1024**2, 2 * 1024)
QWEN_TOWER = Layers(32, 1280, 8 * 1280**2, 2 * 1280)
VICUNA = Layers(32, 4096, 3 * 4096 * 11008, 2 * 4096)
MODELS = {
    "LLaVA-1.5-7B": Model(CLIP, VICUNA, 576, 1, 576),
    "LLaVA-NeXT-7B, 5 tiles": Model(CLIP, VICUNA, 576, 5, 2880),
    # An image of 640 x 480: patches of 14 x 14, joined 2 x 2.
    "Qwen2-VL-7B, 640 x 480": Model(QWEN_TOWER, Layers(28, 3584, 3 * 3584 * 18944, 1024), 1564, 1, 391),
    "Qwen2-VL-2B, 640 x 480": Model(QWEN_TOWER, Layers(28, 1536, 3 * 1536 * 8960, 512), 1564, 1, 391),
}


@contextlib.contextmanager
def tower_seconds(backbone: Backbone, device: str) -> Iterator[list[float]]:
    """Seconds of every call of the tower inside the block."""
    starts: list[float] = []
    seconds: list[float] = []

    def begin(*_: Any) -> None:
        synchronise(device)
        starts.append(time.perf_counter())

    def end(*_: Any) -> None:
        synchronise(device)
        seconds.append(time.perf_counter() - starts.pop())

    handles = [
        backbone.vision_tower.register_forward_pre_hook(begin),
        backbone.vision_tower.register_forward_hook(end),
    ]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def shares(method: ContinualMethod, data: ContinualDataModule, task: Task, args: argparse.Namespace) -> Any:
    """The tower's share of a pass, in every round, and its seconds an image."""
    found: list[float] = []
    compute: list[float] = []

    def answer() -> None:
        evaluate_task(method, data, task, device=torch.device(args.device))

    answer()
    for _ in range(args.rounds):
        with tower_seconds(method.backbone, args.device) as seconds:
            whole = timed(answer, args.device)
        found.append(sum(seconds) / whole)
        compute.append(sum(seconds) / len(task.test))
    return found, compute


def reading(method: ContinualMethod, task: Task, rounds: int, device: str) -> dict[str, Any]:
    """Bytes of an image's features in 16 bits, and seconds to read them from the disk and from its cache."""
    batch = method.backbone.encode([task.test.sample(0)], with_answers=False).to(torch.device(device))
    pixels = batch.inputs["pixel_values"].to(next(method.backbone.vision_tower.parameters()).dtype)
    with torch.no_grad():
        features = method.backbone.vision_tower(pixels).last_hidden_state[:, 1:]
    array = features.half().cpu().numpy()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.npy" for number in range(16)]
        for path in paths:
            np.save(path, array)
        return {
            "bytes": array.nbytes,
            "seconds": {
                "disk": [_read(paths, device, before=_forget) for _ in range(rounds)],
                "cache": [_read(paths, device, before=lambda path: None) for _ in range(rounds)],
            },
        }


def _read(paths: list[Path], device: str, *, before: Callable[[Path], None]) -> float:
    """Seconds for one of the files, onto the device."""
    for path in paths:
        before(path)
    return timed(lambda: [torch.from_numpy(np.load(p)).to(device) for p in paths], device) / len(paths)


def _forget(path: Path) -> None:
    """Have the system drop what it holds of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make_backbone(args: argparse.Namespace, folder: Path) -> Backbone:
    if not args.width:
        return Tiny()
    tower = (args.width // 4, max(1, 3 * args.layers // 4))
    return Llava(str(wide_llava(folder, args.width, args.layers, tower=tower)), dtype=args.dtype)


def main() -> None:
    """Measure and print."""
    parser = on_device(options(__doc__))
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=8, help="tasks of the stream, for the arithmetic")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        method = SeqLoRA(make_backbone(args, Path(folder)), rank=32, alpha=64)
        method.prepare()
        data = ContinualDataModule(settings={"num_test": args.samples}, eval_batch_size=64)
        data.attach(method.backbone.encoder)
        method.begin_stage(data.stages(seed=0)[0])
        task = data.benchmark.task(TASK)
        task = replace(task, max_new_tokens=SHORT) if args.width else task
        share, compute = shares(method, data, task, args)
        read = reading(method, task, args.rounds, args.device)
    middle = statistics.median
    print(f"tower's share of a pass over {TASK}: {100 * middle(share):.1f} %")
    ms = {name: 1000 * middle(values) for name, values in {"compute": compute, **read["seconds"]}.items()}
    print(
        f"an image: {read['bytes'] / 2**20:.3f} MiB; {ms['compute']:.2f} ms to compute, {ms['disk']:.2f} to "
        f"read from the disk, {ms['cache']:.2f} from its cache"
    )
    print_arithmetic(args, middle(share))
    write_json(args.json, args, {"share": share, "compute": compute, "read": read})


def like_measured(args: argparse.Namespace) -> Model:
    """The model that was built (`build_llava_folder`), to hold the arithmetic against what was measured."""
    tower, number = args.width // 4, max(1, 3 * args.layers // 4)
    decoder = Layers(args.layers, args.width, 6 * args.width**2, 2 * args.width)
    return Model(Layers(number, tower, 4 * tower**2, 2 * tower), decoder, 576, 1, 576)


def print_arithmetic(args: argparse.Namespace, measured: float) -> None:
    """What a stream would save at most: every image computed once, and read in no time."""
    # The images of task t are asked about after each of the stages t .. T.
    again = 1 - 2 / (args.tasks + 1)
    passes = args.tasks * (args.tasks + 1) // 2
    print(f"{args.tasks} tasks: {passes} passes, {args.tasks} of them the first over their images")
    print(f"saved of all at most, in this model: {100 * measured * again:.1f} %")
    models = {"this model": like_measured(args), **MODELS} if args.width else MODELS
    print("by arithmetic, 60 positions of text   tower, short answers  captions   saved    MiB an image")
    for name, model in models.items():
        short, caption = (model.share(text=60, tokens=tokens) for tokens in (SHORT, 30))
        print(
            f"{name:36}  {100 * short:18.1f} %  {100 * caption:6.1f} %  {100 * short * again:4.1f} %  "
            f"{model.kept_bytes / 2**20:12.1f}"
        )


if __name__ == "__main__":
    main()
