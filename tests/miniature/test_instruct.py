"""The last step of `tiny`'s recipe: right answers in the form of the cue, and no wording of a benchmark."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_kit import attribute, one, shapes_in, written

from lit_cvit.data import instructions
from lit_cvit.miniature import corpus, instruct
from lit_cvit.miniature.names import OBJECT_CLASSES, PLACE_CLASSES, RENDITION_CLASSES
from lit_cvit.miniature.scenes import PLACES, Scene, thing_box

NAMES = {*OBJECT_CLASSES.values(), *PLACE_CLASSES.values(), *RENDITION_CLASSES.values()}


def turns(skill: corpus.Skill | None = None, count: int = 400) -> Iterator[tuple[Scene, str, str]]:
    """Scene, question and answer of a skill, or of the step's mixture."""
    generator = np.random.default_rng(5)
    skills = instruct.instructed_skills(0.5) if skill is None else {skill: 1.0}
    found = 0
    while found < count:
        if skill is None:
            episode = corpus.episode(generator, skills=skills)
            scene, asked = episode.scene, episode.turns
        else:
            scene = corpus.random_scene(generator)
            turn = skill(scene, generator)
            asked = () if turn is None else (turn,)
        for question, answer in asked:
            found += 1
            yield scene or Scene(()), question, answer


def question_of(text: str, cues: tuple[str, ...]) -> str:
    """A question without the cue behind or before it, whose full stop may be missing."""
    (cue,) = [cue.rstrip(".") for cue in cues if cue.rstrip(".") in text]
    question = text.replace(f"{cue}.", "").replace(cue, "").strip()
    return question[0].upper() + question[1:]


@pytest.mark.parametrize("skill", [instruct._word, instruct._shape])
def test_an_attribute_is_said_alone_after_a_cue(skill: corpus.Skill) -> None:
    for scene, text, answer in turns(skill, 100):
        assert answer == attribute(question_of(text, instruct._WORD_CUES), shapes_in(scene))


def test_yes_or_no_a_digit_and_a_sign_are_said_alone_after_a_cue() -> None:
    for scene, text, answer in turns(instruct._verdict, 100):
        colour, name = question_of(text, instruct._WORD_CUES).rstrip("?").split()[-2:]
        assert answer == ("yes" if any((t.colour, t.name) == (colour, name) for t in scene.things) else "no")
    for scene, _, answer in turns(instruct._digit, 50):
        assert answer == str(len(shapes_in(scene)))


def test_one_more_and_one_less_are_counted() -> None:
    for scene, question, answer in turns(instruct._sum, 100):
        number = len(shapes_in(scene)) + (1 if "one more" in question.lower() else -1)
        assert answer in (str(number), f"then there are {corpus.NUMBERS[number]}")


def test_a_title_is_a_sign_at_the_top_and_an_author_one_at_the_bottom() -> None:
    rows = Counter()
    for scene, question, answer in turns(instruct._sign, 300):
        assert answer == written(scene)
        row = next(thing.place // 3 for thing in scene.things if thing.is_glyph)
        asked = "title" if "title" in question else "author" if re.search("author|wrote", question) else ""
        assert asked in ("", {0: "title", 2: "author"}.get(row))
        rows[asked] += 1
    assert min(rows.values()) > 30
    assert len(rows) == 3


def test_how_far_a_thing_reaches_is_its_box() -> None:
    for scene, question, answer in turns(instruct._extent, 100):
        name = question.removesuffix(" reach?").split()[-1]
        left, top, right, bottom = thing_box(one([t for t in shapes_in(scene) if t.name == name]))
        assert answer == f"from {left:.2f}, {top:.2f} to {right:.2f}, {bottom:.2f}"


def test_the_letter_of_the_right_option_is_said_alone_after_a_cue() -> None:
    given = Counter()
    for scene, text, answer in turns(instruct._letter):
        question, listed = question_of(text, instruct._LETTER_CUES).split("?")
        options = dict(re.findall(r"([A-D])[.)] ([\w ]+?)(?=\s[A-D][.)]|$)", listed.strip()))
        assert options[answer] == attribute(f"{question}?", shapes_in(scene))
        given[answer] += 1
    assert set(given) == set("ABCD")


def test_a_sentence_names_everything_with_its_place_and_has_its_full_stop() -> None:
    for scene, text, answer in turns(instruct._sentence, 100):
        assert any(cue.rstrip(".") in text for cue in instruct._SENTENCE_CUES)
        assert answer.endswith(".")
        for thing in shapes_in(scene):
            assert f"a {thing.colour} {thing.name} at the {PLACES[thing.place]}" in answer


def test_a_name_is_never_said_by_itself_and_is_that_of_what_is_shown() -> None:
    """A stream still teaches that a name stands by itself."""
    seen = set()
    for scene, _, answer in turns(instruct._name, 1500):
        (name,) = NAMES & set(answer.split())
        assert len(answer.split()) > 1
        of_things = {OBJECT_CLASSES.get((t.name, t.fill)) for t in shapes_in(scene)}
        of_things |= {RENDITION_CLASSES[t.name] for t in shapes_in(scene)}
        assert name in of_things | {PLACE_CLASSES.get((scene.pattern, scene.tint))}
        seen.add(name)
    assert seen == NAMES


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_in(part)


def test_no_question_has_an_instruction_string_of_a_benchmark() -> None:
    folder = Path(instructions.__file__).parent
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    strings = {
        text.strip(" .\n").lower() for file in files for text in strings_in(file) if " " in text.strip()
    }
    assert "answer the question using a single word or phrase" in strings
    for _, question, answer in turns(count=4000):
        assert not [text for text in strings if text in f"{question}\n{answer}".lower()]


def test_the_share_of_the_new_forms_is_the_recipes() -> None:
    skills = instruct.instructed_skills(0.3)
    new = sum(weight for skill, weight in skills.items() if skill not in corpus.LATE_SKILLS)
    assert (sum(skills.values()), new) == (pytest.approx(1), pytest.approx(0.3))
