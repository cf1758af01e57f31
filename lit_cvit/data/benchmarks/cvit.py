"""`cvit`: the CVIT benchmark of SMoLoRA (arXiv 2411.13949): six tasks, three zero-shot, one few-shot.

Counts are those of the paper's Table 8; the converters of `lit_cvit.data.prepare` have them. Defects of the
published scripts that `official` repeats: ImageNet and Places365 call an empty answer right; VizWiz and VQAv2
want one answer, letter by letter, of ten; captions are split at white space, and those of Flickr30k are
compared with the best single reference. TextVQA is scored as its owners do. The paper names no rule, so
`paper` is `official`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lit_cvit.data.benchmarks.prepared import (
    PreparedTask,
    Reading,
    ScorerChoice,
    chosen_tasks,
    printed_counts,
)
from lit_cvit.data.benchmarks.settings import check_settings
from lit_cvit.data.instructions import cvit_instructions
from lit_cvit.data.tasks import AnswerFormat, Benchmark

_PLACES = 365
_LETTER, _SHORT = AnswerFormat.LETTER, AnswerFormat.SHORT


def _captions(official: str, *, trained: bool = True) -> PreparedTask:
    # The instruction asks the question, as with classes.
    also = ("cider", "bleu_4", "rouge_l")
    return PreparedTask(AnswerFormat.CAPTION, "cider", official, also=also, question="", trained=trained)


STREAM = {
    "ScienceQA": PreparedTask(_LETTER, "letter", "official_scienceqa"),
    "TextVQA": PreparedTask(_SHORT, "vqa_soft"),
    "Flickr30k": _captions("official_flickr30k"),
    "ImageNet": PreparedTask(_SHORT, "class_name", "official_substring", question=""),
    "GQA": PreparedTask(_SHORT, "exact", "official_gqa"),
    "VQAv2": PreparedTask(_SHORT, "vqa_soft", "official_exact"),
}
DOWNSTREAM = {
    "VizWiz": PreparedTask(_SHORT, "vqa_soft", "official_exact", trained=False),
    "TextCaps": _captions("official_textcaps", trained=False),
    "OCR-VQA": PreparedTask(_SHORT, "short_answer", "official_ocrvqa", trained=False),
    "Places365": PreparedTask(_SHORT, "class_name", "official_substring", question=""),
}


def cvit(
    *,
    root: str | None = None,
    instructions: Literal["single", "multi"] = "single",
    shots: int = 5,
    scorer: ScorerChoice = "standard",
    downstream: list[str] | None = None,
    files: Mapping[str, Mapping[str, Any]] | None = None,
    image_root: str | Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    tasks: list[str] | None = None,
) -> Benchmark:
    """Build the benchmark.

    Args:
        root: Folder that `python -m lit_cvit prepare --benchmark cvit` wrote.
        instructions: `single` (one string per task) or `multi` (five, drawn per sample and epoch).
        shots: Training samples of each class of Places365; the paper has 5 and 10.
        scorer: Which scorers give the main scores: `standard`, `official` or `paper`.
        downstream: Names of the downstream tasks that are wanted; by default all four.
        files: The authors' instruction files by task, instead of prepared records:
            {"GQA": {"train": PATH, "test": PATH, "image_root": PATH}, ...}, relative to the current folder.
            They bring their instructions along, so `instructions` only says which strings to expect.
        image_root: Folder of the images where it is not the prepared one: for all tasks, or by task.
        limit: At most so many samples of each split, drawn once.
        seed: Seed of all draws.
        tasks: Names of the tasks of the stream that are wanted; `data.tasks` sets it.

    Raises:
        ValueError: a setting is not as it should be, or files are missing; all of them are named at once.
    """
    check_settings("cvit", seed=seed, shots=shots)
    reading = Reading("cvit", root, files, image_root, scorer, limit, seed)
    names = (*STREAM, *DOWNSTREAM)
    learned = chosen_tasks("cvit", "data.tasks", tuple(STREAM) if tasks is None else tasks, names)
    held_out = chosen_tasks("cvit", "data.settings.downstream", downstream, tuple(DOWNSTREAM))
    every = {**STREAM, **DOWNSTREAM}
    published = replace(printed_counts("cvit")["Places365"], train=shots * _PLACES)
    every["Places365"] = replace(every["Places365"], shots=shots, published=published)
    specs = {
        name: replace(every[name], instructions=cvit_instructions(name, instructions))
        for name in names
        if name in (*learned, *held_out)
    }
    built = reading.tasks(specs, known=names)
    stream = tuple(task for task in built if task.name in STREAM)
    return Benchmark("cvit", stream, tuple(task for task in built if task.name in DOWNSTREAM))
