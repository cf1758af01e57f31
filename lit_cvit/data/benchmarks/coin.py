"""`coin`: the CoIN benchmark (arXiv 2403.08350), as ProgLoRA, LCIA and HiDe-LLaVA use it.

Counts are those of ProgLoRA's Table 4, printed in thousands, or exact where the data sets or CoIN's files
tell them; the converters of `lit_cvit.data.prepare` have them. Those of `version: hide` are of HiDe-LLaVA's
Table 6 (arXiv 2503.12941). Defects of the published scripts that `official` repeats: ImageNet calls an empty
answer right; VizWiz and VQAv2 want one answer of ten, letter by letter; OCR-VQA never counts "Unanswerable";
Grounding drops the last digit of a box. ProgLoRA and LCIA state the rules of their script; HiDe's paper
states another, that the prediction is a part of the reference, so `paper` is `official` but for
`version: hide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from lit_cvit.data.benchmarks.prepared import PreparedTask, Reading, ScorerChoice, chosen_tasks
from lit_cvit.data.benchmarks.settings import order_of
from lit_cvit.data.instructions import Style, Wording, coin_instructions, task_orders
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Counts
from lit_cvit.utils.suggest import unknown

Version = Literal["full", "hide"]
OBJECT_QUESTION = "What is the object in the image?"
_LETTER, _SHORT, _BOX = AnswerFormat.LETTER, AnswerFormat.SHORT, AnswerFormat.BOX


TASKS = {
    "ScienceQA": PreparedTask(_LETTER, "letter", "official_scienceqa"),
    "TextVQA": PreparedTask(_SHORT, "vqa_soft"),
    # The refined wording asks the question itself.
    "ImageNet": PreparedTask(_SHORT, "class_name", "official_imagenet_coin", question=""),
    "GQA": PreparedTask(_SHORT, "exact", "official_gqa"),
    "VizWiz": PreparedTask(_SHORT, "vqa_soft", "official_exact"),
    "Grounding": PreparedTask(
        _BOX, "grounding_iou", "official_grounding", layout="{instruction}: {question}"
    ),
    "VQAv2": PreparedTask(_SHORT, "vqa_soft", "official_exact"),
    "OCR-VQA": PreparedTask(_SHORT, "short_answer", "official_ocrvqa"),
}
_HIDE_TEST = 3_000
# As printed; ScienceQA has no 20,000 training questions, so that all 12,726 are taken.
_HIDE_TRAIN = dict.fromkeys(TASKS, 20_000) | {"TextVQA": 34_602, "VizWiz": 20_523}


def coin(
    *,
    root: str | None = None,
    instructions: Style = "Original",
    wording: Wording | None = None,
    order: Literal["origin", "reverse", "alphabet"] = "origin",
    version: Version = "full",
    scorer: ScorerChoice = "standard",
    files: Mapping[str, Mapping[str, Any]] | None = None,
    image_root: str | Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    tasks: list[str] | None = None,
) -> Benchmark:
    """Build the benchmark.

    Args:
        root: Folder that `python -m lit_cvit prepare --benchmark coin` wrote.
        instructions: Whether tasks of a kind share one string (`Original`), or each task has one (`Diverse`)
            or eleven (`10Type`, drawn per sample and epoch) of its own.
        wording: `lcia_refined`, from which LCIA's published groups follow, `coin`, or `hide`, which has
            `Original` alone. By default `lcia_refined`, and `hide` for that version.
        order: Order of the tasks: CoIN's own, its reverse, or by the alphabet.
        version: `full`, or `hide`: HiDe-LLaVA's, with about 20,000 training and 3,000 test samples of each
            task. Which ones is not published in words: they are drawn by `seed`; give `files` for its own.
        scorer: Which scorers give the main scores: `standard`, `official` or `paper`.
        files: The authors' instruction files by task, instead of prepared records:
            {"GQA": {"train": PATH, "test": PATH, "image_root": PATH}, ...}, relative to the current folder.
            They bring their instructions along, so `instructions` and `wording` only say which to expect.
        image_root: Folder of the images where it is not the prepared one: for all tasks, or by task.
        limit: At most so many samples of each split, drawn once.
        seed: Seed of all draws.
        tasks: Names of the tasks that are wanted; `data.tasks` sets it.

    Raises:
        ValueError: a setting is not as it should be, or files are missing; all of them are named at once.
    """
    if version not in get_args(Version):
        raise ValueError(f"coin: {unknown('version', version, get_args(Version))}")
    reading = Reading("coin", root, files, image_root, scorer, limit, seed)
    names = chosen_tasks("coin", "data.tasks", tasks, order_of("coin", order, task_orders("coin")))
    wording = wording or ("hide" if version == "hide" else "lcia_refined")
    specs = {
        name: replace(TASKS[name], instructions=coin_instructions(name, instructions, wording))
        for name in names
    }
    if wording != "lcia_refined" and "ImageNet" in specs:
        specs["ImageNet"] = replace(specs["ImageNet"], question=OBJECT_QUESTION)
    if version == "hide":
        specs = {name: as_in_hide(name, spec) for name, spec in specs.items()}
    return Benchmark("coin", tuple(reading.tasks(specs, known=tuple(TASKS))))


def as_in_hide(name: str, spec: PreparedTask) -> PreparedTask:
    """A task as HiDe-LLaVA has it: fewer samples, and other scorers."""
    paper = "" if spec.answer_format is _BOX else "paper_hide"
    official = "official_scienceqa_hide" if name == "ScienceQA" else spec.official
    published = Counts(_HIDE_TRAIN[name], _HIDE_TEST)
    return replace(spec, published=published, official=official, paper=paper, drawn=True)
