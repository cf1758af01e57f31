"""What every miniature benchmark promises: sizes, splits that never meet, samples that are reproducible."""

from __future__ import annotations

import pickle
import re
from types import ModuleType

import pytest
from mini_kit import content_digest, samples, scene_of

from lit_cvit.backbones.tiny import Tiny
from lit_cvit.data.benchmarks import benchmark_names, load_benchmark
from lit_cvit.data.tasks import Benchmark, Task
from lit_cvit.data.validation.check import check_benchmark
from lit_cvit.metrics.following import follows
from lit_cvit.miniature import coin, cvit, ucit
from lit_cvit.miniature.drawn import Look
from lit_cvit.miniature.scenes import draw

NAMES = ("cvit-mini", "coin-mini", "ucit-mini")
TASKS = [
    (name, task.name)
    for name in NAMES
    for task in (*load_benchmark(name, {}).stream, *load_benchmark(name, {}).downstream)
]


def tasks_of(benchmark: Benchmark) -> tuple[Task, ...]:
    return (*benchmark.stream, *benchmark.downstream)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_shipped_benchmark_by_its_name(name: str) -> None:
    assert name in benchmark_names()
    benchmark = load_benchmark(name, {"num_test": 7})
    assert benchmark.stream[0].test.sample(6).id == "test-6"
    assert benchmark.miniature


def test_drawing_code_that_they_share_is_no_benchmark() -> None:
    assert {name for name in benchmark_names() if "mini" in name} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_default_sizes_are_2000_and_200(name: str) -> None:
    benchmark = load_benchmark(name, {})
    assert {len(task.train) for task in benchmark.stream if task.train} == {2000}
    assert {len(task.test) for task in tasks_of(benchmark)} == {200}


@pytest.mark.parametrize(
    ("name", "count", "recorded"),
    [
        ("cvit-mini", 200, "73070c8ba42e4652e373c337df2e76c5f2312a3b746e25601d6deba88b2529a5"),
        ("coin-mini", 50, "aa08a138745920b9ebbde58665ddcb5c549d453ee9b53000e7f9038af4678806"),
        ("ucit-mini", 50, "2a48da241fd6015fbc48892c66e8e08fc3262ac52d40daf109dce9a6dfc74205"),
    ],
)
def test_the_content_is_the_recorded_one(name: str, count: int, recorded: str) -> None:
    """Published scores hold for these samples: whoever changes one has made another benchmark."""
    assert content_digest(load_benchmark(name, {}), count=count) == recorded


@pytest.mark.parametrize(("name", "module"), zip(NAMES, (cvit, coin, ucit), strict=True))
def test_every_picture_has_the_look_of_its_task(name: str, module: ModuleType) -> None:
    for task in tasks_of(load_benchmark(name, {})):
        look = module.LOOKS.get(task.name, Look())
        for sample in samples(task.test, 40):
            if sample.image is not None:
                scene = scene_of(sample)
                assert scene.pattern in look.patterns
                assert scene.tint in look.tints
                assert scene.quality <= look.quality


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_share_no_scene_and_no_text_only_question(name: str) -> None:
    seen: dict[str, set[object]] = {"train": set(), "test": set()}
    for task in tasks_of(load_benchmark(name, {"num_train": 400})):
        for split, source in (("train", task.train), ("test", task.test)):
            for sample in samples(source) if source else ():
                seen[split].add(scene_of(sample).digest() if sample.image else sample.question)
    assert len(seen["test"]) > 800
    assert not seen["train"] & seen["test"]


def test_no_scene_is_trained_on_in_one_benchmark_and_tested_in_another() -> None:
    seen: dict[str, set[int]] = {"train": set(), "test": set()}
    for name in NAMES:
        for task in load_benchmark(name, {"num_train": 100, "num_test": 50, "seed": 3}).stream:
            for split, source in (("train", task.train), ("test", task.test)):
                seen[split].update(scene_of(s).digest() for s in samples(source) if s.image)
    assert not seen["train"] & seen["test"]


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_a_sample_is_a_function_of_seed_split_and_index_alone(name: str, task: str) -> None:
    forward, backward = (load_benchmark(name, {"num_test": n}).task(task) for n in (20, 200))
    expected = [backward.test.sample(index) for index in reversed(range(20))][::-1]
    assert list(samples(forward.test)) == expected
    other = load_benchmark(name, {"num_test": 20, "seed": 1}).task(task)
    assert list(samples(other.test)) != expected


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_gold_answers_keep_to_the_format_and_score_in_full(name: str, task: str) -> None:
    found = load_benchmark(name, {}).task(task)
    rows = list(samples(found.test))
    gold = [sample.answers[0] for sample in rows]
    assert all(follows(found.answer_format.value, sample.answers[0], sample.answers) for sample in rows)
    scores = found.scorer(gold, rows)
    if found.is_caption:
        assert found.also[0](gold, rows) == [1.0] * 200
        shuffled = found.scorer(gold[1:] + gold[:1], rows)
        assert sum(scores) > 3 * sum(shuffled)
    else:
        assert scores == [1.0] * 200


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_no_two_things_of_any_scene_share_a_place(name: str, task: str) -> None:
    for sample in samples(load_benchmark(name, {}).task(task).test, 50):
        places = [t.place for t in scene_of(sample).things] if sample.image else []
        assert len(places) == len(set(places))


