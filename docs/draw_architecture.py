"""Draws docs/architecture.svg out of the imports: `python docs/draw_architecture.py`.

A package stands in a row above all that it imports, so the picture is as the code is. What a package is for
and the files of every step are the two tables below. A test holds both against the files that exist, and the
picture against this script.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"

PURPOSE = {
    "commands": "one file for each verb",
    "testing": "the kit that proves a method",
    "sweep": "many runs: cells, claims, processes",
    "cli": "configuration, messages, load_run",
    "callbacks": "what combines with any method",
    "stream": "the trainer, checkpoints, resume",
    "probing": "runs a method to look inside it",
    "evaluation": "answers and scores a split",
    "memory_plan": "what a run holds in memory",
    "methods": "one file or folder per method",
    "miniature": "drawn scenes, training of tiny",
    "backbones": "a multimodal model, and its inputs",
    "data": "tasks, records, benchmarks, loaders",
    "report": "tables and figures, never a model",
    "metrics": "scorers, captions, AP, MAP, BWT",
    "encoders": "frozen text and image encoders",
    "run": "the run folder, written atomically",
    "adapters": "banks of LoRA blocks, routing",
    "analysis": "pure functions on tensors",
    "utils": "small helpers, open to all",
}


@dataclass(frozen=True)
class Step:
    """What a record becomes.

    Attributes:
        name: The word on the picture.
        colour: Of its number and its frame.
        files: What to open, in the order in which it is used; folders count from `lit_cvit`.
    """

    name: str
    colour: str
    files: tuple[str, ...]


STEPS = (
    Step("record", "#0072B2", ("data/benchmarks/custom.py", "data/records/source.py", "data/tasks.py")),
    Step("batch", "#9A6A00", ("data/sampling.py", "data/datamodule.py", "backbones/encode.py")),
    Step("loss", "#C04F00", ("methods/base.py", "adapters/bank.py", "backbones/base.py")),
    Step("checkpoint", "#007A59", ("stream/trainer.py", "stream/checkpoints.py", "run/folder.py")),
    Step("score", "#A8487E", ("callbacks/stage_evaluation.py", "evaluation.py", "metrics/scoring.py")),
    Step("report", "#6B4E9B", ("metrics/continual.py", "report/summary.py", "report/write.py")),
)


def source_of(file: str) -> Path:
    """The path of a file of a step."""
    return ROOT / file if file.startswith("callbacks/") else ROOT / "lit_cvit" / file


def packages() -> list[str]:
    """Every package of lit_cvit, its single files, and callbacks; not the files of the package itself."""
    inside = [path for path in (ROOT / "lit_cvit").iterdir() if not path.name.startswith("_")]
    return sorted(["callbacks", *(p.stem for p in inside if p.suffix == ".py" or list(p.glob("*.py")))])


def package_of(module: str) -> str:
    """The package that a module is in; empty for other distributions."""
    top, *inside = module.split(".")
    return "callbacks" if top == "callbacks" else inside[0] if top == "lit_cvit" and inside else ""


def imported(node: ast.AST) -> Iterator[str]:
    """Modules that are imported as soon as the file is."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imported(child)


