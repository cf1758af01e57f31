"""`cvit-mini`: the CVIT benchmark (SMoLoRA, arXiv 2411.13949) in miniature, drawn from a seed.

The same tasks in the same order with the same instruction strings; images are drawn scenes. Each task needs
a skill or an answer format that `tiny` does not bring along, so that learning it shows, and losing it too.
"""

from __future__ import annotations

from typing import Literal

from lit_cvit.data.benchmarks.settings import check_settings
from lit_cvit.data.instructions import cvit_instructions
from lit_cvit.data.tasks import Benchmark, Task

STREAM = ("ScienceQA", "TextVQA", "Flickr30k", "ImageNet", "GQA", "VQAv2")
ZERO_SHOT = ("VizWiz", "TextCaps", "OCR-VQA")
FEW_SHOT = "Places365"


def cvit_mini(
    *,
    instructions: Literal["single", "multi"] = "single",
    num_train: int = 2000,
    num_test: int = 200,
    shots: int = 5,
    seed: int = 0,
) -> Benchmark:
    """Build the benchmark.

    Args:
        instructions: `single` (one string per task) or `multi` (five, drawn per sample and epoch).
        num_train: Training samples of each upstream task.
        num_test: Test samples of every task.
        shots: Training samples per class of the few-shot task.
        seed: Seed of every scene and question.

    Raises:
        ValueError: a size or the seed is no whole number, a size is below 1, or the instruction style is
            unknown.
    """
    from lit_cvit.miniature import VERSION
    from lit_cvit.miniature.cvit import PLACE_CLASSES, TASKS

    check_settings("cvit-mini", seed=seed, num_train=num_train, num_test=num_test, shots=shots)
    sizes = dict.fromkeys(STREAM, num_train) | {FEW_SHOT: shots * len(PLACE_CLASSES)}

    def build(name: str) -> Task:
        return TASKS[name].build(
            name,
            cvit_instructions(name, instructions),
            num_train=sizes.get(name),
            num_test=num_test,
            seed=seed,
            few_shot=name == FEW_SHOT,
        )

    downstream = tuple(build(name) for name in (*ZERO_SHOT, FEW_SHOT))
    return Benchmark(
        "cvit-mini", tuple(build(name) for name in STREAM), downstream, miniature=True, version=VERSION
    )
