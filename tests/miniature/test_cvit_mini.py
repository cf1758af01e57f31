"""`cvit-mini`: what it shows and asks, recomputed from the scenes. What all miniatures share: test_minis."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from dataclasses import replace

import pytest
from mini_kit import (
    CONTENT,
    answer_about,
    asked,
    attribute,
    is_caption_of,
    kind_of,
    one,
    samples,
    scene_of,
    written,
)

from lit_cvit.data.benchmarks.cvit_mini import cvit_mini
from lit_cvit.data.instructions import cvit_instructions
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Task
from lit_cvit.miniature.drawn import Drawn
from lit_cvit.miniature.names import OBJECT_CLASSES, PLACE_CLASSES
from lit_cvit.miniature.scenes import COLOURS, FILLS, Thing

STREAM = ("ScienceQA", "TextVQA", "Flickr30k", "ImageNet", "GQA", "VQAv2")
DOWNSTREAM = ("VizWiz", "TextCaps", "OCR-VQA", "Places365")
TASKS = (*STREAM, *DOWNSTREAM)
CAPTIONS = ("Flickr30k", "TextCaps")


@pytest.fixture(scope="module")
def mini() -> Benchmark:
    return cvit_mini()


# -- the benchmark ------------------------------------------------------------------------------------------


def test_stream_and_downstream_are_those_of_cvit_in_its_order(mini: Benchmark) -> None:
    assert tuple(task.name for task in mini.stream) == STREAM
    assert tuple(task.name for task in mini.downstream) == DOWNSTREAM
    assert [task.name for task in mini.downstream if task.few_shot] == ["Places365"]
    assert [task.name for task in mini.downstream if task.train is None] == ["VizWiz", "TextCaps", "OCR-VQA"]


def test_formats_and_scorers_are_those_of_the_real_tasks(mini: Benchmark) -> None:
    found = {name: (mini.task(name).answer_format, mini.task(name).scorer.name) for name in TASKS}
    short, caption = AnswerFormat.SHORT, (AnswerFormat.CAPTION, "cider")
    assert found == {
        "ScienceQA": (AnswerFormat.LETTER, "letter"),
        "TextVQA": (short, "short_answer"),
        "Flickr30k": caption,
        "ImageNet": (short, "class_name"),
        "GQA": (short, "exact"),
        "VQAv2": (short, "short_answer"),
        "VizWiz": (short, "short_answer"),
        "TextCaps": caption,
        "OCR-VQA": (short, "short_answer"),
        "Places365": (short, "class_name"),
    }
    assert [name for name in TASKS if mini.task(name).also] == list(CAPTIONS)


@pytest.mark.parametrize("style", ["single", "multi"])
@pytest.mark.parametrize("name", TASKS)
def test_instructions_are_the_strings_of_cvit(name: str, style: str) -> None:
    task = cvit_mini(instructions=style, num_train=30, num_test=30).task(name)  # type: ignore[arg-type]
    assert task.instructions == cvit_instructions(name, style)  # type: ignore[arg-type]
    assert {sample.instruction for sample in samples(task.test)} <= set(task.instructions)


def test_user_text_is_question_then_instruction(mini: Benchmark) -> None:
    sample = mini.task("TextVQA").test.sample(0)
    assert sample.user_text == f"{sample.question}\nAnswer the question using a single word or phrase."
    assert mini.task("Flickr30k").test.sample(0).user_text.startswith("What is happening in the presented")


# -- train and test -----------------------------------------------------------------------------------------


def test_no_degraded_test_scene_is_a_training_scene_of_any_task(mini: Benchmark) -> None:
    """Sharp, every scene of VizWiz would be a test scene too."""
    sharp = [replace(scene_of(sample), quality=1.0) for sample in samples(mini.task("VizWiz").test)]
    assert {Drawn(scene, ("",)).is_test() for scene in sharp} == {True}


def test_the_split_of_a_scene_does_not_depend_on_the_seed() -> None:
    trained, tested = cvit_mini(num_train=300, seed=1), cvit_mini(num_test=300, seed=2)
    for name in ("Flickr30k", "GQA"):
        train = {scene_of(sample).digest() for sample in samples(trained.task(name).train)}
        assert not train & {scene_of(sample).digest() for sample in samples(tested.task(name).test)}


def test_train_and_test_samples_have_other_ids(mini: Benchmark) -> None:
    task = mini.task("GQA")
    assert task.train is not None
    assert (task.train.sample(3).id, task.test.sample(3).id) == ("train-3", "test-3")


def test_sources_pickle_and_their_digest_tells_them_apart() -> None:
    task = cvit_mini(num_train=10).task("GQA")
    copy: Task = pickle.loads(pickle.dumps(task))
    assert copy.train is not None
    assert task.train is not None
    assert copy.train.sample(4) == task.train.sample(4)
    assert copy.train.digest() == task.train.digest()
    others = [
        cvit_mini(num_train=11).task("GQA").train,
        cvit_mini(num_train=10, seed=1).task("GQA").train,
        cvit_mini(num_train=10, instructions="multi").task("GQA").train,
        cvit_mini(num_train=10).task("VQAv2").train,
        task.test,
    ]
    digests = {source.digest() for source in others if source} | {task.train.digest()}
    assert len(digests) == 6


# -- answers ------------------------------------------------------------------------------------------------


def test_scienceqa_letters_point_at_the_right_option(mini: Benchmark) -> None:
    letters: Counter[str] = Counter()
    for index, sample in enumerate(samples(mini.task("ScienceQA").test)):
        question = asked(sample, " {}. ")
        if index % 5 == 4:
            assert sample.image is None
            stated, question = question.split(". ")
            pairs = re.findall(r"a (\w+) (\w+)", stated)
            assert len(pairs) == 2
            things = [Thing(shape, colour, 0) for colour, shape in pairs]
        else:
            things = list(scene_of(sample).things)
        right = attribute(question, things)
        assert sample.answers == ("ABC"[sample.choices.index(right)],)
        pool = FILLS if right in FILLS else tuple(COLOURS)
        assert set(sample.choices) <= set(pool)
        letters[sample.answers[0]] += 1
    assert min(letters[letter] for letter in "ABC") > 40


def test_textvqa_asks_for_the_signs_in_reading_order(mini: Benchmark) -> None:
    lengths = Counter()
    for sample in samples(mini.task("TextVQA").test):
        assert sample.answers == (written(scene_of(sample)),)
        lengths[len(sample.answers[0])] += 1
    assert set(lengths) == {2, 3}


@pytest.mark.parametrize("name", CAPTIONS)
def test_all_five_references_of_a_caption_say_the_same(mini: Benchmark, name: str) -> None:
    for sample in samples(mini.task(name).test, 100):
        assert is_caption_of(sample)
        if name == "TextCaps":
            reported = written(scene_of(sample))
            assert all(reference.endswith(f" a sign says {reported}.") for reference in sample.answers)


def test_training_goes_through_the_five_ways_to_say_a_caption(mini: Benchmark) -> None:
    first = [sample.answers[0] for sample in samples(mini.task("Flickr30k").train, 5)]
    assert [" ".join(caption.split()[:2]) for caption in first[1:4]] == ["There is", "You can", "The picture"]
    assert [caption.split()[0] for caption in first] == ["A", "There", "You", "The", "A"]


def test_a_caption_without_one_object_does_not_have_the_exact_content(mini: Benchmark) -> None:
    several = [s for s in samples(mini.task("Flickr30k").test, 50) if len(scene_of(s).things) > 1]
    assert several
    for sample in several:
        assert CONTENT([re.split(r",? and ", sample.answers[0])[0] + "."], [sample]) == [0.0]


def test_imagenet_names_the_object_by_shape_and_fill(mini: Benchmark) -> None:
    for sample in samples(mini.task("ImageNet").test):
        thing = one(list(scene_of(sample).things))
        assert sample.answers == (OBJECT_CLASSES[thing.name, thing.fill],)
    counts = Counter(sample.answers[0] for sample in samples(mini.task("ImageNet").test))
    assert set(counts.values()) == {20}
    assert len(counts) == 10


def test_gqa_asks_for_attributes_places_and_yes_or_no_about_one_thing_among_several(mini: Benchmark) -> None:
    kinds, verdicts = Counter(), Counter()
    for sample in samples(mini.task("GQA").test):
        assert 2 <= len(scene_of(sample).things) <= 3
        assert sample.answers == (answer_about(sample.question, scene_of(sample)),)
        kinds[kind_of(sample.question)] += 1
        verdicts += Counter(a for a in sample.answers if a in ("yes", "no"))
    assert kinds == {"What colour": 34, "What shape": 34, "How is": 33, "Where": 33, "Is": 66}
    assert min(verdicts.values()) > 25


def test_a_no_of_gqa_may_be_about_a_colour_and_a_shape_that_are_both_there(mini: Benchmark) -> None:
    """Otherwise the shape alone would decide."""
    swapped = 0
    for sample in samples(mini.task("GQA").test):
        if sample.answers == ("no",):
            colour, name = sample.question.rstrip("?").split()[-2:]
            things = scene_of(sample).things
            swapped += any(t.colour == colour for t in things) and any(t.name == name for t in things)
    assert swapped > 10


def test_vqav2_counts_says_yes_or_no_asks_for_attributes_and_reads(mini: Benchmark) -> None:
    kinds, given = Counter(), Counter()
    for index, sample in enumerate(samples(mini.task("VQAv2").test)):
        assert sample.answers == (answer_about(sample.question, scene_of(sample)),)
        kinds["read" if index % 8 == 7 else kind_of(sample.question)] += 1
        given[sample.answers[0]] += 1
    assert kinds == {"How many": 75, "Is": 50, "What colour": 13, "What shape": 12, "How is": 25, "read": 25}
    assert min(given["yes"], given["no"]) > 15
    assert min(given[count] for count in "1234") > 7


def test_vizwiz_asks_about_poor_pictures_and_reads_in_half_of_them(mini: Benchmark) -> None:
    for index, sample in enumerate(samples(mini.task("VizWiz").test)):
        scene = scene_of(sample)
        assert scene.quality == 0.6
        assert any(t.is_glyph for t in scene.things) is (index % 2 == 1)
        assert sample.answers == (answer_about(sample.question, scene),)


def test_ocrvqa_asks_for_a_line_of_three_signs(mini: Benchmark) -> None:
    for sample in samples(mini.task("OCR-VQA").test):
        assert sample.question == "What is the title of this book?"
        assert len(sample.answers[0]) == 3
        assert sample.answers == (written(scene_of(sample)),)


def test_places365_names_the_background(mini: Benchmark) -> None:
    for sample in samples(mini.task("Places365").test):
        scene = scene_of(sample)
        assert sample.answers == (PLACE_CLASSES[scene.pattern, scene.tint],)
    assert len(set(PLACE_CLASSES.values())) == 8


# -- few shots and instruction styles -----------------------------------------------------------------------


@pytest.mark.parametrize("shots", [5, 10])
def test_few_shot_training_has_shots_samples_of_every_class(shots: int) -> None:
    train = cvit_mini(shots=shots).task("Places365").train
    assert train is not None
    assert len(train) == shots * 8
    counts = Counter(sample.answers[0] for sample in samples(train))
    assert counts == dict.fromkeys(PLACE_CLASSES.values(), shots)


def test_with_multi_only_the_instruction_depends_on_the_epoch() -> None:
    train = cvit_mini(instructions="multi", num_train=200).task("GQA").train
    assert train is not None
    drawn = [{train.sample(index, epoch).instruction for epoch in range(40)} for index in range(5)]
    assert drawn == [set(cvit_instructions("GQA", "multi"))] * 5
    first, later = train.sample(7, 0), train.sample(7, 1)
    assert (first.question, first.answers, first.image, first.id) == (
        later.question,
        later.answers,
        later.image,
        later.id,
    )


def test_with_multi_every_string_is_drawn_about_equally_often() -> None:
    train = cvit_mini(instructions="multi", num_train=1000).task("GQA").train
    counts = Counter(sample.instruction for sample in samples(train))
    assert len(counts) == 5
    assert 150 < min(counts.values()) <= max(counts.values()) < 250


def test_with_single_the_instruction_is_the_same_in_every_epoch(mini: Benchmark) -> None:
    train = mini.task("GQA").train
    assert train is not None
    assert {train.sample(index, epoch).instruction for index in range(20) for epoch in range(3)} == {
        "Answer the question using a single word or phrase."
    }


# -- checks and errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -3, "few", 2.5, True, None])
def test_shots_must_be_a_whole_number_of_at_least_1(value: object) -> None:
    message = f"cvit-mini: shots must be a whole number of at least 1, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cvit_mini(shots=value)  # type: ignore[arg-type]


def test_an_unknown_instruction_style_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown instruction style 'many'. Known: single, multi"):
        cvit_mini(instructions="many")  # type: ignore[arg-type]
