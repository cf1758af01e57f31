"""Drawings and questions that several miniature benchmarks share.

Every function draws from its generator in a fixed order: another order would be another benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from lit_cvit.miniature.drawn import Drawn
from lit_cvit.miniature.glyphs import GLYPHS
from lit_cvit.miniature.names import OBJECT_CLASSES
from lit_cvit.miniature.scenes import (
    COLOURS,
    FILLS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
    random_look,
    random_shift,
)

Generator = np.random.Generator
T = TypeVar("T")
COLOUR_NAMES = tuple(COLOURS)
OBJECT_QUESTION = "What is the object in the image?"
INLINE, LINES = " {}. ", "\n{}. "
"""How the options of a question stand: behind it, or each on a line of its own."""


def one_of(generator: Generator, options: Sequence[T]) -> T:
    """Draw one of `options` uniformly."""
    return options[int(generator.integers(len(options)))]


def distinct_things(generator: Generator, count: int, places: list[int] | None = None) -> tuple[Thing, ...]:
    """Things of distinct shapes and distinct colours, so that each can be asked for by either."""
    free = list(range(9)) if places is None else places
    chosen = sorted(int(p) for p in generator.permutation(free)[:count])
    names = [str(n) for n in generator.permutation(SHAPES)[:count]]
    colours = [str(c) for c in generator.permutation(COLOUR_NAMES)[:count]]
    return tuple(
        Thing(name, colour, place, one_of(generator, FILLS), random_shift(generator))
        for name, colour, place in zip(names, colours, chosen, strict=True)
    )


def scene_of(generator: Generator, things: Sequence[Thing]) -> Scene:
    """Things on any ground."""
    return Scene(tuple(things), **random_look(generator))  # type: ignore[arg-type]


def sign_of(generator: Generator, length: int, row: int) -> tuple[Thing, ...]:
    """Glyphs of one colour side by side in a row of places."""
    start, colour = int(generator.integers(4 - length)), one_of(generator, COLOUR_NAMES)
    return tuple(
        Thing(one_of(generator, GLYPHS), colour, row * 3 + start + offset, shift=random_shift(generator))
        for offset in range(length)
    )


def written(sign: Sequence[Thing]) -> str:
    """What a sign says."""
    return "".join(thing.name for thing in sign)


def choice(
    generator: Generator,
    scene: Scene | None,
    question: str,
    right: str,
    pool: Sequence[str],
    mark: str = INLINE,
) -> Drawn:
    """A question with three lettered options out of a pool; the answer is the letter.

    Args:
        generator: Source of the draws.
        scene: What is asked about.
        question: The question without options.
        right: The right option.
        pool: What the wrong options are drawn from.
        mark: What stands before an option, with the letter in place of the braces.
    """
    others = [str(o) for o in generator.permutation([p for p in pool if p != right])[:2]]
    options = tuple(str(o) for o in generator.permutation([right, *others]))
    listed = "".join(f"{mark.format(letter)}{option}" for letter, option in zip("ABC", options, strict=True))
    return Drawn(scene, ("ABC"[options.index(right)],), f"{question}{listed}", options)


def science_question(generator: Generator, index: int, mark: str) -> Drawn:
    """Multiple choice by letter; one question in five is text alone, as half of ScienceQA is."""
    if index % 5 == 4:
        shapes = [str(s) for s in generator.permutation(SHAPES)[:2]]
        colours = [str(c) for c in generator.permutation(COLOUR_NAMES)[:2]]
        described = f"There is a {colours[0]} {shapes[0]} and a {colours[1]} {shapes[1]}."
        asked = int(generator.integers(2))
        question = f"{described} What colour is the {shapes[asked]}?"
        return choice(generator, None, question, colours[asked], COLOUR_NAMES, mark)
    scene = scene_of(generator, distinct_things(generator, int(generator.integers(1, 4))))
    thing = one_of(generator, scene.things)
    if generator.random() < 0.6:
        return choice(generator, scene, f"What colour is the {thing.name}?", thing.colour, COLOUR_NAMES, mark)
    return choice(generator, scene, f"How is the {thing.name} filled?", thing.fill, FILLS, mark)


def draw_text(generator: Generator, index: int) -> Drawn:
    """Reading rendered text; ten equal human answers as in TextVQA would add nothing, so there is one."""
    row = int(generator.integers(3))
    sign = sign_of(generator, int(generator.integers(2, 4)), row)
    others = distinct_things(generator, int(generator.integers(0, 2)), [p for p in range(9) if p // 3 != row])
    question = one_of(
        generator, ("What does it say?", "What is spelled out?", "Which signs can you make out?")
    )
    return Drawn(scene_of(generator, sign + others), (written(sign),), question)


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


def caption_of(things: tuple[Thing, ...], index: int) -> tuple[str, ...]:
    """The five references, of which each sample trains on another, as Flickr30k does."""
    references = caption_references(things)
    first = index % len(references)
    return references[first:] + references[:first]


def draw_caption(generator: Generator, index: int) -> Drawn:
    """One-sentence captions."""
    things = distinct_things(generator, int(generator.integers(1, 4)))
    return Drawn(scene_of(generator, things), caption_of(things, index))


def draw_object(generator: Generator, index: int) -> Drawn:
    """Naming the one object by a name that only the stream teaches."""
    kinds = list(OBJECT_CLASSES)
    shape, fill = kinds[index % len(kinds)]
    colour, place = one_of(generator, COLOUR_NAMES), int(generator.integers(9))
    scene = scene_of(generator, (Thing(shape, colour, place, fill, random_shift(generator)),))
    return Drawn(scene, (OBJECT_CLASSES[shape, fill],))


def ask_attribute(generator: Generator, things: Sequence[Thing], kind: int) -> tuple[str, str]:
    """A question about one of several things and its answer: colour, shape, fill or place, by `kind`."""
    thing = one_of(generator, things)
    return (
        (f"What colour is the {thing.name}?", thing.colour),
        (f"What shape is the {thing.colour} thing?", thing.name),
        (f"How is the {thing.name} filled?", thing.fill),
        (f"Where is the {thing.name}?", PLACES[thing.place]),
    )[kind]


def ask_whether(generator: Generator, things: Sequence[Thing]) -> tuple[str, str]:
    """Whether there is a thing of a colour and shape; where not, both may be there, but not together."""
    thing = one_of(generator, things)
    if generator.random() < 0.5:
        return f"Is there a {thing.colour} {thing.name}?", "yes"
    others = [t.colour for t in things if t is not thing]
    if others and generator.random() < 0.5:
        return f"Is there a {one_of(generator, others)} {thing.name}?", "no"
    absent = [s for s in SHAPES if s not in {t.name for t in things}]
    return f"Is there a {thing.colour} {one_of(generator, absent)}?", "no"


def ask_number(generator: Generator, things: Sequence[Thing]) -> tuple[str, str]:
    """How many things there are, in all or of a colour."""
    if generator.random() < 0.5:
        return "How many things are there?", str(len(things))
    colour = one_of(generator, things).colour
    return f"How many {colour} things are there?", str(sum(t.colour == colour for t in things))


def draw_relation(generator: Generator, index: int) -> Drawn:
    """Attributes and places bound to one of several objects, and in a third yes or no, as in GQA."""
    things = distinct_things(generator, int(generator.integers(2, 4)))
    if index % 3 == 2:
        question, answer = ask_whether(generator, things)
    else:
        question, answer = ask_attribute(generator, things, (index // 3 * 2 + index % 3) % 4)
    return Drawn(scene_of(generator, things), (answer,), question)


def draw_count(generator: Generator, index: int) -> Drawn:
    """Counting, yes or no, attributes and now and then reading: VQAv2 asks for everything."""
    kind = index % 8
    if kind == 7:
        return draw_text(generator, index)
    if kind in (0, 3, 6):
        count = int(generator.integers(1, 5))
        places = sorted(int(p) for p in generator.permutation(9)[:count])
        colours = [one_of(generator, COLOUR_NAMES) for _ in range(2)]
        things = tuple(
            Thing(one_of(generator, SHAPES), one_of(generator, colours), p, "solid", random_shift(generator))
            for p in places
        )
        question, answer = ask_number(generator, things)
        return Drawn(scene_of(generator, things), (answer,), question)
    things = distinct_things(generator, int(generator.integers(1, 4)))
    question, answer = (
        ask_whether(generator, things)
        if kind in (1, 4)
        else ask_attribute(generator, things, (index // 8) % 2 if kind == 2 else 2)
    )
    return Drawn(scene_of(generator, things), (answer,), question)
