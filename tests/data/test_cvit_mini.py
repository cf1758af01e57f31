"""`cvit-mini`: what it shows and asks, recomputed from the scenes, and that train and test never meet."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lit_cvit.data.benchmarks import benchmark_names, load_benchmark
from lit_cvit.data.benchmarks.cvit_mini import OBJECT_CLASSES, PLACE_CLASSES, cvit_mini
from lit_cvit.data.benchmarks.mini import Drawn
from lit_cvit.data.check import check_benchmark
from lit_cvit.data.instructions import cvit_instructions
from lit_cvit.data.scenes import COLOURS, FILLS, PLACES, SHAPES, DrawnImage, Scene, Thing
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Sample, SampleSource, Task
from lit_cvit.metrics.following import follows
from lit_cvit.metrics.scoring import ExactContent

STREAM = ("ScienceQA", "TextVQA", "Flickr30k", "ImageNet", "GQA", "VQAv2")
DOWNSTREAM = ("VizWiz", "TextCaps", "OCR-VQA", "Places365")
TASKS = (*STREAM, *DOWNSTREAM)
CAPTIONS = ("Flickr30k", "TextCaps")


@pytest.fixture(scope="module")
def mini() -> Benchmark:
    return cvit_mini()


def samples(source: SampleSource | None, count: int | None = None) -> Iterator[Sample]:
    assert source is not None
    return (source.sample(index) for index in range(len(source) if count is None else count))


def scene_of(sample: Sample) -> Scene:
    assert isinstance(sample.image, DrawnImage)
    return sample.image.scene


def one(things: list[Thing]) -> Thing:
    (thing,) = things
    return thing


def written(scene: Scene) -> str:
    signs = sorted((t for t in scene.things if t.is_glyph), key=lambda t: t.place)
    assert [t.place for t in signs] == list(range(signs[0].place, signs[0].place + len(signs)))
    assert len({t.place // 3 for t in signs}) == 1
    return "".join(t.name for t in signs)


def attribute(question: str, things: list[Thing]) -> str:
    """Answer to a question about one of several things, of which it must fit exactly one."""
    if match := re.fullmatch(r"What colour is the (\w+)\?", question):
        return one([t for t in things if t.name == match[1]]).colour
    if match := re.fullmatch(r"How is the (\w+) filled\?", question):
        return one([t for t in things if t.name == match[1]]).fill
    match = re.fullmatch(r"What shape is the (\w+) thing\?", question)
    assert match
    return one([t for t in things if t.colour == match[1]]).name


def shapes_in(scene: Scene) -> list[Thing]:
    return [t for t in scene.things if not t.is_glyph]


# -- the benchmark ------------------------------------------------------------------------------------------


def test_it_is_a_shipped_benchmark_by_its_name() -> None:
    assert "cvit-mini" in benchmark_names()
    assert load_benchmark("cvit-mini", {"num_test": 7}).stream[0].test.sample(6).id == "test-6"


def test_stream_and_downstream_are_those_of_cvit_in_its_order(mini: Benchmark) -> None:
    assert tuple(task.name for task in mini.stream) == STREAM
    assert tuple(task.name for task in mini.downstream) == DOWNSTREAM
    assert [task.name for task in mini.downstream if task.few_shot] == ["Places365"]
    assert [task.name for task in mini.downstream if task.train is None] == ["VizWiz", "TextCaps", "OCR-VQA"]


def test_default_sizes_are_2000_and_200(mini: Benchmark) -> None:
    assert {len(task.train) for task in mini.stream if task.train} == {2000}
    assert {len(task.test) for task in (*mini.stream, *mini.downstream)} == {200}


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


def test_train_and_test_share_no_scene_and_no_text_only_question(mini: Benchmark) -> None:
    seen: dict[str, set[object]] = {"train": set(), "test": set()}
    for task in (*mini.stream, *mini.downstream):
        for split, source in (("train", task.train), ("test", task.test)):
            for sample in samples(source) if source else ():
                seen[split].add(scene_of(sample).digest() if sample.image else sample.question)
    assert len(seen["test"]) > 1500
    assert not seen["train"] & seen["test"]


def test_no_degraded_test_scene_is_a_training_scene_of_any_task(mini: Benchmark) -> None:
    """Sharp, every scene of VizWiz would be a test scene too."""
    sharp = [replace(scene_of(sample), quality=1.0) for sample in samples(mini.task("VizWiz").test)]
    assert {Drawn(scene, ("",)).is_test() for scene in sharp} == {True}


def test_the_split_of_a_scene_does_not_depend_on_the_seed() -> None:
    trained, tested = cvit_mini(num_train=300, seed=1), cvit_mini(num_test=300, seed=2)
    for name in ("Flickr30k", "GQA"):
        train = {scene_of(sample).digest() for sample in samples(trained.task(name).train)}
        assert not train & {scene_of(sample).digest() for sample in samples(tested.task(name).test)}


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_is_a_function_of_seed_split_and_index_alone(name: str) -> None:
    forward, backward = cvit_mini(num_test=20).task(name), cvit_mini(num_test=200).task(name)
    expected = [backward.test.sample(index) for index in reversed(range(20))][::-1]
    assert list(samples(forward.test)) == expected
    other = cvit_mini(num_test=20, seed=1).task(name)
    assert list(samples(other.test)) != expected


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
        question, listed = re.fullmatch(r"(.*\?) A\. (\w+ B\. \w+ C\. \w+)", sample.question).groups()  # type: ignore[union-attr]
        assert tuple(re.split(r" [BC]\. ", listed)) == sample.choices
        assert len(set(sample.choices)) == 3
        if index % 5 == 4:
            assert sample.image is None
            told, question = question.split(". ")
            pairs = re.findall(r"a (\w+) (\w+)", told)
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
    score = ExactContent(tuple(COLOURS), SHAPES, PLACES)
    for sample in samples(mini.task(name).test, 100):
        scene = scene_of(sample)
        assert len(set(sample.answers)) == 5
        assert score(sample.answers, [sample] * 5) == [1.0] * 5
        for thing in shapes_in(scene):
            phrase = f"{thing.colour} {thing.name} (is |sits )?at the {PLACES[thing.place]}\\b"
            assert all(re.search(phrase, reference) for reference in sample.answers)
        assert all(reference.endswith(".") and reference.count(".") == 1 for reference in sample.answers)
        if name == "TextCaps":
            assert all(r.endswith(f" a sign says {written(scene)}.") for r in sample.answers)


def test_training_goes_through_the_five_ways_to_say_a_caption(mini: Benchmark) -> None:
    first = [sample.answers[0] for sample in samples(mini.task("Flickr30k").train, 5)]
    assert [" ".join(caption.split()[:2]) for caption in first[1:4]] == ["There is", "You can", "The picture"]
    assert [caption.split()[0] for caption in first] == ["A", "There", "You", "The", "A"]


def test_a_caption_without_one_object_does_not_have_the_exact_content(mini: Benchmark) -> None:
    score = ExactContent(tuple(COLOURS), SHAPES, PLACES)
    several = [s for s in samples(mini.task("Flickr30k").test, 50) if len(scene_of(s).things) > 1]
    assert several
    for sample in several:
        assert score([re.split(r",? and ", sample.answers[0])[0] + "."], [sample]) == [0.0]


def test_imagenet_names_the_object_by_shape_and_fill(mini: Benchmark) -> None:
    for sample in samples(mini.task("ImageNet").test):
        thing = one(list(scene_of(sample).things))
        assert sample.answers == (OBJECT_CLASSES[thing.name, thing.fill],)
    counts = Counter(sample.answers[0] for sample in samples(mini.task("ImageNet").test))
    assert set(counts.values()) == {20}
    assert len(counts) == 10


def test_gqa_asks_for_colour_shape_and_fill_of_one_thing_among_several(mini: Benchmark) -> None:
    kinds = Counter()
    for sample in samples(mini.task("GQA").test):
        things = list(scene_of(sample).things)
        assert 2 <= len(things) <= 3
        assert sample.answers == (attribute(sample.question, things),)
        kinds[sample.question.split()[1]] += 1
    assert kinds == {"colour": 67, "shape": 67, "is": 66}


def test_vqav2_counts_and_says_yes_or_no(mini: Benchmark) -> None:
    given: Counter[str] = Counter()
    for sample in samples(mini.task("VQAv2").test):
        things = scene_of(sample).things
        if match := re.fullmatch(r"Is there a (\w+) (\w+)\?", sample.question):
            there = any((t.colour, t.name) == match.groups() for t in things)
            assert sample.answers == ("yes" if there else "no",)
        else:
            assert sample.question == "How many things are there?"
            assert sample.answers == (str(len(things)),)
        given[sample.answers[0]] += 1
    assert given["yes"] + given["no"] == 100
    assert min(given["yes"], given["no"]) > 30
    assert min(given[count] for count in "1234") > 12


def test_vizwiz_asks_about_poor_pictures_and_reads_in_half_of_them(mini: Benchmark) -> None:
    for index, sample in enumerate(samples(mini.task("VizWiz").test)):
        scene = scene_of(sample)
        assert scene.quality == 0.6
        right = written(scene) if index % 2 else attribute(sample.question, shapes_in(scene))
        assert sample.answers == (right,)


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


def test_no_two_things_of_any_scene_share_a_place(mini: Benchmark) -> None:
    for name in TASKS:
        for sample in samples(mini.task(name).test, 50):
            places = [t.place for t in scene_of(sample).things] if sample.image else []
            assert len(places) == len(set(places))


@pytest.mark.parametrize("name", TASKS)
def test_gold_answers_keep_to_the_format_and_score_in_full(mini: Benchmark, name: str) -> None:
    task = mini.task(name)
    rows = list(samples(task.test))
    gold = [sample.answers[0] for sample in rows]
    assert all(follows(task.answer_format.value, sample.answers[0], sample.answers) for sample in rows)
    scores = task.scorer(gold, rows)
    if task.is_caption:
        assert task.also[0](gold, rows) == [1.0] * 200
        shuffled = task.scorer(gold[1:] + gold[:1], rows)
        assert sum(scores) > 3 * sum(shuffled)
    else:
        assert scores == [1.0] * 200


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


def test_the_check_finds_no_problem() -> None:
    reports = check_benchmark(cvit_mini(num_train=60, num_test=20), decode_images=True)
    assert [report.lines() for report in reports if not report.ok] == []
    assert [report.task for report in reports] == list(TASKS)


@pytest.mark.parametrize("name", ["num_train", "num_test", "shots"])
@pytest.mark.parametrize("value", [0, -3, "few", 2.5, True, None])
def test_sizes_must_be_whole_numbers_of_at_least_1(name: str, value: object) -> None:
    message = f"cvit-mini: {name} must be a whole number of at least 1, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cvit_mini(**{name: value})  # type: ignore[arg-type]


def test_the_seed_must_be_a_whole_number() -> None:
    with pytest.raises(ValueError, match="cvit-mini: seed must be a whole number, got 'one'"):
        cvit_mini(seed="one")  # type: ignore[arg-type]


def test_an_unknown_instruction_style_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown instruction style 'many'. Known: single, multi"):
        cvit_mini(instructions="many")  # type: ignore[arg-type]


def test_an_unknown_setting_and_an_unknown_benchmark_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown setting 'num_trian'. Did you mean 'num_train'"):
        load_benchmark("cvit-mini", {"num_trian": 3})
    with pytest.raises(ValueError, match="unknown benchmark 'cvit_mini'. Did you mean 'cvit-mini'"):
        load_benchmark("cvit_mini", {})


def test_an_index_outside_the_split_is_refused(mini: Benchmark) -> None:
    with pytest.raises(ValueError, match=r"GQA: test sample 200 is not in 0\.\.199"):
        mini.task("GQA").test.sample(200)
