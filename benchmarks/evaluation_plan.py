"""Cost of planning an evaluation: the lengths of a test split, and every rank's batches made from them.

    python benchmarks/evaluation_plan.py [--records 200000] [--images 2000] [--folder FOLDER]

A LLaVA-1.5, all of whose images take the same number of positions, and a Qwen2-VL, where the size of an image
decides: its header is read, once for each image of a split. The questions are about a few thousand made-up
files, as those of VQA data are; the last line says what the headers would cost if every record had a file of
its own.

Ranks are simulated one after the other in one process: the first measures and saves, the others unpickle what
the broadcast brings. Times are given as `wall (CPU)` seconds of one core: on a busy machine the first says
little. Files go into a temporary folder (about 0.1 GB) that is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

# One core; before the tokenizers are imported.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import transformers
from PIL import Image
from records import WORDS, Figures, cpu_seconds, image_path, make_records
from safetensors.numpy import save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lit_cvit.backbones import Backbone, Llava, Qwen2VL
from lit_cvit.backbones.build import build_processor, build_tokenizer
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.images import FileImage
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.sampling import EvalBatchSampler
from lit_cvit.data.tasks import AnswerFormat, Encoder, Task
from lit_cvit.metrics.scoring import scorer
from lit_cvit.run import RunFolder, RunRecord

BATCH = 64
# What the tokenizers are trained on: with it, prompts have about as many tokens as with a model's own.
TEXTS = [*WORDS.split(), Llava.system_prompt, "Why does it? Answer in one word. USER: ASSISTANT:"] * 50
LLAVA = ("<pad>", "<s>", "</s>", "<image>")
QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


def main() -> None:
    """Make the files and print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--folder", help="Where the temporary folder is made.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_images(folder / "img", args.images)
        make_records(folder / "test.jsonl", args.records, args.images)
        source = RecordSource(folder / "test.jsonl", task="T", image_root=folder / "img")
        task = Task("T", AnswerFormat.SHORT, scorer("exact"), test=source)
        for backbone in make_backbones(folder):
            measure(backbone, task, folder)
        measure_reading(task)
        measure_headers(folder / "img", args.images, args.records)


def make_images(folder: Path, count: int) -> None:
    """Write JPEG files of many sizes, 100 folders of them."""
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / image_path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = draw.integers(200, 800, 2)
        Image.new("RGB", (int(width), int(height)), "grey").save(path)


def make_backbones(folder: Path) -> tuple[Backbone, Backbone]:
    """A LLaVA and a Qwen2-VL that encode samples; an encoder needs no weights."""
    llava, qwen = folder / "llava", folder / "qwen"
    tokenizer = build_tokenizer(TEXTS, vocab_size=1000, special=LLAVA)
    image = tokenizer.convert_tokens_to_ids("<image>")
    transformers.LlavaConfig(image_token_index=image).save_pretrained(llava)
    build_processor(tokenizer, image_size=336, patch_size=14).save_pretrained(llava)
    tokenizer = build_tokenizer(TEXTS, vocab_size=1000, special=(*LLAVA, *QWEN))
    tokenizer.save_pretrained(qwen)
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    transformers.Qwen2VLConfig(image_token_id=image).save_pretrained(qwen)
    Qwen2VLImageProcessorPil().save_pretrained(qwen)
    for made in (llava, qwen):
        # A folder without any weights is refused.
        save_file({}, made / "model.safetensors")
    return Llava(str(llava)), Qwen2VL(str(qwen))


def measure(backbone: Backbone, task: Task, folder: Path) -> None:
    """Print what the plans of one split cost on 1 and on 8 ranks: first, later, and after a resume."""
    name, encoder = type(backbone).__name__, backbone.encoder
    num_tokens = len(encoder.tokenizer(encoder.prompt(task.test.sample(0)))["input_ids"])
    print(f"{name}, {len(task.test)} records of about {num_tokens} tokens of text")
    timed("digest of the encoder", encoder.digest)
    for world_size in (1, 8):
        run = RunFolder.create(folder / "runs", name, "{}\n", record=RunRecord(seed=0, config_digest=""))
        ranks = Ranks(encoder, run, world_size)
        timed(f"{world_size} rank(s), first pass", partial(ranks.plan, task))
        timed(f"{world_size} rank(s), a later pass", partial(ranks.plan, task))
        again = Ranks(encoder, run, world_size)
        timed(f"{world_size} rank(s), first pass after a resume", partial(again.plan, task))


class Ranks:
    """The ranks of a run, one after the other in this process."""

    def __init__(self, encoder: Encoder, run: RunFolder, world_size: int) -> None:
        self.modules = [ContinualDataModule(eval_batch_size=BATCH) for _ in range(world_size)]
        for data in self.modules:
            data.attach(encoder)
            data.measured.keep_in(run)
        self.sent = b""

    def plan(self, task: Task) -> None:
        """Plan on every rank, and make its batches."""
        for number, data in enumerate(self.modules):
            exchange = self.received if number else self.from_this
            with (
                mock.patch("lit_cvit.data.measured.rank", return_value=number),
                mock.patch("lit_cvit.data.measured.from_first", exchange),
            ):
                plan = data.eval_plan(task)
            list(EvalBatchSampler(plan, rank=number, world_size=len(self.modules)))

    def from_this(self, value: object) -> object:
        """Rank 0 sends what it has."""
        self.sent = pickle.dumps(value)
        return value

    def received(self, _: object) -> object:
        """The others get it."""
        return pickle.loads(self.sent)


def measure_reading(task: Task) -> None:
    """Print what remains in every plan's first pass however fast the tokenizer: reading the records."""
    figures = Figures()
    for index in range(len(task.test)):
        task.test.sample(index)
    print(f"reading the records alone: {figures.read()}")


def measure_headers(folder: Path, num_images: int, num_records: int) -> None:
    """Print what the headers of as many files as records would cost."""
    images = [FileImage(folder, image_path(number)) for number in range(num_images)]
    figures = Figures()
    for image in images:
        image.size()
    seconds = (cpu_seconds() - figures.cpu) * num_records / num_images
    print(f"headers of {num_images} files: {figures.read()}; {num_records} would take ({seconds:.1f}) s")


def timed(what: str, action: Callable[[], object]) -> None:
    """Do something and print its figures."""
    figures = Figures()
    action()
    print(f"  {what}: {figures.read()}", flush=True)


if __name__ == "__main__":
    main()
