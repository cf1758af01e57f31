"""What the last step of `tiny`'s pre-training asks: answers in the form that a cue asks for, and names.

An instruction-tuned model knows the forms of answers (a word, a letter, a sentence) and what things are
called before a stream teaches it the wordings of a benchmark. No cue here is an instruction string of a
benchmark, and names of things occur in clauses or behind an article, so a stream still teaches which form
its wording asks for, which names its classes have, and that a class name stands by itself.
"""

from __future__ import annotations

from lit_cvit.miniature import corpus
from lit_cvit.miniature.corpus import (
    NUMBERS,
    Generator,
    Skill,
    Turn,
    clause,
    pick,
    shapes_of,
    unique,
    written_in,
)
from lit_cvit.miniature.names import OBJECT_CLASSES, PLACE_CLASSES, RENDITION_CLASSES
from lit_cvit.miniature.scenes import COLOURS, FILLS, PLACES, Scene, Thing, thing_box

_WORD_CUES = (
    "Keep it short.",
    "No whole clause, please.",
    "Just that.",
    "One word, please.",
    "A word or a phrase will do.",
)
_LETTER_CUES = ("Give its letter only.", "Only the letter, please.", "Just say which letter it is.")
_SENTENCE_CUES = (
    "Describe the picture in one full sentence.",
    "Put what you see into one sentence.",
    "Tell me what is shown, as one sentence.",
    "A caption for it, please.",
)
_SEEN = ("what do you see?", "what is shown?", "what does the image show?")
_OBJECT_QUESTIONS = (
    "what object is it?",
    "what is the object?",
    "what is the object called?",
    "which object is in the image?",
    "what is the object in this picture?",
    "what is that object in the image?",
)
_TITLES, _AUTHORS = (
    ("what is the title?", "what is the title of it?"),
    ("who is the author?", "who wrote it?"),
)
_SENTENCES = (
    ("Here is a {0} at the {1}", " and a {0} at the {1}"),
    ("The image has a {0} at the {1}", ", and a {0} at the {1}"),
    ("I see a {0} at the {1}", " and also a {0} at the {1}"),
)


def _cued(question: str, cues: tuple[str, ...], g: Generator) -> str:
    """The question with a cue behind or before it; where it ends the text, its full stop may be missing."""
    cue = pick(g, cues)
    between = "\n" if g.random() < 0.5 else " "
    if g.random() < 0.3:
        return f"{cue}{between}{question}"
    return f"{question}{between}{cue.rstrip('.') if g.random() < 0.5 else cue}"


def _attribute(thing: Thing, g: Generator) -> tuple[str, str]:
    """A question about an attribute of a thing that its shape names, and the bare answer."""
    return (
        (f"what colour is the {thing.name}?", thing.colour),
        (f"how is the {thing.name} filled?", thing.fill),
        (f"where is the {thing.name}?", PLACES[thing.place]),
    )[int(g.integers(3))]


def _word(scene: Scene, g: Generator) -> Turn | None:
    """An attribute of a thing, said alone."""
    things = unique(scene, corpus.by_name)
    if not things:
        return None
    question, answer = _attribute(things[int(g.integers(len(things)))], g)
    return _cued(question, _WORD_CUES, g), answer


def _shape(scene: Scene, g: Generator) -> Turn | None:
    things = unique(scene, lambda t: t.colour)
    if not things:
        return None
    thing = things[int(g.integers(len(things)))]
    return _cued(f"what shape is the {thing.colour} thing?", _WORD_CUES, g), thing.name


def _verdict(scene: Scene, g: Generator) -> Turn | None:
    """Yes or no, said alone."""
    asked = corpus.pair_asked_for(scene, g)
    if asked is None:
        return None
    colour, name, there = asked
    return _cued(f"is there a {colour} {name}?", _WORD_CUES, g), "yes" if there else "no"


def _digit(scene: Scene, g: Generator) -> Turn | None:
    """How many things there are, as a digit."""
    things = shapes_of(scene)
    if not things:
        return None
    return _cued("how many things are there?", _WORD_CUES, g), str(len(things))


def _sum(scene: Scene, g: Generator) -> Turn | None:
    """How many things there would be with one more or one less, as a digit or in a clause."""
    number = len(shapes_of(scene))
    if not number:
        return None
    question, change = (
        ("one more comes. how many things are there then?", 1),
        ("one of them goes. how many things are left?", -1),
    )[int(g.integers(2))]
    if g.random() < 0.5:
        return _cued(question, _WORD_CUES, g), str(number + change)
    return question, f"then there are {NUMBERS[number + change]}"


