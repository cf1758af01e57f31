"""What `coin-mini` draws: a scene and a question for each task of the CoIN benchmark."""

from __future__ import annotations

from dataclasses import replace

from lit_cvit.data.tasks import AnswerFormat
from lit_cvit.miniature.drawing import (
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
from lit_cvit.miniature.drawn import Drawn, Look, MiniTask
from lit_cvit.miniature.scenes import SHAPES, thing_box

PHOTO_QUALITY, RUINED_QUALITY = 0.6, 0.1
UNANSWERABLE = "unanswerable"
# As in `cvit-mini`; the objects of Grounding are in photos too.
LOOKS = {
    "ScienceQA": Look(("plain", "lined"), ("grey",)),
    "TextVQA": Look(("checked", "barred"), ("navy", "grey")),
    "ImageNet": Look(("wavy", "checked"), ("brown", "moss")),
    "GQA": Look(("spotted", "barred"), ("moss", "brown")),
    "VizWiz": Look(quality=PHOTO_QUALITY),
    "Grounding": Look(("spotted", "wavy"), ("navy", "grey")),
    "VQAv2": Look(("spotted", "barred"), ("moss", "navy")),
    "OCR-VQA": Look(("plain",), ("navy", "brown")),
}


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
    if kind < 3:
        return drawn
    assert drawn.scene is not None
    if further % 2:
        return Drawn(replace(drawn.scene, quality=RUINED_QUALITY), (UNANSWERABLE,), drawn.question)
    absent = one_of(generator, [s for s in SHAPES if s not in {t.name for t in drawn.scene.things}])
    return Drawn(drawn.scene, (UNANSWERABLE,), f"What colour is the {absent}?")


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


TASKS = {
    "ScienceQA": MiniTask(draw_lesson, AnswerFormat.LETTER, "letter", LOOKS["ScienceQA"]),
    "TextVQA": MiniTask(draw_text, AnswerFormat.SHORT, "short_answer", LOOKS["TextVQA"]),
    "ImageNet": MiniTask(draw_object, AnswerFormat.SHORT, "class_name", LOOKS["ImageNet"]),
    "GQA": MiniTask(draw_relation, AnswerFormat.SHORT, "exact", LOOKS["GQA"]),
    "VizWiz": MiniTask(draw_snapshot, AnswerFormat.SHORT, "short_answer", LOOKS["VizWiz"]),
    "Grounding": MiniTask(
        draw_region,
        AnswerFormat.BOX,
        "grounding_iou",
        LOOKS["Grounding"],
        layout="{instruction}: {question}",
    ),
    "VQAv2": MiniTask(draw_count, AnswerFormat.SHORT, "short_answer", LOOKS["VQAv2"]),
    "OCR-VQA": MiniTask(draw_cover, AnswerFormat.SHORT, "short_answer", LOOKS["OCR-VQA"]),
}