def rows() -> list[list[str]]:
    """The packages, top row first; each imports only from rows below its own.

    Raises:
        graphlib.CycleError: packages import each other around a circle.
    """
    uses: dict[str, set[str]] = {name: set() for name in packages()}
    for folder in ("lit_cvit", "callbacks"):
        for path in (ROOT / folder).rglob("*.py"):
            own = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            if own in uses:
                found = {package_of(name) for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
                uses[own] |= found & uses.keys() - {own}
    height: dict[str, int] = {}
    for name in TopologicalSorter(uses).static_order():
        height[name] = 1 + max((height[used] for used in uses[name]), default=-1)
    # By purpose: the order of the table is the order in a row.
    ordered = sorted(height, key=lambda name: list(PURPOSE).index(name))
    return [[n for n in ordered if height[n] == level] for level in range(max(height.values()), -1, -1)]


WIDTH, MARGIN = 960, 16
STEP_HEIGHT, ROW_HEIGHT, GAP = 128, 48, 10
WIDEST_BOX = 300
ROWS_TOP = MARGIN + STEP_HEIGHT + 44
INK, PALE, LINE = "#222222", "#F6F7F9", "#B9C0C8"
FONT = "font-family=\"'DejaVu Sans', Verdana, sans-serif\""


def text(x: float, y: float, words: str, *, size: float, more: str = "") -> str:
    """A line of text, by default from its left end."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" {more}>{escape(words)}</text>'


def number(x: float, y: float, index: int) -> list[str]:
    """The number of a step, in its colour."""
    white = 'fill="white" font-weight="bold" text-anchor="middle"'
    return [
        f'<circle cx="{x:g}" cy="{y:g}" r="9" fill="{STEPS[index].colour}"/>',
        text(x, y + 4, str(index + 1), size=11, more=white),
    ]


def draw_steps() -> Iterator[str]:
    """The steps from left to right, with arrows between them."""
    gap = 22.0
    width = (WIDTH - 2 * MARGIN - gap * (len(STEPS) - 1)) / len(STEPS)
    for index, step in enumerate(STEPS):
        left = MARGIN + index * (width + gap)
        yield (
            f'<rect x="{left:g}" y="{MARGIN}" width="{width:g}" height="{STEP_HEIGHT}" rx="6" fill="white" '
            f'stroke="{step.colour}" stroke-width="2"/>'
        )
        yield from number(left + 18, MARGIN + 20, index)
        yield text(left + 33, MARGIN + 25, step.name, size=15, more='font-weight="bold"')
        for line, file in enumerate(step.files):
            folder, _, name = file.rpartition("/")
            y = MARGIN + 51 + 29 * line
            yield text(left + 10, y, f"{folder or 'lit_cvit'}/", size=9.5, more='fill="#66707A"')
            yield text(left + 10, y + 11.5, name, size=11)
        if index:
            middle = MARGIN + STEP_HEIGHT / 2
            yield f'<path d="M {left - gap + 4:g} {middle:g} h 11" stroke="{INK}" stroke-width="1.6"/>'
            yield f'<path d="M {left - 9:g} {middle - 5:g} l 7 5 l -7 5 z" fill="{INK}"/>'


def draw_packages(found: list[list[str]], parts: Mapping[str, list[int]]) -> Iterator[str]:
    """The rows of packages, each with the numbers of its steps."""
    more = f'fill="{INK}" font-style="italic"'
    title = "Packages: each imports only from rows below its own. A number says which step happens there."
    yield text(MARGIN, ROWS_TOP - 15, title, size=12, more=more)
    for row, names in enumerate(found):
        y = ROWS_TOP + row * (ROW_HEIGHT + GAP)
        free = WIDTH - 2 * MARGIN - (len(names) - 1) * GAP
        width = min(WIDEST_BOX, free / len(names))
        start = MARGIN + (free - len(names) * width) / 2
        for place, name in enumerate(names):
            x = start + place * (width + GAP)
            yield (
                f'<rect id="package-{name}" x="{x:g}" y="{y}" width="{width:g}" height="{ROW_HEIGHT}" '
                f'rx="5" fill="{PALE}" stroke="{LINE}"/>'
            )
            yield text(x + 11, y + 20, name, size=14, more='font-weight="bold"')
            yield text(x + 11, y + 38, PURPOSE[name], size=11)
            for index, step in enumerate(reversed(parts.get(name, []))):
                yield from number(x + width - 16 - 22 * index, y + 16, step)


def svg() -> str:
    """The picture.

    Raises:
        ValueError: `PURPOSE` does not have exactly the packages that exist.
    """
    differing = set(packages()) ^ PURPOSE.keys()
    if differing:
        raise ValueError(f"PURPOSE and the packages differ in {', '.join(sorted(differing))}")
    parts: dict[str, list[int]] = {}
    for index, step in enumerate(STEPS):
        for name in dict.fromkeys(Path(file).parts[0].removesuffix(".py") for file in step.files):
            parts.setdefault(name, []).append(index)
    found = rows()
    height = ROWS_TOP + len(found) * (ROW_HEIGHT + GAP) - GAP + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" {FONT}>',
        "<title>How a record becomes a batch, a loss, a checkpoint, a score and a report</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *draw_steps(),
        *draw_packages(found, parts),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
