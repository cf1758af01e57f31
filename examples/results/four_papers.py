"""The four papers' methods side by side on the three miniature streams.

    python examples/results/four_papers.py run &      # as many processes as there are cores
    python examples/results/four_papers.py run
    python examples/results/four_papers.py table

A cell that is finished is skipped, a cell that was cut off continues with its next stage. Captions count by
exact content in every average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from cells import Cell, command
from tables import Runs, cost, find, table, with_content

from lit_cvit.report import run_summary
from lit_cvit.run import RunFolder

# Seeds by stream: of adapters, order and batches; the drawn scenes are the same.
SEEDS = {"cvit": (0, 1, 2), "ucit": (0, 1), "coin": (0, 1)}
# A projector that trains as a whole, and for all tasks: at a tenth of the rate, as in the papers' scripts.
PROJECTOR = ("--model.optimizer.projector_learning_rate", "5.0e-4")
# On so small a model, pooled texts of different tasks are nearly parallel as they are.
POOLED = ("--model.pool_norm", "layer", *PROJECTOR)
METHODS: dict[str, tuple[str, ...]] = {
    "SeqLoRA": ("--model", "SeqLoRA"),
    "SMoLoRA": ("--model", "SMoLoRA"),
    # Where layers expand and merge matters at test alone; `hide_layers.py` answers for other places.
    "HiDe-all": ("--config", "methods/hide", "--model.expand", "all"),
    "ProgLoRA-dynamic": ("--config", "methods/prog_lora_dynamic", *POOLED),
    "LCIA": ("--config", "methods/lcia"),
    "ProgLoRA-static": ("--config", "methods/prog_lora_static", *PROJECTOR),
    "DirLoRA": ("--model", "DirLoRA"),
}
READS_TASK_ID = ("ProgLoRA-static", "DirLoRA")
# ProgLoRA's Table 3.
RECALL: dict[str, tuple[str, ...]] = {
    "ProgLoRA-static-w1": (*METHODS["ProgLoRA-static"], "--model.static_weights", "ones"),
    "ProgLoRA-static-random": ("--config", "methods/prog_lora_static_random", *PROJECTOR),
    "ProgLoRA-static-none": ("--model", "ProgLoRAStatic", "--model.recall", "none", *PROJECTOR),
    "ProgLoRA-dynamic-none": ("--config", "methods/prog_lora_no_recall", *POOLED),
}
# LCIA's ablation, with small batches: 2,400 samples make 300 steps a stage.
EMA_STUDY = ("--config", "studies/coin_mini", "--data.batch_size", "8", "--data.settings.num_train", "2400")
EMA: dict[str, tuple[str, ...]] = {
    "LoRA": METHODS["SeqLoRA"],
    "stable": (*METHODS["SeqLoRA"], "--trainer.callbacks+", "DynamicEMA", "--trainer.callbacks.beta", "0.99"),
    "dynamic": (*METHODS["SeqLoRA"], "--trainer.callbacks+", "DynamicEMA"),
    "LCIA": METHODS["LCIA"],
}
COLUMNS = {
    "AP = Last": "AP",
    "MAP": "MAP",
    "Avg (HiDe)": "HiDe Avg",
    "MAA (ProgLoRA)": "ProgLoRA MAA",
    "BWT": "BWT",
    "BWT (ProgLoRA)": "ProgLoRA BWT",
    "Forgetting (LCIA)": "LCIA Forgetting",
    "New.ACC (LCIA)": "LCIA New.ACC",
}


def cells() -> Iterator[Cell]:
    """All runs, the most telling first."""
    for stream in ("ucit", "coin", "cvit"):
        for seed in SEEDS[stream]:
            for name, arguments in METHODS.items():
                yield _cell(stream, name, arguments, seed)
    for seed in SEEDS["ucit"]:
        for name, arguments in RECALL.items():
            yield _cell("ucit", name, arguments, seed)
    for seed in SEEDS["coin"]:
        for name, arguments in EMA.items():
            yield Cell(f"ema-{name}-{seed}", (*EMA_STUDY, *arguments, "--seed_everything", str(seed)))


def _cell(stream: str, name: str, arguments: tuple[str, ...], seed: int) -> Cell:
    study = ("--config", f"studies/{stream}_mini")
    return Cell(f"{stream}-{name}-{seed}", (*study, *arguments, "--seed_everything", str(seed)))


def _value(name: str, run: RunFolder) -> float | None:
    return run_summary(with_content(run.matrix())).get(name)


def _cell_score(stage: int | None, task: str, run: RunFolder) -> float | None:
    matrix = with_content(run.matrix())
    row = matrix.stages.index(task) if stage is None else stage
    return matrix.scores[row][matrix.tasks.index(task)]


def _dynamic_share(run: RunFolder) -> float | None:
    """Mean over stages of the updates whose weight was dynamic, in percent."""
    last = run.load_stage(run.stages_done()[-1]).extra["callbacks"]
    shares = last.get("DynamicEMA", {}).get("dynamic_share", {}).values()
    return 100 * sum(shares) / len(shares) if shares else None


def write_tables(root: Path, out: TextIO) -> None:
    """Write every table whose cells are finished."""
    columns: dict[str, Callable[[RunFolder], float | None]] = {
        shown: partial(_value, name) for shown, name in {**COLUMNS, "MIF": "MIF"}.items()
    }
    for stream, names in (dict.fromkeys(SEEDS, (*METHODS, *RECALL)) | {"ema": (*EMA,)}).items():
        found = {name: find(root, f"{stream}-{name}") for name in names}
        found = {name: runs for name, runs in found.items() if runs.runs}
        if not found:
            continue
        if stream == "ema":
            columns["dynamic updates (%)"] = _dynamic_share
        out.write(f"\n### `{stream}`\n\n" + _rows(found, columns))
        tasks = next(iter(found.values())).runs[0].record.stream
        for when, stage in (("after their own stage", None), ("at the end", -1)):
            out.write(f"\nTasks {when}:\n\n")
            out.write(_rows(found, {task: partial(_cell_score, stage, task) for task in tasks}))
    out.write("\n" + cost(root))


def _rows(found: dict[str, Runs], columns: dict[str, Callable[[RunFolder], float | None]]) -> str:
    rows = []
    for name, runs in found.items():
        label = " (task id)" if name.startswith(READS_TASK_ID) else ""
        rows.append([name + label, str(len(runs.runs)), *(runs.over_seeds(f) for f in columns.values())])
    return table(["method", "seeds", *columns], rows)


if __name__ == "__main__":
    command(cells(), write_tables, "runs/four_papers", __doc__.splitlines()[0])
