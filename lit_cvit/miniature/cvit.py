"""What `cvit-mini` draws: a scene and a question for each task of the CVIT benchmark."""

from __future__ import annotations

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
from lit_cvit.miniature.drawn import Drawn, Look, MiniTask
from lit_cvit.miniature.names import PLACE_CLASSES
from lit_cvit.miniature.scenes import Scene

_PHOTO_QUALITY = 0.6
# Diagrams, photos, covers: the pictures of real data sets differ as well, those of GQA and VQAv2 least.
LOOKS = {
    "ScienceQA": Look(("plain", "lined"), ("grey",)),
    "TextVQA": Look(("checked", "barred"), ("navy", "grey")),
    "Flickr30k": Look(("spotted", "wavy"), ("navy", "brown")),
    "ImageNet": Look(("wavy", "checked"), ("brown", "moss")),
    "GQA": Look(("spotted", "barred"), ("moss", "brown")),
    "VQAv2": Look(("spotted", "barred"), ("moss", "navy")),
    "VizWiz": Look(quality=_PHOTO_QUALITY),
    "TextCaps": Look(("checked", "barred"), ("navy", "brown")),
    "OCR-VQA": Look(("plain",), ("navy", "brown")),
}


def draw_science(generator: Generator, index: int) -> Drawn:
    """Multiple choice by letter, the options behind the question."""
    return science_question(generator, index, INLINE)


def draw_photo(generator: Generator, index: int) -> Drawn:
    """Questions about what is there, and in half of them reading."""
    return draw_text(generator, index) if index % 2 else draw_relation(generator, index)


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
    "ScienceQA": MiniTask(draw_science, AnswerFormat.LETTER, "letter", LOOKS["ScienceQA"]),
    "TextVQA": MiniTask(draw_text, AnswerFormat.SHORT, "short_answer", LOOKS["TextVQA"]),
    "Flickr30k": MiniTask(draw_caption, AnswerFormat.CAPTION, "cider", LOOKS["Flickr30k"]),
    "ImageNet": MiniTask(draw_object, AnswerFormat.SHORT, "class_name", LOOKS["ImageNet"]),
    "GQA": MiniTask(draw_relation, AnswerFormat.SHORT, "exact", LOOKS["GQA"]),
    "VQAv2": MiniTask(draw_count, AnswerFormat.SHORT, "short_answer", LOOKS["VQAv2"]),
    "VizWiz": MiniTask(draw_photo, AnswerFormat.SHORT, "short_answer", LOOKS["VizWiz"]),
    "TextCaps": MiniTask(draw_text_caption, AnswerFormat.CAPTION, "cider", LOOKS["TextCaps"]),
    "OCR-VQA": MiniTask(draw_title, AnswerFormat.SHORT, "short_answer", LOOKS["OCR-VQA"]),
    "Places365": MiniTask(draw_place, AnswerFormat.SHORT, "class_name"),
}
