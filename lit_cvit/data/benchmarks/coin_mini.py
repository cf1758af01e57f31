"""`coin-mini`: the CoIN benchmark (arXiv 2403.08350) in miniature, drawn from a seed.

The same tasks in the same three orders with the same instruction strings in the same places; images are drawn
scenes. Each task needs a skill or an answer format that `tiny` does not bring along.

`tiny` as shipped cannot learn one of them, Grounding, within a stage. Its pre-training never wrote "[", "]",
"," and "." as tokens of their own, so their rows of the output layer, which no method adapts, point the same
way (cosine 0.999): none of them can get a probability above about exp(-5). A box needs nine of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from lit_cvit.data.benchmarks.mini import Drawn, MiniTask
from lit_cvit.data.benchmarks.mini_drawing import (
    LINES,
    OBJECT_QUESTION,
    Generator,
    distinct_things,
    draw_count,
    draw_object,
    draw_relation,
    draw_text,
    one_of,
    scene_of,
    science_question,
    sign_of,
    written,
)
from lit_cvit.data.benchmarks.settings import check_settings, order_of
from lit_cvit.data.instructions import Style, Wording, coin_instructions, task_orders
from lit_cvit.data.scenes import SHAPES, thing_box
from lit_cvit.data.tasks import AnswerFormat, Benchmark

PHOTO_QUALITY, RUINED_QUALITY = 0.6, 0.1
UNANSWERABLE = "unanswerable"


def draw_lesson(generator: Generator, index: int) -> Drawn:
    """Multiple choice by letter, each option on a line of its own."""
    return science_question(generator, index, LINES)


def draw_asked_object(generator: Generator, index: int) -> Drawn:
    """Naming the one object, with the question that CoIN's own wording asks beside the instruction."""
    return replace(draw_object(generator, index), question=OBJECT_QUESTION)


def draw_snapshot(generator: Generator, index: int) -> Drawn:
    """Questions about degraded pictures, of which one in four cannot be answered.

    Of those, half ask for the colour of a shape that is not in the picture, and half show a picture so poor
    (`RUINED_QUALITY`) that nothing is to be made out. The others are read, or asked for colour and shape.
    """
    kind, further = index % 4, index // 4
    drawn = draw_text(generator, index) if kind == 1 else draw_relation(generator, kind // 2)
    assert drawn.scene is not None
    if kind < 3:
        return replace(drawn, scene=replace(drawn.scene, quality=PHOTO_QUALITY))
    if further % 2:
        return Drawn(replace(drawn.scene, quality=RUINED_QUALITY), (UNANSWERABLE,), drawn.question)
    absent = one_of(generator, [s for s in SHAPES if s not in {t.name for t in drawn.scene.things}])
    scene = replace(drawn.scene, quality=PHOTO_QUALITY)
    return Drawn(scene, (UNANSWERABLE,), f"What colour is the {absent}?")


def draw_region(generator: Generator, index: int) -> Drawn:
    """A thing described by its shape, its colour or both, among one to three; the answer is its box."""
    things = distinct_things(generator, int(generator.integers(1, 4)))
    thing = one_of(generator, things)
    described = (thing.name, f"{thing.colour} thing", f"{thing.colour} {thing.name}")[index % 3]
    box = ", ".join(f"{edge:.2f}" for edge in thing_box(thing))
    return Drawn(scene_of(generator, things), (f"[{box}]",), f"the {described}")


def draw_cover(generator: Generator, index: int) -> Drawn:
    """A book's cover: its title is the line of signs at the top, its author the one at the bottom."""
    title, author = sign_of(generator, 2, 0), sign_of(generator, 2, 2)
    question, sign = (
        ("What is the title of this book?", title),
        ("Who is the author of this book?", author),
    )[index % 2]
    return Drawn(scene_of(generator, title + author), (written(sign),), question)


_TASKS = {
    "ScienceQA": MiniTask(draw_lesson, AnswerFormat.LETTER, "letter"),
    "TextVQA": MiniTask(draw_text, AnswerFormat.SHORT, "short_answer"),
    "ImageNet": MiniTask(draw_object, AnswerFormat.SHORT, "class_name"),
    "GQA": MiniTask(draw_relation, AnswerFormat.SHORT, "exact"),
    "VizWiz": MiniTask(draw_snapshot, AnswerFormat.SHORT, "short_answer"),
    "Grounding": MiniTask(draw_region, AnswerFormat.BOX, "grounding_iou", layout="{instruction}: {question}"),
    "VQAv2": MiniTask(draw_count, AnswerFormat.SHORT, "short_answer"),
    "OCR-VQA": MiniTask(draw_cover, AnswerFormat.SHORT, "short_answer"),
}


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
    check_settings("coin-mini", seed=seed, num_train=num_train, num_test=num_test)
    specs = dict(_TASKS)
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
    return Benchmark("coin-mini", tuple(tasks))