def _sign(scene: Scene, g: Generator) -> Turn | None:
    """What is written, said alone; a title stands at the top, an author at the bottom."""
    text = written_in(scene)
    if not text:
        return None
    question = pick(g, ("what does it say?", "what is spelled out?", "which signs can you make out?"))
    row = next(thing.place // 3 for thing in scene.things if thing.is_glyph)
    if row != 1 and g.random() < 0.5:
        question = pick(g, _TITLES if row == 0 else _AUTHORS)
    return _cued(question, _WORD_CUES, g), text


def _extent(scene: Scene, g: Generator) -> Turn | None:
    """How far a thing reaches, as shares of width and height: left and top, then right and bottom."""
    things = unique(scene, corpus.by_name)
    if not things:
        return None
    thing = things[int(g.integers(len(things)))]
    left, top, right, bottom = (f"{edge:.2f}" for edge in thing_box(thing))
    described = (thing.name, f"{thing.colour} {thing.name}")[int(g.integers(2))]
    return f"how far does the {described} reach?", f"from {left}, {top} to {right}, {bottom}"


def _letter(scene: Scene, g: Generator) -> Turn | None:
    """A choice between options marked A to D, answered by the letter alone."""
    things = unique(scene, corpus.by_name)
    if not things:
        return None
    thing = things[int(g.integers(len(things)))]
    question, right, pool = (
        (f"what colour is the {thing.name}?", thing.colour, list(COLOURS)),
        (f"how is the {thing.name} filled?", thing.fill, list(FILLS)),
    )[int(g.integers(2))]
    others = [str(o) for o in g.permutation([p for p in pool if p != right])[: int(g.integers(1, 4))]]
    options = [str(o) for o in g.permutation([right, *others])]
    between, mark = pick(g, (" ", "\n")), pick(g, (".", ")"))
    listed = "".join(f"{between}{letter}{mark} {o}" for letter, o in zip("ABCD", options, strict=False))
    return _cued(f"{question}{listed}", _LETTER_CUES, g), "ABCD"[options.index(right)]


def _sentence(scene: Scene, g: Generator) -> Turn | None:
    """All that there is as one sentence with its full stop."""
    things = shapes_of(scene)
    if not things:
        return None
    first, further = _SENTENCES[int(g.integers(len(_SENTENCES)))]
    parts = [
        form.format(f"{t.colour} {t.name}", PLACES[t.place])
        for form, t in zip([first] + [further] * (len(things) - 1), things, strict=True)
    ]
    asked = pick(g, _SENTENCE_CUES) if g.random() < 0.4 else _cued(pick(g, _SEEN), _SENTENCE_CUES, g)
    return asked, "".join(parts) + "."


def _name(scene: Scene, g: Generator) -> Turn | None:
    """What a thing or the ground is called: in a clause, now and then after a cue behind its article."""
    things = unique(scene, corpus.by_name)
    place = PLACE_CLASSES.get((scene.pattern, scene.tint))
    if place is not None and (not things or g.random() < 0.4):
        return _called("it might be a", place, "where might this be?", g)
    if not things:
        return None
    thing = things[int(g.integers(len(things)))]
    alone = len(shapes_of(scene)) == 1 and g.random() < 0.8
    name = OBJECT_CLASSES.get((thing.name, thing.fill), RENDITION_CLASSES[thing.name])
    if g.random() < 0.7:
        asked = _OBJECT_QUESTIONS if alone else (f"what object is the {thing.name}?",)
        return _called("it is a", name, pick(g, asked), g)
    it = "it" if alone else f"the {thing.name}"
    return _called("it stands for a", RENDITION_CLASSES[thing.name], f"what does {it} stand for?", g)


def _called(lead: str, name: str, question: str, g: Generator) -> Turn:
    if g.random() < 0.25:
        return _cued(question, _WORD_CUES, g), f"a {name}"
    return clause(lead, name, question, g)


_FORMS: dict[Skill, float] = {
    _word: 6.0,
    _shape: 2.0,
    _verdict: 2.0,
    _digit: 2.0,
    _sum: 1.0,
    _sign: 3.0,
    _extent: 2.0,
    _letter: 1.5,
    _sentence: 2.0,
    _name: 5.0,
}


def instructed_skills(share: float) -> dict[Skill, float]:
    """The skills of the step before, and those of this step with `share` of all questions."""
    old, new = sum(corpus.LATE_SKILLS.values()), sum(_FORMS.values())
    before = {skill: (1 - share) * weight / old for skill, weight in corpus.LATE_SKILLS.items()}
    return before | {skill: share * weight / new for skill, weight in _FORMS.items()}
