"""What `ucit-mini` draws: a scene and a question for each task of the UCIT benchmark."""

from __future__ import annotations

from lit_cvit.data.tasks import AnswerFormat
from lit_cvit.miniature.drawing import (
    COLOUR_NAMES,
    OBJECT_QUESTION,
    Generator,
    caption_of,
    choice,
    distinct_things,
    one_of,
    scene_of,
)
from lit_cvit.miniature.drawn import Drawn, Look, MiniTask
from lit_cvit.miniature.names import RENDITION_CLASSES
from lit_cvit.miniature.scenes import FILLS, SHAPES, Thing, random_shift

PHOTO_QUALITY = 0.6
_BRACKET = " {}) "
_HAPPENING = "What is happening in the image?"


LOOKS = {
    "ImageNet-R": Look(("wavy", "checked"), ("brown", "moss")),
    "ArxivQA": Look(("lined",), ("navy", "grey")),
    "VizWiz-cap": Look(quality=PHOTO_QUALITY),
    "IconQA": Look(("plain",), ("moss",)),
    "CLEVR-Math": Look(("plain",), ("grey",)),
    "Flickr30k": Look(("spotted", "barred"), ("navy", "brown")),
}


def draw_rendition(generator: Generator, index: int) -> Drawn:
    """Naming a shape whatever its colour and fill, by a name that only the stream teaches."""
    shape = SHAPES[index % len(SHAPES)]
    colour, place = one_of(generator, COLOUR_NAMES), int(generator.integers(9))
    thing = Thing(shape, colour, place, one_of(generator, FILLS), random_shift(generator))
    return Drawn(scene_of(generator, (thing,)), (RENDITION_CLASSES[shape],), OBJECT_QUESTION)


def draw_figure(generator: Generator, index: int) -> Drawn:
    """A plot on ruled paper: a marker in each column, all of other shapes and colours; one's colour."""
    rows = [int(row) for row in generator.permutation(3)]
    shapes = [str(shape) for shape in generator.permutation(SHAPES)[:3]]
    colours = [str(colour) for colour in generator.permutation(COLOUR_NAMES)[:3]]
    markers = [
        Thing(shape, colour, 3 * row + column, "solid", random_shift(generator))
        for column, (shape, colour, row) in enumerate(zip(shapes, colours, rows, strict=True))
    ]
    scene = scene_of(generator, sorted(markers, key=lambda thing: thing.place))
    asked = markers[index % 3]
    return choice(generator, scene, f"What colour is the {asked.name}?", asked.colour, COLOUR_NAMES, _BRACKET)


def draw_blurred(generator: Generator, index: int) -> Drawn:
    """Captions of blurred photos, which say so."""
    things = distinct_things(generator, int(generator.integers(1, 3)))
    return Drawn(scene_of(generator, things), _blurred(things, index), _HAPPENING)


def _blurred(things: tuple[Thing, ...], index: int) -> tuple[str, ...]:
    """The five references of a sharp picture, worded as those of a blurred one."""
    return tuple(f"Blurry: {text[0].lower()}{text[1:]}" for text in caption_of(things, index))


def draw_icons(generator: Generator, index: int) -> Drawn:
    """Two to four equal icons on a plain ground; their colour or their fill, by letter."""
    shape, colour = one_of(generator, SHAPES), one_of(generator, COLOUR_NAMES)
    fill, count = one_of(generator, FILLS), int(generator.integers(2, 5))
    places = sorted(int(place) for place in generator.permutation(9)[:count])
    icons = [Thing(shape, colour, place, fill, random_shift(generator)) for place in places]
    scene = scene_of(generator, icons)
    if index % 3 == 2:
        return choice(generator, scene, f"How are the {shape} icons filled?", fill, FILLS, _BRACKET)
    return choice(generator, scene, f"What colour are the {shape} icons?", colour, COLOUR_NAMES, _BRACKET)


def draw_sum(generator: Generator, index: int) -> Drawn:
    """How many things there are after one is added or taken away."""
    count = int(generator.integers(1, 5))
    places = sorted(int(place) for place in generator.permutation(9)[:count])
    things = [
        Thing(
            one_of(generator, SHAPES),
            one_of(generator, COLOUR_NAMES),
            place,
            "solid",
            random_shift(generator),
        )
        for place in places
    ]
    scene = scene_of(generator, things)
    if index % 2:
        removed = one_of(generator, things)
        question = f"Subtract 1 {removed.colour} {removed.name}. How many things are left?"
        return Drawn(scene, (str(count - 1),), question)
    question = (
        f"Add 1 {one_of(generator, COLOUR_NAMES)} {one_of(generator, SHAPES)}. How many things are there?"
    )
    return Drawn(scene, (str(count + 1),), question)


def draw_scene_caption(generator: Generator, index: int) -> Drawn:
    """One-sentence captions of sharp pictures."""
    things = distinct_things(generator, int(generator.integers(1, 4)))
    return Drawn(scene_of(generator, things), caption_of(things, index), _HAPPENING)


TASKS = {
    "ImageNet-R": MiniTask(draw_rendition, AnswerFormat.SHORT, "class_name", LOOKS["ImageNet-R"]),
    "ArxivQA": MiniTask(draw_figure, AnswerFormat.LETTER, "letter", LOOKS["ArxivQA"]),
    "VizWiz-cap": MiniTask(draw_blurred, AnswerFormat.CAPTION, "cider", LOOKS["VizWiz-cap"]),
    "IconQA": MiniTask(draw_icons, AnswerFormat.LETTER, "letter", LOOKS["IconQA"]),
    "CLEVR-Math": MiniTask(draw_sum, AnswerFormat.SHORT, "short_answer", LOOKS["CLEVR-Math"]),
    "Flickr30k": MiniTask(draw_scene_caption, AnswerFormat.CAPTION, "cider", LOOKS["Flickr30k"]),
}
