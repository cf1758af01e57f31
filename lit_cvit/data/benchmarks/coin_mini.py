"""`coin-mini`: the CoIN benchmark (arXiv 2403.08350) in miniature, drawn from a seed.

The same tasks in the same three orders with the same instruction strings in the same places; images are drawn
scenes. Each task needs a skill or an answer format that `tiny` does not bring along.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from lit_cvit.data.benchmarks.settings import check_settings, order_of
from lit_cvit.data.instructions import Style, Wording, coin_instructions, task_orders
from lit_cvit.data.tasks import Benchmark


def coin_mini(
    *,
    instructions: Style = "Original",
    wording: Wording = "lcia_refined",
    order: Literal["origin", "reverse", "alphabet"] = "origin",
    num_train: int = 2000,
    num_test: int = 200,
    seed: int = 0,
) -> Benchmark:
    """Build the benchmark.

    Args:
        instructions: Whether tasks of a kind share one string (`Original`), or each task has one (`Diverse`)
            or eleven (`10Type`, drawn per sample and epoch) of its own.
        wording: `lcia_refined`, from which LCIA's published groups follow, `coin`, or HiDe's `hide`, which
            has `Original` alone. The first two differ in ImageNet, which the others also ask a question
            for, and in `10Type` in Grounding and in OCR-VQA, where `coin` has ScienceQA's strings, as its
            table is printed.
        order: Order of the tasks: CoIN's own, its reverse, or by the alphabet.
        num_train: Training samples of each task.
        num_test: Test samples of each task.
        seed: Seed of every scene and question.

    Raises:
        ValueError: a size or the seed is no whole number, a size is below 1, or the instruction style, the
            wording or the order is unknown.
    """
    from lit_cvit.miniature import VERSION
    from lit_cvit.miniature.coin import TASKS, draw_asked_object

    check_settings("coin-mini", seed=seed, num_train=num_train, num_test=num_test)
    specs = dict(TASKS)
    if wording != "lcia_refined":
        specs["ImageNet"] = replace(specs["ImageNet"], draw=draw_asked_object)
    tasks = (
        specs[name].build(
            name,
            coin_instructions(name, instructions, wording),
            num_train=num_train,
            num_test=num_test,
            seed=seed,
        )
        for name in order_of("coin-mini", order, task_orders("coin"))
    )
    return Benchmark("coin-mini", tuple(tasks), miniature=True, version=VERSION)
