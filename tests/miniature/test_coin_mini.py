"""`coin-mini`: what it shows and asks, recomputed from the scenes; the groups that its strings make."""

from __future__ import annotations

import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_kit import answer_about, asked, attribute, one, samples, scene_of, shapes_in, written

from lit_cvit.data.benchmarks.coin_mini import coin_mini
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.instructions import coin_instructions, task_orders
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Sample
from lit_cvit.methods.lcia.grouping import group_similarities, matching_group, official_instruction
from lit_cvit.metrics.boxes import iou, read_box
from lit_cvit.miniature.coin import PHOTO_QUALITY, RUINED_QUALITY
from lit_cvit.miniature.names import OBJECT_CLASSES
from lit_cvit.miniature.scenes import COLOURS, FILLS, PLACES, SHAPES, Scene, Thing, draw, thing_box

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "lcia_coin_instructions.json").read_text(encoding="utf-8")
)
TASKS = ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCR-VQA")
STYLES, WORDINGS, ORDERS = (
    ("Original", "Diverse", "10Type"),
    ("coin", "lcia_refined"),
    tuple(task_orders("coin")),
)
SHORT = "Answer the question using a single word or phrase"


@pytest.fixture(scope="module")
def mini() -> Benchmark:
    return coin_mini()


def test_formats_and_scorers_are_those_of_the_real_tasks(mini: Benchmark) -> None:
    short = AnswerFormat.SHORT
    assert {task.name: (task.answer_format, task.scorer.name) for task in mini.stream} == {
        "ScienceQA": (AnswerFormat.LETTER, "letter"),
        "TextVQA": (short, "short_answer"),
        "ImageNet": (short, "class_name"),
        "GQA": (short, "exact"),
        "VizWiz": (short, "short_answer"),
        "Grounding": (AnswerFormat.BOX, "grounding_iou"),
        "VQAv2": (short, "short_answer"),
        "OCR-VQA": (short, "short_answer"),
    }
    assert mini.downstream == ()


# -- orders, instructions and groups -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_orders_are_the_published_ones(order: Any) -> None:
    names = [task.name for task in coin_mini(order=order).stream]
    assert names == GOLDEN["task_orders"][order]
    assert [task.name for task in ContinualDataModule("coin-mini", order=order).stream] == names


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wording", WORDINGS)
def test_instructions_are_the_strings_of_coin(style: Any, wording: Any) -> None:
    benchmark = coin_mini(instructions=style, wording=wording, num_test=20)
    for task in benchmark.stream:
        assert list(task.instructions) == GOLDEN[wording][style][task.name]
        assert {sample.instruction for sample in samples(task.test)} <= set(task.instructions)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wording", WORDINGS)
def test_its_tasks_fall_into_the_groups_of_the_published_rule(wording: Any, style: Any, order: Any) -> None:
    stream = coin_mini(instructions=style, wording=wording, order=order).stream
    texts: list[list[str]] = []
    names: list[list[str]] = []
    for task in stream:
        found = group_similarities(task.instructions, texts, "mean")
        group = matching_group(found, GOLDEN["grouping_rule"]["epsilon"][style])
        if group is None:
            group = len(texts)
            texts.append([])
            names.append([])
        texts[group] += [text for text in task.instructions if text not in texts[group]]
        names[group].append(task.name)
    assert names == GOLDEN["expected_groups"][wording][style][order]["groups"]
    if (wording, order) == ("lcia_refined", "origin"):
        assert names == GOLDEN["expected_groups_paper_table10"][style]


def test_by_default_the_published_groups_follow() -> None:
    default = [task.instructions for task in coin_mini().stream]
    assert default == [task.instructions for task in coin_mini(wording="lcia_refined").stream]
    assert default != [task.instructions for task in coin_mini(wording="coin").stream]


@pytest.mark.parametrize(("name", "rule"), [("GQA", "vqa"), ("Grounding", "ref")])
@pytest.mark.parametrize("style", STYLES)
def test_the_published_code_finds_the_instruction_in_the_users_turn(name: str, rule: Any, style: Any) -> None:
    for sample in samples(coin_mini(instructions=style).task(name).train, 20):
        assert official_instruction(sample.user_text, rule) == sample.instruction


def test_prompts_are_put_together_as_in_coin(mini: Benchmark) -> None:
    gqa, region = mini.task("GQA").test.sample(0), mini.task("Grounding").test.sample(0)
    assert gqa.user_text == f"{gqa.question}\n{SHORT}"
    assert region.user_text == (
        f"Please provide the bounding box coordinate of the region this sentence describes: {region.question}"
    )
    lines = mini.task("ScienceQA").test.sample(0).user_text.split("\n")
    assert [line[:3] for line in lines[1:4]] == ["A. ", "B. ", "C. "]
    assert lines[4:] == ["Answer with the option's letter from the given choices directly"]


def test_only_coins_own_wording_asks_a_question_for_imagenet() -> None:
    refined, own = (coin_mini(wording=w).task("ImageNet").test.sample(0) for w in ("lcia_refined", "coin"))
    assert refined.user_text == "Answer the object in the image using a single word or phrase"
    assert own.user_text == f"What is the object in the image?\n{SHORT}"
    assert own.image == refined.image


def test_hides_wording_ends_with_a_full_stop_and_asks_for_imagenet() -> None:
    benchmark = coin_mini(wording="hide")
    turn = benchmark.task("ImageNet").test.sample(0).user_text
    assert turn == f"What is the object in the image?\n{SHORT}."
    assert {task.instructions for task in benchmark.stream if task.answer_format is AnswerFormat.SHORT} == {
        (f"{SHORT}.",)
    }