@pytest.mark.parametrize("name", NAMES)
def test_tiny_has_tokens_for_every_text_and_its_budget_is_enough_for_every_answer(name: str) -> None:
    tokenizer = Tiny().processor.tokenizer
    for task in tasks_of(load_benchmark(name, {})):
        rows = list(samples(task.test, 25))
        answers = [answer for sample in rows for answer in sample.answers]
        for text in (*task.instructions, *(sample.user_text for sample in rows), *answers):
            tokens = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in tokens
            assert tokenizer.decode(tokens) == text
        longest = max(len(tokenizer(answer, add_special_tokens=False).input_ids) for answer in answers)
        # One token more ends the answer.
        assert longest + 1 <= task.decoding_budget


@pytest.mark.parametrize("name", NAMES)
def test_sources_pickle_and_their_digest_tells_them_apart(name: str) -> None:
    def stream(**settings: int) -> tuple[Task, ...]:
        return load_benchmark(name, {"num_train": 10, **settings}).stream

    task = stream()[-1]
    copy: Task = pickle.loads(pickle.dumps(task))
    assert copy.train is not None
    assert task.train is not None
    assert copy.train.sample(4) == task.train.sample(4)
    assert copy.train.digest() == task.train.digest()
    others = [stream(num_train=11)[-1].train, stream(seed=1)[-1].train, stream()[0].train, task.test]
    assert len({source.digest() for source in others if source} | {task.train.digest()}) == 5


@pytest.mark.parametrize("name", NAMES)
def test_every_scene_can_be_drawn(name: str) -> None:
    for task in tasks_of(load_benchmark(name, {})):
        for sample in samples(task.test, 5):
            assert sample.image is None or draw(scene_of(sample)).shape == (48, 48, 3)


@pytest.mark.parametrize("name", NAMES)
def test_the_check_finds_no_problem(name: str) -> None:
    benchmark = load_benchmark(name, {"num_train": 60, "num_test": 20})
    reports = check_benchmark(benchmark, decode_images=True)
    assert [report.lines() for report in reports if not report.ok] == []
    assert [report.task for report in reports] == [task.name for task in tasks_of(benchmark)]


@pytest.mark.parametrize("setting", ["num_train", "num_test"])
@pytest.mark.parametrize("value", [0, -3, "few", 2.5, True, None])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_must_be_whole_numbers_of_at_least_1(name: str, setting: str, value: object) -> None:
    message = f"{name}: {setting} must be a whole number of at least 1, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_benchmark(name, {setting: value})


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_must_be_a_whole_number(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: seed must be a whole number, got 'one'"):
        load_benchmark(name, {"seed": "one"})


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_and_an_unknown_benchmark_are_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match="unknown setting 'num_trian'. Did you mean 'num_train'"):
        load_benchmark(name, {"num_trian": 3})
    with pytest.raises(ValueError, match=f"unknown benchmark '{name[:-1]}'. Did you mean '{name}'"):
        load_benchmark(name[:-1], {})


@pytest.mark.parametrize("name", NAMES)
def test_an_index_outside_the_split_is_refused(name: str) -> None:
    task = load_benchmark(name, {}).stream[0]
    with pytest.raises(ValueError, match=rf"{task.name}: test sample 200 is not in 0\.\.199"):
        task.test.sample(200)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coin-mini", "coin-mini: unknown order 'orgin'. Did you mean 'origin'? Known: origin, reverse, "),
        ("ucit-mini", "ucit-mini: unknown order 'orgin'. Known: RAVICF, AIRFCV, IFRCAV"),
    ],
)
def test_an_unknown_order_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_benchmark(name, {"order": "orgin"})
