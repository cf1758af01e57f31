"""`ucit`: the UCIT benchmark of HiDe-LLaVA (arXiv 2503.12941): six tasks, three orders.

Counts are those of its Table 5; the converters of `lit_cvit.data.prepare` have them. The published scripts,
which `official` repeats, want the very letters of the one answer, but for case; the paper (App. G), which
`paper` repeats, calls a prediction right that is a part of the answer, an empty one too. Both score captions
by the mean of seven metrics, which needs the extra `captions`; `mean_of_six`, without METEOR, is always
reported beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lit_cvit.data.benchmarks.coin import OBJECT_QUESTION
from lit_cvit.data.benchmarks.prepared import PreparedTask, Reading, ScorerChoice, chosen_tasks
from lit_cvit.data.benchmarks.settings import order_of
from lit_cvit.data.instructions import task_orders, ucit_instructions
from lit_cvit.data.tasks import AnswerFormat, Benchmark

_HAPPENING = "What is happening in the image?"


def _answered(answer_format: AnswerFormat, standard: str, question: str | None = None) -> PreparedTask:
    return PreparedTask(answer_format, standard, "official_exact", "paper_hide", question=question)


_CAPTIONS = PreparedTask(
    AnswerFormat.CAPTION,
    "cider",
    "mean_of_seven",
    also=("cider", "mean_of_six"),
    question=_HAPPENING,
)
TASKS = {
    "ImageNet-R": _answered(AnswerFormat.SHORT, "class_name", OBJECT_QUESTION),
    "ArxivQA": _answered(AnswerFormat.LETTER, "letter"),
    "VizWiz-cap": _CAPTIONS,
    # Table 5 prints one instruction for it, for a letter. A third of its questions has no options; the
    # authors' files ask those for a word.
    "IconQA": replace(
        _answered(AnswerFormat.SHORT, "letter_or_short"),
        open_instructions=ucit_instructions("CLEVR-Math"),
    ),
    "CLEVR-Math": _answered(AnswerFormat.SHORT, "short_answer"),
    "Flickr30k": _CAPTIONS,
}


def ucit(
    *,
    root: str | None = None,
    order: Literal["RAVICF", "AIRFCV", "IFRCAV"] = "RAVICF",
    scorer: ScorerChoice = "standard",
    files: Mapping[str, Mapping[str, Any]] | None = None,
    image_root: str | Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    tasks: list[str] | None = None,
) -> Benchmark:
    """Build the benchmark.

    Args:
        root: Folder that `python -m lit_cvit prepare --benchmark ucit` wrote.
        order: Order of the tasks by a letter each: ImageNet-R, ArxivQA, VizWiz-cap, IconQA, CLEVR-Math,
            Flickr30k in the first.
        scorer: Which scorers give the main scores: `standard`, `official` or `paper`.
        files: The authors' instruction files by task, instead of prepared records:
            {"IconQA": {"train": PATH, "test": PATH, "image_root": PATH}, ...}, relative to the current
            folder.
        image_root: Folder of the images where it is not the prepared one: for all tasks, or by task.
        limit: At most so many samples of each split, drawn once.
        seed: Seed of all draws.
        tasks: Names of the tasks that are wanted; `data.tasks` sets it.

    Raises:
        ValueError: a setting is not as it should be, or files are missing; all of them are named at once.
    """
    reading = Reading("ucit", root, files, image_root, scorer, limit, seed)
    names = chosen_tasks("ucit", "data.tasks", tasks, order_of("ucit", order, task_orders("ucit")))
    specs = {name: replace(TASKS[name], instructions=ucit_instructions(name)) for name in names}
    return Benchmark("ucit", tuple(reading.tasks(specs, known=tuple(TASKS))))
