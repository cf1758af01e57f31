"""`ucit-mini`: the UCIT benchmark (HiDe-LLaVA, arXiv 2503.12941) in miniature, drawn from a seed.

The same tasks in the same three orders with the same instruction strings; images are drawn scenes. Each task
needs a skill or an answer format that `tiny` does not bring along, and has a look of its own: two tasks each
share an instruction, so that only question and picture tell them apart.
"""

from __future__ import annotations

from typing import Literal

from lit_cvit.data.benchmarks.settings import check_settings, order_of
from lit_cvit.data.instructions import task_orders, ucit_instructions
from lit_cvit.data.tasks import Benchmark


def ucit_mini(
    *,
    order: Literal["RAVICF", "AIRFCV", "IFRCAV"] = "RAVICF",
    num_train: int = 2000,
    num_test: int = 200,
    seed: int = 0,
) -> Benchmark:
    """Build the benchmark.

    Args:
        order: Order of the tasks by a letter each: ImageNet-R, ArxivQA, VizWiz-cap, IconQA, CLEVR-Math,
            Flickr30k in the first.
        num_train: Training samples of each task.
        num_test: Test samples of each task.
        seed: Seed of every scene and question.

    Raises:
        ValueError: a size or the seed is no whole number, a size is below 1, or the order is unknown.
    """
    from lit_cvit.miniature import VERSION
    from lit_cvit.miniature.ucit import TASKS

    check_settings("ucit-mini", seed=seed, num_train=num_train, num_test=num_test)
    tasks = (
        TASKS[name].build(name, ucit_instructions(name), num_train=num_train, num_test=num_test, seed=seed)
        for name in order_of("ucit-mini", order, task_orders("ucit"))
    )
    return Benchmark("ucit-mini", tuple(tasks), miniature=True, version=VERSION)