def test_with_10type_every_string_is_drawn_and_changes_with_the_epoch() -> None:
    train = coin_mini(instructions="10Type").task("Grounding").train
    assert train is not None
    assert {sample.instruction for sample in samples(train, 300)} == set(
        coin_instructions("Grounding", "10Type", "lcia_refined")
    )
    first, others = train.sample(0), {train.sample(0, epoch).instruction for epoch in range(1, 9)}
    assert len(others | {first.instruction}) > 3


# -- answers -------------------------------------------------------------------------------------------------


def test_scienceqa_letters_point_at_the_right_option(mini: Benchmark) -> None:
    letters: Counter[str] = Counter()
    for index, sample in enumerate(samples(mini.task("ScienceQA").test)):
        question, things = asked(sample, "\n{}. "), []
        if index % 5 == 4:
            assert sample.image is None
            stated, question = question.split(". ")
            things = [Thing(shape, colour, 0) for colour, shape in re.findall(r"a (\w+) (\w+)", stated)]
            assert len(things) == 2
        else:
            things = list(scene_of(sample).things)
        right = attribute(question, things)
        assert sample.answers == ("ABC"[sample.choices.index(right)],)
        assert set(sample.choices) <= set(FILLS if right in FILLS else COLOURS)
        letters[sample.answers[0]] += 1
    assert min(letters[letter] for letter in "ABC") > 40


def test_textvqa_asks_for_the_signs_in_reading_order(mini: Benchmark) -> None:
    for sample in samples(mini.task("TextVQA").test):
        assert sample.answers == (written(scene_of(sample)),)


def test_imagenet_names_the_object_by_shape_and_fill(mini: Benchmark) -> None:
    for sample in samples(mini.task("ImageNet").test):
        thing = one(list(scene_of(sample).things))
        assert sample.answers == (OBJECT_CLASSES[thing.name, thing.fill],)


@pytest.mark.parametrize("task", ["GQA", "VQAv2"])
def test_gqa_and_vqav2_ask_about_what_is_there(mini: Benchmark, task: str) -> None:
    """The kinds of questions are those of `cvit-mini`."""
    for sample in samples(mini.task(task).test):
        assert sample.answers == (answer_about(sample.question, scene_of(sample)),)


def answer_to_photo(sample: Sample) -> str:
    scene = scene_of(sample)
    shown = shapes_in(scene)
    if scene.quality == RUINED_QUALITY:
        return "unanswerable"
    assert scene.quality == PHOTO_QUALITY
    if match := re.fullmatch(r"What colour is the (\w+)\?", sample.question):
        return attribute(sample.question, shown) if match[1] in {t.name for t in shown} else "unanswerable"
    if sample.question.startswith("What shape"):
        return attribute(sample.question, shown)
    return written(scene)


def test_vizwiz_is_unanswerable_where_picture_and_question_say_so_and_in_a_quarter(mini: Benchmark) -> None:
    ruined = 0
    for index, sample in enumerate(samples(mini.task("VizWiz").test)):
        assert sample.answers == (answer_to_photo(sample),)
        assert (sample.answers == ("unanswerable",)) is (index % 4 == 3)
        ruined += scene_of(sample).quality == RUINED_QUALITY
    assert ruined == 25


def described(text: str, things: list[Thing]) -> Thing:
    words = set(text.removeprefix("the ").split()) - {"thing"}
    return one([t for t in things if words <= {t.name, t.colour}])


def test_grounding_asks_for_the_box_of_what_is_drawn_of_the_thing(mini: Benchmark) -> None:
    words = Counter()
    for sample in samples(mini.task("Grounding").test):
        thing = described(sample.question, list(scene_of(sample).things))
        # What the picture shows where it differs from an empty one of the same background and noise.
        scene = scene_of(sample)
        alone, empty = (Scene(t, scene.pattern, scene.tint, scene.noise) for t in ((thing,), ()))
        rows, columns = np.nonzero((draw(alone) != draw(empty)).any(axis=2))
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert sample.answers == (f"[{', '.join(f'{edge / 48:.2f}' for edge in edges)}]",)
        words[len(sample.question.split())] += 1
    assert set(words) == {2, 3}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_holds_for_its_place_alone(shape: str) -> None:
    boxes = [
        read_box(" ".join(f"{edge:.2f}" for edge in thing_box(Thing(shape, "red", place))))
        for place in range(len(PLACES))
    ]
    for place, box in enumerate(boxes):
        assert box is not None
        others = [other for other in boxes if other is not None]
        assert [iou(box, other) > Fraction(1, 2) for other in others].index(True) == place
        assert sum(iou(box, other) > 0 for other in others) == 1


def test_ocrvqa_asks_for_title_and_author_by_turns(mini: Benchmark) -> None:
    for index, sample in enumerate(samples(mini.task("OCR-VQA").test)):
        title, author = (written(scene_of(sample), row) for row in (0, 2))
        question, right = (
            ("What is the title of this book?", title),
            ("Who is the author of this book?", author),
        )[index % 2]
        assert (sample.question, sample.answers) == (question, (right,))


# -- errors --------------------------------------------------------------------------------------------------


def test_an_unknown_style_wording_and_task_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown instruction style '10type'. Did you mean '10Type'"):
        coin_mini(instructions="10type")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown wording 'lcia'. Known: coin, lcia_refined"):
        coin_mini(wording="lcia")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown CoIN task 'OCRVQA'. Did you mean 'OCR-VQA'"):
        coin_instructions("OCRVQA", "Original", "coin")


def test_an_order_beside_a_list_of_tasks_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    data = ContinualDataModule("coin-mini", tasks=["VQAv2", "GQA"], order="reverse")
    assert caplog.messages == ["data.order has no effect beside data.tasks, which is an order itself"]
    assert [task.name for task in data.stream] == ["VQAv2", "GQA"]
