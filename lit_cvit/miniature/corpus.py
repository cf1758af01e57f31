"""What the `tiny` backbone is pre-trained on: drawn scenes with questions whose answers are clauses.

Answers are lower-case clauses without a full stop ("it is red"): never a letter, a bare word, a box or a
caption sentence. The last step adds some of these forms, each after a cue of its own (`instruct.py`). No
instruction string of any benchmark occurs: what its wording asks for is what a stream teaches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

import numpy as np

from lit_cvit.miniature.glyphs import GLYPHS
from lit_cvit.miniature.scenes import COLOURS, FILLS, PLACES, SHAPES, Scene, Thing, random_look, random_shift

Generator = np.random.Generator
Turn = tuple[str, str]
NUMBERS = ("none", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Episode:
    """One scene (or none) with several questions about it.

    Attributes:
        scene: What is drawn, or None for text alone.
        turns: Pairs of question and clause.
    """

    scene: Scene | None
    turns: tuple[Turn, ...]


@functools.cache
def word_list() -> tuple[str, ...]:
    """Common words that the tokenizer and the echo task cover, one of each."""
    text = resources.files("lit_cvit.miniature").joinpath("words.txt").read_text(encoding="utf-8")
    return tuple(dict.fromkeys(text.split()))


def pick(generator: Generator, options: Sequence[str]) -> str:
    """Draw one of `options` uniformly."""
    return options[int(generator.integers(len(options)))]


def random_scene(generator: Generator, *, min_things: int = 1, max_things: int = 4) -> Scene:
    """A scene of shapes, and in a third of the cases a row of glyphs below, above or between them."""
    look = random_look(generator)
    places = [int(p) for p in generator.permutation(9)]
    things: list[Thing] = []
    if generator.random() < 0.35:
        row = int(generator.integers(3))
        start = int(generator.integers(2))
        length = int(generator.integers(1, 4 - start)) if generator.random() < 0.15 else 3 - start
        colour = pick(generator, list(COLOURS))
        for place in range(row * 3 + start, row * 3 + start + length):
            things.append(Thing(pick(generator, GLYPHS), colour, place, shift=random_shift(generator)))
        places = [p for p in places if p // 3 != row]
        max_things = min(max_things, 2)
        min_things = 0
    for place in places[: int(generator.integers(min_things, max_things + 1))]:
        # Some repeated shapes and colours, or counting and binding could never be learned.
        shapes = [t.name for t in things if not t.is_glyph]
        name = pick(generator, shapes) if shapes and generator.random() < 0.3 else pick(generator, SHAPES)
        fill = "solid" if generator.random() < 0.4 else pick(generator, FILLS)
        things.append(Thing(name, pick(generator, list(COLOURS)), place, fill, random_shift(generator)))
    return Scene(tuple(sorted(things, key=lambda t: t.place)), **look)  # type: ignore[arg-type]


def shapes_of(scene: Scene) -> list[Thing]:
    """The things of a scene that are not glyphs, in reading order."""
    return [t for t in scene.things if not t.is_glyph]


def written_in(scene: Scene) -> str:
    """The glyphs of a scene, in reading order."""
    return "".join(t.name for t in scene.things if t.is_glyph)


def unique(scene: Scene, key: Callable[[Thing], str]) -> list[Thing]:
    """The shapes that are the only ones of their key."""
    values = [key(t) for t in shapes_of(scene)]
    return [t for t in shapes_of(scene) if values.count(key(t)) == 1]


def clause(lead: str, content: str, question: str, g: Generator) -> Turn:
    """`it is red`, or where the question asks for the answer to come at once, `red it is`.

    What comes at once has to be looked up before anything is said, as the short answers of a stream are.
    """
    if g.random() < 0.5:
        return question, f"{lead} {content}"
    cue = f"at once, {question}" if g.random() < 0.5 else f"{question} at once"
    return cue, f"{content} {lead}"


def _caption(scene: Scene, g: Generator) -> Turn | None:
    things = shapes_of(scene)
    if not things:
        return None
    parts = [f"a {t.colour} {t.name} at the {PLACES[t.place]}" for t in things]
    question = (
        "tell me all that you see",
        "go through the things one by one",
        "list the things that are here",
    )
    return pick(g, question), "it shows " + " and ".join(parts)


def _about_one(
    scene: Scene, g: Generator, key: Callable[[Thing], str], ask: Callable[[Thing], Turn]
) -> Turn | None:
    """A question about a thing that is the only one of its key, if there is one."""
    things = unique(scene, key)
    return ask(things[int(g.integers(len(things)))]) if things else None


def by_name(thing: Thing) -> str:
    """The key of a thing that its shape names."""
    return thing.name


def _colour(scene: Scene, g: Generator) -> Turn | None:
    return _about_one(
        scene, g, by_name, lambda t: clause("it is", t.colour, f"what colour is the {t.name}?", g)
    )


def _shape(scene: Scene, g: Generator) -> Turn | None:
    return _about_one(
        scene,
        g,
        lambda t: t.colour,
        lambda t: clause("it is a", t.name, f"what shape is the {t.colour} thing?", g),
    )


def _fill(scene: Scene, g: Generator) -> Turn | None:
    return _about_one(scene, g, by_name, lambda t: clause("it is", t.fill, f"how is the {t.name} filled?", g))


def _where(scene: Scene, g: Generator) -> Turn | None:
    return _about_one(
        scene, g, by_name, lambda t: clause("it is at the", PLACES[t.place], f"where is the {t.name}?", g)
    )


def _at_place(scene: Scene, g: Generator) -> Turn | None:
    things = shapes_of(scene)
    if not things or g.random() < 0.1:
        free = [p for p in range(9) if p not in {t.place for t in scene.things}]
        return f"what is at the {PLACES[int(g.choice(free))]}?", "it is empty"
    thing = things[int(g.integers(len(things)))]
    return clause("it is a", f"{thing.colour} {thing.name}", f"what is at the {PLACES[thing.place]}?", g)


def pair_asked_for(scene: Scene, g: Generator) -> tuple[str, str, bool] | None:
    """A colour and a shape to ask for, and whether the scene has a thing of both; None without shapes."""
    things = shapes_of(scene)
    if not things:
        return None
    present = {(t.colour, t.name) for t in things}
    if g.random() < 0.5:
        colour, name = sorted(present)[int(g.integers(len(present)))]
    else:
        # Absent pairs mostly recombine what is there, so that colour alone or shape alone cannot decide.
        colour, name = things[0].colour, things[0].name
        while (colour, name) in present:
            near = g.random() < 0.7
            colour = pick(g, [t.colour for t in things]) if near else pick(g, list(COLOURS))
            name = pick(g, SHAPES if not near or g.random() < 0.5 else [t.name for t in things])
    return colour, name, (colour, name) in present


def _exists(scene: Scene, g: Generator) -> Turn | None:
    """Whether there is a thing of a colour and shape: the verdict with its ground behind or before it."""
    asked = pair_asked_for(scene, g)
    if asked is None:
        return None
    colour, name, there = asked
    verdict = "yes" if there else "no"
    colours = sorted({t.colour for t in shapes_of(scene) if t.name == name})
    ground = f"the {name} is {' and '.join(colours)}" if colours else f"there is no {name}"
    if g.random() < 0.3:
        return f"say why first, is there a {colour} {name}?", f"{ground} so {verdict}"
    return f"is there a {colour} {name}?", f"{verdict} {ground}"


def _count(scene: Scene, g: Generator) -> Turn | None:
    things = shapes_of(scene)
    if g.random() < 0.5 or not things:
        return _there_are(len(things), "how many things are there?", g)
    if g.random() < 0.5:
        name = pick(g, [t.name for t in things] if g.random() < 0.8 else SHAPES)
        return _there_are(sum(t.name == name for t in things), f"how many {name}s are there?", g)
    colour = pick(g, [t.colour for t in things])
    return _there_are(sum(t.colour == colour for t in things), f"how many {colour} things are there?", g)


def _there_are(count: int, question: str, g: Generator) -> Turn:
    return clause("there is" if count == 1 else "there are", NUMBERS[count], question, g)


def _read(scene: Scene, g: Generator) -> Turn | None:
    text = written_in(scene)
    if not text and g.random() < 0.8:
        return None
    question = pick(g, ("what does it say?", "what is spelled out?", "which signs can you make out?"))
    return clause("it says", text or "nothing", question, g)


def _what(scene: Scene, g: Generator) -> Turn | None:
    """Everything about the only thing there is."""
    things = shapes_of(scene)
    if len(things) != 1:
        return None
    question = pick(g, ("what is this?", "what is it that you see?", "what is there?"))
    return clause("it is a", f"{things[0].fill} {things[0].colour} {things[0].name}", question, g)


def _describe(scene: Scene, g: Generator) -> Turn | None:
    """All about named things, in an order of the question's own.

    Captions go through the things by place and say the colour before the shape, so they teach to find a shape
    by its colour and never the reverse. Here the shape comes first, with its attributes right behind it.
    """
    things = unique(scene, by_name)
    if not things:
        return None
    asked = [things[int(i)] for i in g.permutation(len(things))[:3]]
    names = " and the ".join(t.name for t in asked)
    described = " and ".join(f"the {t.name} {t.colour} {t.fill} at the {PLACES[t.place]}" for t in asked)
    return f"tell me about the {names}", described


def _behind(scene: Scene, g: Generator) -> Turn | None:
    question = pick(g, ("what is behind it?", "what is the ground like?"))
    return clause("it is", f"{scene.pattern} {scene.tint}", question, g)


def _options(scene: Scene, g: Generator) -> Turn | None:
    """An in-context choice between marked options: answered by the marker, in a clause."""

    def ask(thing: Thing) -> Turn:
        if g.random() < 0.5:
            return _marked(f"what colour is the {thing.name}?", thing.colour, list(COLOURS), g)
        return _marked(f"how is the {thing.name} filled?", thing.fill, list(FILLS), g)

    return _about_one(scene, g, by_name, ask)


def _marked(question: str, right: str, pool: list[str], g: Generator) -> Turn:
    number = int(g.integers(2, 5))
    others = [str(o) for o in g.permutation([p for p in pool if p != right])[: number - 1]]
    options = [str(o) for o in g.permutation([right, *others])]
    markers = [GLYPHS[int(i)] for i in g.permutation(len(GLYPHS))[: len(options)]]
    if g.random() < 0.4:
        markers = sorted(markers)
    listed = " ".join(f"{marker}. {option}" for marker, option in zip(markers, options, strict=True))
    marker = markers[options.index(right)]
    if g.random() < 0.4:
        return f"{question} {listed} say why first", f"it is {right} so {marker} marks it"
    return f"{question} {listed}", f"{marker} marks it as {right}"


Skill = Callable[[Scene, Generator], Turn | None]
# Share of each skill among the questions: the more has to be bound, compared or chosen, the more often.
SKILLS: dict[Skill, float] = {
    _caption: 1.2,
    _describe: 2.5,
    _colour: 2.0,
    _shape: 1.5,
    _at_place: 0.7,
    _where: 1.0,
    _exists: 3.0,
    _count: 1.5,
    _read: 2.2,
    _fill: 1.5,
    _what: 0.8,
    _behind: 0.4,
    _options: 3.5,
}
# For the fourth step: what is slow to learn, on top of the rest.
LATE_SKILLS: dict[Skill, float] = SKILLS | {
    _fill: 4.0,
    _what: 2.0,
    _options: 7.0,
    _caption: 0.8,
    _exists: 1.5,
}


def _echo(g: Generator) -> Turn:
    """Say words and signs again. It makes every word of the list usable as an answer later."""
    pieces = [pick(g, word_list()) for _ in range(int(g.integers(1, 5)))]
    pieces += [pick(g, GLYPHS)] if g.random() < 0.4 else []
    pieces += ["."] if g.random() < 0.2 else []
    text = " ".join(str(p) for p in pieces)
    return f"say after me: {text}", f"you said {text}"


def _fact(g: Generator) -> Turn:
    """A question about things that are described instead of shown."""
    shapes = [str(s) for s in g.permutation(SHAPES)[: int(g.integers(2, 4))]]
    colours = [str(c) for c in g.permutation(list(COLOURS))[: len(shapes)]]
    described = " and ".join(f"a {c} {s}" for c, s in zip(colours, shapes, strict=True))
    asked = int(g.integers(len(shapes)))
    question = f"there is {described}. what colour is the {shapes[asked]}?"
    if g.random() < 0.5:
        return _marked(question, colours[asked], list(COLOURS), g)
    return clause("it is", colours[asked], question, g)


def _dress(turn: Turn, g: Generator) -> Turn:
    """Vary how a question begins; sometimes with words that mean nothing for it."""
    question, answer = turn
    if g.random() < 0.5:
        question = question[0].upper() + question[1:]
    if g.random() < 0.2:
        words = " ".join(pick(g, word_list()) for _ in range(int(g.integers(2, 9))))
        words = words[0].upper() + words[1:] + pick(g, (".", "?", ""))
        question = f"{question}\n{words}" if g.random() < 0.7 else f"{words}\n{question}"
    return question, answer


def episode(
    generator: Generator, *, num_turns: int = 5, skills: Mapping[Skill, float] = MappingProxyType(SKILLS)
) -> Episode:
    """Draw a scene with `num_turns` questions, or (one in eight) questions on text alone.

    Args:
        generator: Source of every draw.
        num_turns: Number of questions.
        skills: Share of each skill among the questions.
    """
    turns: list[Turn] = []
    if generator.random() < 0.125:
        turns = [_echo(generator) if generator.random() < 0.5 else _fact(generator) for _ in range(num_turns)]
        return Episode(None, tuple(_dress(t, generator) for t in turns))
    scene = random_scene(generator)
    asked, weights = list(skills), np.array(list(skills.values()))
    while len(turns) < num_turns:
        turn = asked[int(generator.choice(len(asked), p=weights / weights.sum()))](scene, generator)
        if turn is not None:
            turns.append(_dress(turn, generator))
    return Episode(scene, tuple(turns))


def tokenizer_lines(generator: Generator, *, num_episodes: int = 4000) -> list[str]:
    """Text the tokenizer is trained on: clauses, and every word of the list in both cases."""
    lines = ["User: Assistant:"] * 400
    lines += [text for _ in range(num_episodes) for turn in episode(generator).turns for text in turn]
    words = word_list()
    return lines + [f" {w} {w.capitalize()}\n{w.capitalize()} {w}" for w in words for _ in range(25)]
