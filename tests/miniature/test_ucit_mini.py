"""`ucit-mini`: what it shows and asks, recomputed from the scenes."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from mini_kit import CONTENT, asked, is_caption_of, one, samples, scene_of

from lit_cvit.data.benchmarks.ucit_mini import ucit_mini
from lit_cvit.data.tasks import AnswerFormat, Benchmark
from lit_cvit.miniature.names import RENDITION_CLASSES
from lit_cvit.miniature.scenes import COLOURS, FILLS, SHAPES
from lit_cvit.miniature.ucit import LOOKS, PHOTO_QUALITY

ORDERS = {
    "RAVICF": ("ImageNet-R", "ArxivQA", "VizWiz-cap", "IconQA", "CLEVR-Math", "Flickr30k"),
    "AIRFCV": ("ArxivQA", "IconQA", "ImageNet-R", "Flickr30k", "CLEVR-Math", "VizWiz-cap"),
    "IFRCAV": ("IconQA", "Flickr30k", "ImageNet-R", "CLEVR-Math", "ArxivQA", "VizWiz-cap"),
}
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "Generate a brief caption for the image."


@pytest.fixture(scope="module")
def mini() -> Benchmark:
    return ucit_mini()


@pytest.mark.parametrize("order", list(ORDERS))
def test_orders_are_the_published_ones(order: Any) -> None:
    assert tuple(task.name for task in ucit_mini(order=order).stream) == ORDERS[order]


def test_formats_scorers_and_instructions_are_those_of_the_real_tasks(mini: Benchmark) -> None:
    short, letter, caption = (AnswerFormat.SHORT, AnswerFormat.LETTER, AnswerFormat.CAPTION)
    found = {t.name: (t.answer_format, t.scorer.name, t.instructions) for t in mini.stream}
    assert found == {
        "ImageNet-R": (short, "class_name", (SHORT,)),
        "ArxivQA": (letter, "letter", (LETTER,)),
        "VizWiz-cap": (caption, "cider", (CAPTION,)),
        "IconQA": (letter, "letter", (LETTER,)),
        "CLEVR-Math": (short, "short_answer", (SHORT,)),
        "Flickr30k": (caption, "cider", (CAPTION,)),
    }
    assert mini.downstream == ()


def test_the_two_tasks_of_an_instruction_look_or_ask_differently(mini: Benchmark) -> None:
    """A text-only method sees one instruction; what tells the tasks apart is picture and question."""
    plain = {name: (set(look.patterns), set(look.tints), look.quality) for name, look in LOOKS.items()}
    for one_task, other in (("ImageNet-R", "CLEVR-Math"), ("ArxivQA", "IconQA"), ("VizWiz-cap", "Flickr30k")):
        assert plain[one_task] != plain[other]
    assert LOOKS["VizWiz-cap"].quality == PHOTO_QUALITY < LOOKS["Flickr30k"].quality


def test_imagenet_r_names_a_shape_whatever_its_colour_and_fill(mini: Benchmark) -> None:
    renditions: dict[str, set[tuple[str, str]]] = {}
    for sample in samples(mini.task("ImageNet-R").test):
        thing = one(list(scene_of(sample).things))
        assert sample.answers == (RENDITION_CLASSES[thing.name],)
        renditions.setdefault(thing.name, set()).add((thing.colour, thing.fill))
    assert set(renditions) == set(SHAPES)
    assert min(map(len, renditions.values())) > 5


def test_arxivqa_asks_for_the_colour_of_one_marker_of_three(mini: Benchmark) -> None:
    letters: Counter[str] = Counter()
    for sample in samples(mini.task("ArxivQA").test):
        things = list(scene_of(sample).things)
        assert sorted(t.place % 3 for t in things) == [0, 1, 2]
        match = re.fullmatch(r"What colour is the (\w+)\?", asked(sample, " {}) "))
        assert match
        right = one([t for t in things if t.name == match[1]]).colour
        assert sample.answers == ("ABC"[sample.choices.index(right)],)
        assert set(sample.choices) <= set(COLOURS)
        letters[sample.answers[0]] += 1
    assert min(letters[letter] for letter in "ABC") > 40


def test_iconqa_asks_for_colour_or_fill_of_equal_icons(mini: Benchmark) -> None:
    kinds: Counter[str] = Counter()
    for sample in samples(mini.task("IconQA").test):
        things = scene_of(sample).things
        assert 2 <= len(things) <= 4
        shape, colour, fill = one_kind = (things[0].name, things[0].colour, things[0].fill)
        assert {(t.name, t.colour, t.fill) for t in things} == {one_kind}
        rights = {f"What colour are the {shape} icons?": colour, f"How are the {shape} icons filled?": fill}
        right = rights[asked(sample, " {}) ")]
        assert sample.answers == ("ABC"[sample.choices.index(right)],)
        kinds["fill" if right in FILLS else "colour"] += 1
    assert min(kinds["fill"], kinds["colour"]) > 40


def test_clevr_math_adds_one_thing_or_takes_one_of_the_picture_away(mini: Benchmark) -> None:
    given: Counter[str] = Counter()
    for sample in samples(mini.task("CLEVR-Math").test):
        things = scene_of(sample).things
        if match := re.fullmatch(r"Subtract 1 (\w+) (\w+)\. How many things are left\?", sample.question):
            assert match.groups() in {(t.colour, t.name) for t in things}
            expected = len(things) - 1
        else:
            assert re.fullmatch(r"Add 1 \w+ \w+\. How many things are there\?", sample.question)
            expected = len(things) + 1
        assert sample.answers == (str(expected),)
        given[sample.answers[0]] += 1
    assert set(given) == set("012345")


def test_flickr30k_has_five_captions_of_what_is_there(mini: Benchmark) -> None:
    assert all(is_caption_of(sample) for sample in samples(mini.task("Flickr30k").test))


def test_vizwiz_captions_say_that_the_picture_is_blurry_and_what_it_shows(mini: Benchmark) -> None:
    for sample in samples(mini.task("VizWiz-cap").test):
        assert len(set(sample.answers)) == 5
        assert all(answer.startswith("Blurry: ") and answer.endswith(".") for answer in sample.answers)
        assert CONTENT(sample.answers, [sample] * 5) == [1.0] * 5
