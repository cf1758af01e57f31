"""A stream of full size through a model that does nothing: what everything beside the model costs.

    python benchmarks/scale.py [--records 600000] [--tests 200000] [--stages 32] [--json FILE]

A real `fit` with evaluation after every stage: records are indexed, checked, drawn, read, tokenised and
batched, steps are taken and logged, stages stored, answers scored and written. The model's passes give zeros
and one word. Records have no images: decoding them is `records.py`'s and the loader workers' matter. All of
it in one process without workers, so a run on a GPU has most of this beside its steps and not between them.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from clock import Clock, Functions
from records import WORDS
from rounds import machine, options, write_json
from torch import Tensor

from callbacks import StageEvaluation
from lit_cvit.backbones import Tiny
from lit_cvit.data.batches import EvalBuilder, TrainBuilder
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import AnswerFormat, Batch, Benchmark, Task
from lit_cvit.methods import SeqLoRA
from lit_cvit.metrics.scoring import scorer
from lit_cvit.run import RunFolder, Writer
from lit_cvit.stream.trainer import ContinualTrainer

FUNCTIONS: Functions = {
    "planning, with all checks": [(ContinualTrainer, "plan_run")],
    "training": [(ContinualTrainer, "_fit_stage")],
    "  batches": [(TrainBuilder, "__call__")],
    "evaluation": [(StageEvaluation, "on_stage_saved")],
    "  lengths": [(ContinualDataModule, "eval_plan")],
    "  batches of prompts": [(EvalBuilder, "__call__")],
    "  predictions written": [(RunFolder, "write_predictions")],
    "files written, in all": [(Writer, "write_bytes")],
}


class Nothing(Tiny):
    """`tiny` whose decoder is never run."""

    def forward_hidden(self, batch: Batch) -> Tensor:
        return torch.zeros(*batch.inputs["input_ids"].shape, self.config.text_config.hidden_size)

    def generate(self, batch: Batch, *, max_new_tokens: int, on_drop: object = None) -> list[str]:
        return ["yes"] * len(batch)


def make_task(folder: Path, number: int, num_train: int, num_test: int) -> Task:
    """Write a task's records and open them."""
    parts = {}
    for split, count in (("train", num_train), ("test", num_test)):
        path = folder / f"{split}{number}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for row in range(count):
                value = f"Why does {WORDS} {split} {row}?\nAnswer in one word."
                turns = [
                    {"from": "human", "value": value},
                    {"from": "gpt", "value": "no" if row % 2 else "yes"},
                ]
                file.write(json.dumps({"id": f"{split}{number}-{row}", "conversations": turns}) + "\n")
        parts[split] = RecordSource(path, task=f"T{number}", image_root=folder)
    return Task(f"T{number}", AnswerFormat.SHORT, scorer("exact"), test=parts["test"], train=parts["train"])


def main() -> None:
    """Make the records, fit and print."""
    parser = options(__doc__)
    parser.add_argument("--records", type=int, default=600_000)
    parser.add_argument("--tests", type=int, default=200_000)
    parser.add_argument("--stages", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (args.records // args.stages, args.tests // args.stages)
        tasks = tuple(make_task(folder, number, *sizes) for number in range(1, args.stages + 1))
        data = ContinualDataModule(batch_size=args.batch, eval_batch_size=args.batch)
        vars(data)["benchmark"] = Benchmark("large", tasks)
        trainer = ContinualTrainer(
            run_root=str(folder / "runs"), accelerator="cpu", callbacks=[StageEvaluation(predictions="last")]
        )
        clock = Clock()
        start, cpu = time.perf_counter(), time.process_time()
        with clock.watching(FUNCTIONS):
            trainer.fit(SeqLoRA(Nothing(), rank=8, alpha=16), datamodule=data)
        total, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = sizes[1] * args.stages * (args.stages + 1) // 2
    steps = len(clock.steps)
    print(f"{total / 60:.1f} minutes in all, {cpu / 60:.1f} of a processor; peak {peak / 2**20:.0f} MiB")
    print(f"{steps} steps, {answers} answers")
    for part, seconds in clock.totals.items():
        print(f"{part:28} {seconds / 60:8.2f} min {100 * seconds / total:6.1f} %")
    found = {"seconds": total, "cpu": cpu, "parts": clock.totals}
    found |= {"steps": steps, "answers": answers, "peak": peak}
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
