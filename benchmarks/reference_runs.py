"""Reference runs: every method in small, with digests of its tensors, predictions and scores.

A refactoring leaves every number as it is. Record before it and compare after it, on the same machine:

    python benchmarks/reference_runs.py --out before
    python benchmarks/reference_runs.py --out after --compare before

`--checkout DIR` runs the code of another working tree. Cells that are already in `--out` are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
SMALL = [
    *("--data.tasks", "[ScienceQA, TextVQA, Flickr30k]"),
    *("--data.settings", "{num_train: 48, num_test: 12}"),
    *("--data.batch_size", "8", "--data.global_batch_size", "16"),
    *("--data.epochs", "2", "--data.eval_batch_size", "5"),
]
TWO_RANKS = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
ON_TWO_RANKS = ("smolora", "lcia", "prog_lora_static", "prog_lora_dynamic", "seq_lora_replay", "hide")


def cells() -> dict[str, list[str]]:
    """Arguments of `fit` by the name of the cell."""
    found = {"quickstart": ["--config", "quickstart"]}
    for path in sorted((ROOT / "configs" / "methods").glob("*.yaml")):
        found[path.stem] = ["--config", "quickstart", "--config", f"methods/{path.stem}", *SMALL]
    for name in ON_TWO_RANKS:
        found[f"{name}-2-ranks"] = [*found[name], "--data.batch_size", "4", *TWO_RANKS]
    found["smolora-multi"] = [*found["smolora"], "--data.instructions", "multi", "--model.dropout", "0.1"]
    return found


def run_cell(name: str, arguments: list[str], out: Path, checkout: Path) -> None:
    """Run `fit` for a cell, leaving its run folder in `out`."""
    command = [sys.executable, "-m", "lit_cvit", "fit", *arguments, "--name", name]
    command += ["--run_root", str(out.resolve())]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=checkout, env=environment, stdout=log, stderr=log, check=True)


def digests(run: Path) -> dict[str, Any]:
    """Digests of a run: tensors and predictions by stage, the loss of every step, and the score matrix."""
    found: dict[str, Any] = {}
    for stage in sorted((run / "stages").iterdir()):
        hasher = hashlib.sha256()
        tensors = load_file(stage / "method.safetensors")
        for name in sorted(tensors):
            hasher.update(name.encode() + tensors[name].contiguous().view(-1).numpy().tobytes())
        found[f"{stage.name} tensors"] = hasher.hexdigest()
        for path in sorted((stage / "predictions").glob("*.jsonl")):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            texts = [[row["id"], row["prompt"], row["text"], row["score"], row["format_ok"]] for row in rows]
            found[f"{stage.name} {path.stem}"] = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    # A method that does not train has no log.
    path = run / "log.jsonl"
    log = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    )
    found["losses"] = [{k: v for k, v in row.items() if k.startswith("loss/")} for row in log]
    matrix = json.loads((run / "matrix.json").read_text(encoding="utf-8"))
    found["matrix"] = json.dumps(matrix, sort_keys=True)
    return found


def main() -> int:
    """Run the cells and compare; the exit status is the number of cells that differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--compare", type=Path, help="folder of earlier runs")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="working tree whose code runs")
    parser.add_argument("--only", nargs="*", help="names of cells")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    differing = 0
    for name, arguments in cells().items():
        if options.only and name not in options.only:
            continue
        if not (options.out / name / "matrix.json").is_file():
            run_cell(name, arguments, options.out, options.checkout.resolve())
        found = digests(options.out / name)
        if options.compare:
            before = digests(options.compare / name)
            wrong = [key for key in {**before, **found} if before.get(key) != found.get(key)]
            differing += bool(wrong)
            print(f"{name}: {'DIFFERS in ' + ', '.join(wrong) if wrong else 'equal'}", flush=True)
        else:
            print(f"{name}: done", flush=True)
    return differing


if __name__ == "__main__":
    sys.exit(main())
