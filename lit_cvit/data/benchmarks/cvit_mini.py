"""`cvit-mini`: the CVIT benchmark (SMoLoRA, arXiv 2411.13949) in miniature, drawn from a seed.

The same tasks in the same order with the same instruction strings; images are drawn scenes. Each task needs
a skill or an answer format that `tiny` does not bring along, so that learning it shows, and losing it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from lit_cvit.data.benchmarks.mini import Drawn, DrawSample, MiniSource
from lit_cvit.data.glyphs import GLYPHS
from lit_cvit.data.instructions import cvit_instructions
from lit_cvit.data.scenes import (
    COLOURS,
    FILLS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
    random_look,
    random_shift,
)
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Task
from lit_cvit.metrics.scoring import ExactContent, scorer

Generator = np.random.Generator
T = TypeVar("T")
COLOUR_NAMES = tuple(COLOURS)
# Names that nothing in the drawing suggests: they can only be learned from the stream.
OBJECT_CLASSES: dict[tuple[str, str], str] = {
    ("circle", "striped"): "beetle",
    ("circle", "dotted"): "button",
    ("square", "hollow"): "window",
    ("square", "striped"): "carpet",
    ("triangle", "solid"): "helmet",
    ("star", "solid"): "lantern",
    ("cross", "dotted"): "ladder",
    ("diamond", "hollow"): "kettle",
    ("heart", "striped"): "pillow",
    ("moon", "solid"): "anchor",
}
PLACE_CLASSES: dict[tuple[str, str], str] = {
    ("wavy", "navy"): "harbour",
    ("spotted", "moss"): "meadow",
    ("plain", "brown"): "desert",
    ("checked", "grey"): "kitchen",
    ("barred", "moss"): "forest",
    ("lined", "brown"): "stadium",
    ("plain", "navy"): "airport",
    ("barred", "grey"): "office",
}


def _one_of(generator: Generator, options: Sequence[T]) -> T:
    return options[int(generator.integers(len(options)))]


def _shapes(generator: Generator, count: int, places: list[int] | None = None) -> tuple[Thing, ...]:
    """Things of distinct shapes and distinct colours, so that each can be asked for by either."""
    free = list(range(9)) if places is None else places
    chosen = sorted(int(p) for p in generator.permutation(free)[:count])
    names = [str(n) for n in generator.permutation(SHAPES)[:count]]
    colours = [str(c) for c in generator.permutation(COLOUR_NAMES)[:count]]
    return tuple(
        Thing(name, colour, place, _one_of(generator, FILLS), random_shift(generator))
        for name, colour, place in zip(names, colours, chosen, strict=True)
    )


def _scene(generator: Generator, things: tuple[Thing, ...], quality: float = 1.0) -> Scene:
    return Scene(things, quality=quality, **random_look(generator))  # type: ignore[arg-type]


def _sign(generator: Generator, length: int, row: int) -> tuple[Thing, ...]:
    start, colour = int(generator.integers(4 - length)), _one_of(generator, COLOUR_NAMES)
    return tuple(
        Thing(_one_of(generator, GLYPHS), colour, row * 3 + start + offset, shift=random_shift(generator))
        for offset in range(length)
    )


def _with_options(
    question: str, right: str, pool: tuple[str, ...], generator: Generator
) -> dict[str, object]:
    """Question with lettered options, as ScienceQA is asked; the answer is the letter."""
    others = [str(o) for o in generator.permutation([p for p in pool if p != right])[:2]]
    options = tuple(str(o) for o in generator.permutation([right, *others]))
    listed = " ".join(f"{'ABC'[number]}. {option}" for number, option in enumerate(options))
    return {
        "question": f"{question} {listed}",
        "answers": ("ABC"[options.index(right)],),
        "choices": options,
    }


def draw_science(generator: Generator, index: int) -> Drawn:
    """Multiple choice by letter; one question in five is text alone, as half of ScienceQA is."""
    if index % 5 == 4:
        shapes = [str(s) for s in generator.permutation(SHAPES)[:2]]
        colours = [str(c) for c in generator.permutation(COLOUR_NAMES)[:2]]
        told = f"There is a {colours[0]} {shapes[0]} and a {colours[1]} {shapes[1]}."
        asked = int(generator.integers(2))
        question = f"{told} What colour is the {shapes[asked]}?"
        return Drawn(None, **_with_options(question, colours[asked], COLOUR_NAMES, generator))  # type: ignore[arg-type]
    scene = _scene(generator, _shapes(generator, int(generator.integers(1, 4))))
    thing = _one_of(generator, scene.things)
    if generator.random() < 0.6:
        options = _with_options(f"What colour is the {thing.name}?", thing.colour, COLOUR_NAMES, generator)
    else:
        options = _with_options(f"How is the {thing.name} filled?", thing.fill, FILLS, generator)
    return Drawn(scene, **options)  # type: ignore[arg-type]


def draw_text(generator: Generator, index: int) -> Drawn:
    """Reading rendered text; ten equal human answers as in TextVQA would add nothing, so there is one."""
    row = int(generator.integers(3))
    sign = _sign(generator, int(generator.integers(2, 4)), row)
    others = _shapes(generator, int(generator.integers(0, 2)), [p for p in range(9) if p // 3 != row])
    question = _one_of(
        generator, ("What does it say?", "What is spelled out?", "Which signs can you make out?")
    )
    return Drawn(_scene(generator, sign + others), ("".join(t.name for t in sign),), question)


_CAPTION_FORMS = (
    ("A {0} is at the {1}", " and a {0} is at the {1}"),
    ("There is a {0} at the {1}", " and a {0} at the {1}"),
    ("You can see a {0} at the {1}", ", and a {0} at the {1}"),
    ("The picture shows a {0} at the {1}", " and a {0} at the {1}"),
    ("A {0} sits at the {1}", ", and a {0} sits at the {1}"),
)


def caption_references(things: tuple[Thing, ...]) -> tuple[str, ...]:
    """Five paraphrases of the same content, each one sentence."""
    sentences = []
    for first, further in _CAPTION_FORMS:
        forms = [first] + [further] * (len(things) - 1)
        parts = [
            form.format(f"{t.colour} {t.name}", PLACES[t.place])
            for form, t in zip(forms, things, strict=True)
        ]
        sentences.append("".join(parts) + ".")
    return tuple(sentences)


def draw_caption(generator: Generator, index: int) -> Drawn:
    """One-sentence captions; each sample trains on another of the five references, as Flickr30k does."""
    things = _shapes(generator, int(generator.integers(1, 4)))
    references = caption_references(things)
    first = index % len(references)
    return Drawn(_scene(generator, things), references[first:] + references[:first])


def draw_object(generator: Generator, index: int) -> Drawn:
    """Naming the one object by a name that only the stream teaches."""
    kinds = list(OBJECT_CLASSES)
    shape, fill = kinds[index % len(kinds)]
    colour, place = _one_of(generator, COLOUR_NAMES), int(generator.integers(9))
    scene = _scene(generator, (Thing(shape, colour, place, fill, random_shift(generator)),))
    return Drawn(scene, (OBJECT_CLASSES[shape, fill],))


def draw_relation(generator: Generator, index: int) -> Drawn:
    """Attributes and places bound to one of several objects."""
    things = _shapes(generator, int(generator.integers(2, 4)))
    thing = _one_of(generator, things)
    question, answer = (
        (f"What colour is the {thing.name}?", thing.colour),
        (f"What shape is the {thing.colour} thing?", thing.name),
        (f"How is the {thing.name} filled?", thing.fill),
    )[index % 3]
    return Drawn(_scene(generator, things), (answer,), question)


def draw_count(generator: Generator, index: int) -> Drawn:
    """Counting, and yes or no.

    "No" is the answer for a shape that the scene does not show in any colour, so the shape alone decides;
    there is no question that swaps the colours of two shapes of the scene.
    """
    if index % 2:
        things = _shapes(generator, int(generator.integers(1, 4)))
        thing = _one_of(generator, things)
        there = generator.random() < 0.5
        absent = [s for s in SHAPES if s not in {t.name for t in things}]
        name = thing.name if there else _one_of(generator, absent)
        return Drawn(
            _scene(generator, things), ("yes" if there else "no",), f"Is there a {thing.colour} {name}?"
        )
    count = int(generator.integers(1, 5))
    places = [int(p) for p in generator.permutation(9)[:count]]
    things = tuple(
        Thing(
            _one_of(generator, SHAPES), _one_of(generator, COLOUR_NAMES), p, "solid", random_shift(generator)
        )
        for p in sorted(places)
    )
    return Drawn(_scene(generator, things), (str(count),), "How many things are there?")


def draw_photo(generator: Generator, index: int) -> Drawn:
    """Questions about degraded pictures, reading among them."""
    drawn = draw_text(generator, index) if index % 2 else draw_relation(generator, index)
    assert drawn.scene is not None
    scene = Scene(drawn.scene.things, drawn.scene.pattern, drawn.scene.tint, drawn.scene.noise, quality=0.6)
    return Drawn(scene, drawn.answers, drawn.question)


def draw_text_caption(generator: Generator, index: int) -> Drawn:
    """Captions of scenes that hold text as well as objects."""
    row = int(generator.integers(3))
    sign = _sign(generator, 2, row)
    others = _shapes(generator, int(generator.integers(1, 3)), [p for p in range(9) if p // 3 != row])
    word = "".join(t.name for t in sign)
    references = tuple(f"{text[:-1]}, and a sign says {word}." for text in caption_references(others))
    return Drawn(_scene(generator, sign + others), references)


def draw_title(generator: Generator, index: int) -> Drawn:
    """Reading a line of three signs under a question that no upstream task asks."""
    sign = _sign(generator, 3, 0)
    others = _shapes(generator, 1, [3, 4, 5, 6, 7, 8])
    return Drawn(
        _scene(generator, sign + others),
        ("".join(t.name for t in sign),),
        "What is the title of this book?",
    )


def draw_place(generator: Generator, index: int) -> Drawn:
    """Naming the background by a name that only the few shots teach."""
    kinds = list(PLACE_CLASSES)
    pattern, tint = kinds[index % len(kinds)]
    things = _shapes(generator, int(generator.integers(0, 3)))
    scene = Scene(things, pattern, tint, int(generator.integers(0, 2**31)))
    return Drawn(scene, (PLACE_CLASSES[pattern, tint],))


_FORMATS: dict[str, tuple[DrawSample, AnswerFormat, str]] = {
    "ScienceQA": (draw_science, AnswerFormat.LETTER, "letter"),
    "TextVQA": (draw_text, AnswerFormat.SHORT, "short_answer"),
    "Flickr30k": (draw_caption, AnswerFormat.CAPTION, "cider"),
    "ImageNet": (draw_object, AnswerFormat.SHORT, "class_name"),
    "GQA": (draw_relation, AnswerFormat.SHORT, "exact"),
    "VQAv2": (draw_count, AnswerFormat.SHORT, "short_answer"),
    "VizWiz": (draw_photo, AnswerFormat.SHORT, "short_answer"),
    "TextCaps": (draw_text_caption, AnswerFormat.CAPTION, "cider"),
    "OCR-VQA": (draw_title, AnswerFormat.SHORT, "short_answer"),
    "Places365": (draw_place, AnswerFormat.SHORT, "class_name"),
}
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
    for name, value in (("num_train", num_train), ("num_test", num_test), ("shots", shots)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"cvit-mini: {name} must be a whole number of at least 1, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"cvit-mini: seed must be a whole number, got {seed!r}")
    sizes = dict.fromkeys(STREAM, num_train) | {FEW_SHOT: shots * len(PLACE_CLASSES)}

    def build(name: str) -> Task:
        draw, answer_format, scorer_name = _FORMATS[name]
        strings = cvit_instructions(name, instructions)

        def source(split: Literal["train", "test"], size: int) -> MiniSource:
            return MiniSource(name, split, size, seed, strings, draw)

        caption = answer_format is AnswerFormat.CAPTION
        return Task(
            name=name,
            answer_format=answer_format,
            scorer=scorer(scorer_name),
            also=(ExactContent(COLOUR_NAMES, SHAPES, PLACES),) if caption else (),
            train=source("train", sizes[name]) if name in sizes else None,
            test=source("test", num_test),
            instructions=strings,
            few_shot=name == FEW_SHOT,
        )

    downstream = tuple(build(name) for name in (*ZERO_SHOT, FEW_SHOT))
    return Benchmark("cvit-mini", tuple(build(name) for name in STREAM), downstream)
