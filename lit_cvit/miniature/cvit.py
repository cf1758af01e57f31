"""What `cvit-mini` draws: a scene and a question for each task of the CVIT benchmark."""

from __future__ import annotations

from dataclasses import replace

from lit_cvit.data.tasks import AnswerFormat
from lit_cvit.miniature.drawing import (
    INLINE,
    Generator,
    caption_references,
    distinct_things,
    draw_caption,
    draw_count,
    draw_object,
    draw_relation,
    draw_text,
    scene_of,
    science_question,
    sign_of,
    written,
)
from lit_cvit.miniature.drawn import Drawn, MiniTask
from lit_cvit.miniature.names import PLACE_CLASSES
from lit_cvit.miniature.scenes import Scene


def draw_science(generator: Generator, index: int) -> Drawn:
    """Multiple choice by letter, the options behind the question."""
    return science_question(generator, index, INLINE)


def draw_photo(generator: Generator, index: int) -> Drawn:
    """Questions about degraded pictures, reading among them."""
    drawn = draw_text(generator, index) if index % 2 else draw_relation(generator, index)
    assert drawn.scene is not None
    return replace(drawn, scene=replace(drawn.scene, quality=0.6))


def draw_text_caption(generator: Generator, index: int) -> Drawn:
    """Captions of scenes that hold text as well as objects."""
    row = int(generator.integers(3))
    sign = sign_of(generator, 2, row)
    others = distinct_things(generator, int(generator.integers(1, 3)), [p for p in range(9) if p // 3 != row])
    word = written(sign)
    references = tuple(f"{text[:-1]}, and a sign says {word}." for text in caption_references(others))
    return Drawn(scene_of(generator, sign + others), references)


def draw_title(generator: Generator, index: int) -> Drawn:
    """Reading a line of three signs under a question that no upstream task asks."""
    sign = sign_of(generator, 3, 0)
    others = distinct_things(generator, 1, [3, 4, 5, 6, 7, 8])
    return Drawn(
        scene_of(generator, sign + others),
        (written(sign),),
        "What is the title of this book?",
    )


def draw_place(generator: Generator, index: int) -> Drawn:
    """Naming the background by a name that only the few shots teach."""
    kinds = list(PLACE_CLASSES)
    pattern, tint = kinds[index % len(kinds)]
    things = distinct_things(generator, int(generator.integers(0, 3)))
    scene = Scene(things, pattern, tint, int(generator.integers(0, 2**31)))
    return Drawn(scene, (PLACE_CLASSES[pattern, tint],))


TASKS = {
    "ScienceQA": MiniTask(draw_science, AnswerFormat.LETTER, "letter"),
    "TextVQA": MiniTask(draw_text, AnswerFormat.SHORT, "short_answer"),
    "Flickr30k": MiniTask(draw_caption, AnswerFormat.CAPTION, "cider"),
    "ImageNet": MiniTask(draw_object, AnswerFormat.SHORT, "class_name"),
    "GQA": MiniTask(draw_relation, AnswerFormat.SHORT, "exact"),
    "VQAv2": MiniTask(draw_count, AnswerFormat.SHORT, "short_answer"),
    "VizWiz": MiniTask(draw_photo, AnswerFormat.SHORT, "short_answer"),
    "TextCaps": MiniTask(draw_text_caption, AnswerFormat.CAPTION, "cider"),
    "OCR-VQA": MiniTask(draw_title, AnswerFormat.SHORT, "short_answer"),
    "Places365": MiniTask(draw_place, AnswerFormat.SHORT, "class_name"),
}
