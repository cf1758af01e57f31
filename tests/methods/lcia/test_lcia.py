"""LCIA: which stage trains which group, and who answers a sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stream_kit import small_method

from callbacks import DynamicEMA
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.restricted import restrict
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import AnswerFormat, Sample, Task
from lit_cvit.methods import LCIA, ContinualMethod
from lit_cvit.methods.lcia.method import task_texts

COIN = json.loads(
    (Path(__file__).parents[2] / "golden" / "lcia_coin_instructions.json").read_text(encoding="utf-8")
)


# -- grouping ------------------------------------------------------------------------------------------------


def stage_of(number: int, name: str, strings: list[str], train: Any = None) -> Stage:
    scorer: Any = None
    test: Any = None
    task = Task(name, AnswerFormat.SHORT, scorer, test, train, instructions=tuple(strings))
    return Stage(number, task, seed=0, num_steps=1, seen=(task,))


def planned(method: ContinualMethod, strings: dict[str, list[str]], order: list[str]) -> list[dict[str, Any]]:
    """The plans of a stream; the method has no backbone yet and just keeps its groups."""
    plans = []
    for number, name in enumerate(order, start=1):
        plans.append(
            json.loads(json.dumps({**method.plan_stage(stage_of(number, name, strings[name])), "seed": 0}))
        )
        method.follow_plan(plans[-1])
    return plans


def members(plans: list[dict[str, Any]], order: list[str]) -> list[list[str]]:
    groups: list[list[str]] = [[] for _ in range(1 + max(plan["group"] for plan in plans))]
    for plan, name in zip(plans, order, strict=True):
        groups[plan["group"]].append(name)
    return groups


@pytest.mark.parametrize(
    ("style", "epsilon"), [("Original", "auto"), ("Diverse", "diverse"), ("10Type", "auto")]
)
def test_refined_coin_in_its_own_order_has_the_groups_of_table_10(
    llava_folder: Path, style: str, epsilon: Any
) -> None:
    order = COIN["task_orders"]["origin"]
    method = small_method(llava_folder, LCIA, epsilon=epsilon)
    plans = planned(method, COIN["lcia_refined"][style], order)
    assert members(plans, order) == COIN["expected_groups_paper_table10"][style]
    assert {plan["epsilon"] for plan in plans} == {COIN["grouping_rule"]["epsilon"][style]}


@pytest.mark.parametrize("order_name", ["origin", "reverse", "alphabet"])
@pytest.mark.parametrize("style", ["Original", "Diverse", "10Type"])
@pytest.mark.parametrize("benchmark", ["lcia_refined", "coin"])
def test_every_style_and_order_is_grouped_as_by_the_published_rule(
    llava_folder: Path, benchmark: str, style: str, order_name: str
) -> None:
    order = COIN["task_orders"][order_name]
    expected = COIN["expected_groups"][benchmark][style][order_name]
    method = small_method(llava_folder, LCIA, epsilon=style.lower())
    plans = planned(method, COIN[benchmark][style], order)
    assert members(plans, order) == expected["groups"]
    for plan, step in zip(plans, expected["trace"], strict=True):
        assert plan["similarities"] == pytest.approx(step["sims_to_existing_groups"] or [], abs=5.1e-4)
    for plan, name in zip(plans, order, strict=True):
        for text in COIN[benchmark][style][name]:
            # Every wording of a task leads to its group, one sample at a time.
            sample = Sample("0", "unknown", "What is it?", text, ("it",))
            assert method.group_of(sample) == plan["group"]


def test_a_group_collects_its_instructions_once_and_a_plan_brings_all_of_it_back(llava_folder: Path) -> None:
    strings, order = COIN["lcia_refined"]["10Type"], COIN["task_orders"]["origin"]
    method = small_method(llava_folder, LCIA)
    plans = planned(method, strings, order)
    for group, names in zip(method.groups, members(plans, order), strict=True):
        assert group == list(dict.fromkeys(text for name in names for text in strings[name]))
    again = small_method(llava_folder, LCIA)
    for plan in plans:
        again.follow_plan(plan)
    assert again.groups == method.groups
    assert again.plan_stage(stage_of(9, "GQA", strings["GQA"])) == method.plan_stage(
        stage_of(9, "GQA", strings["GQA"])
    )


def test_the_maximum_merges_imagenet_where_the_mean_does_not(llava_folder: Path) -> None:
    strings, order = COIN["lcia_refined"]["10Type"], ["ScienceQA", "TextVQA", "ImageNet"]
    groups = [
        members(planned(small_method(llava_folder, LCIA, rule=rule), strings, order), order)
        for rule in ("mean", "max")
    ]
    assert groups == [[["ScienceQA"], ["TextVQA"], ["ImageNet"]], [["ScienceQA"], ["TextVQA", "ImageNet"]]]


class Texts:
    """A training split of texts, without instructions kept apart."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        return Sample(str(index), "t", self.texts[index], "", ("a",))


def test_a_task_without_instructions_is_read_at_evenly_spaced_samples() -> None:
    texts = [f"Which one?\nAnswer in {index} words." for index in range(1000)]
    found = task_texts(stage_of(1, "t", [], Texts(texts)).task)
    assert found == [f"Answer in {index} words." for index in range(0, 1000, 10)]
    assert task_texts(stage_of(1, "t", [], Texts(["Is it?\nSay yes or no."] * 5)).task) == ["Say yes or no."]
    with pytest.raises(ValueError, match="task 't' has neither instructions nor a training split"):
        task_texts(stage_of(1, "t", []).task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 1.5}, "model.epsilon must be at least 0 and at most 1, or one of auto, .*; got 1.5"),
        ({"epsilon": "10typ"}, "model.epsilon must be .* got '10typ'. Did you mean '10type'?"),
        ({"rule": "median"}, "model.rule must be one of mean, max; got 'median'"),
        ({"match": "batch"}, "model.match must be one of sample, task; got 'batch'"),
        ({"unmatched": "none"}, "model.unmatched must be one of best, last; got 'none'"),
        ({"new_group_init": "copy"}, "model.new_group_init must be one of fresh, previous_stage; got 'copy'"),
    ],
)
def test_settings_out_of_range_are_refused(
    llava_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_method(llava_folder, LCIA, **settings)


@pytest.mark.parametrize(
    ("name", "start"),
    [("lcia", ("group", "fresh")), ("lcia_official", ("after_first_step", "previous_stage"))],
)
def test_the_shipped_configurations_bring_the_average_along(name: str, start: tuple[str, str]) -> None:
    configs = ("quickstart.yaml", f"methods/{name}.yaml")
    folder = Path(__file__).parents[3] / "configs"
    arguments = [part for config in configs for part in ("--config", str(folder / config))]
    cli = StreamCLI(arguments, run=False)
    (average,) = (each for each in cli.trainer.callbacks if isinstance(each, DynamicEMA))
    assert isinstance(cli.model, LCIA)
    assert (average.theta0, cli.model.new_group_init) == start
    assert (average.beta, average.ema_when, cli.model.epsilon) == ("official", "reused", "auto")
    assert cli.model.requires_callbacks == ("DynamicEMA",)


# -- who answers ---------------------------------------------------------------------------------------------


def learned(folder: Path, **settings: Any) -> LCIA:
    """The method after the plans of refined CoIN's first three tasks, untrained: three groups."""
    method = small_method(folder, LCIA, **settings)
    planned(method, COIN["lcia_refined"]["Original"], ["ScienceQA", "TextVQA", "ImageNet"])
    assert isinstance(method, LCIA)
    return method


def asks(instruction: str, **more: Any) -> Sample:
    return Sample(
        **{"id": "1", "task": "?", "question": "Why?", "instruction": instruction, "answers": ("a",), **more}
    )


def test_an_unseen_wording_is_answered_by_the_most_similar_group_or_by_the_last(llava_folder: Path) -> None:
    best, last = learned(llava_folder), learned(llava_folder, unmatched="last")
    close = asks("Answer the question with a phrase or a single word.")
    assert [method.group_of(close) for method in (best, last)] == [1, 2]
    assert [
        method.group_of(asks("Answer with the option's letter directly.")) for method in (best, last)
    ] == [0, 2]
    exact = asks("Answer the question using a single word or phrase.")
    assert [method.group_of(exact) for method in (best, last)] == [1, 1]


def test_a_sample_without_a_separate_instruction_is_matched_by_its_last_line(llava_folder: Path) -> None:
    text = "Which?\nAnswer the object in the image using a single word or phrase"
    assert learned(llava_folder).group_of(asks("", question="", text=text)) == 2


def test_matching_by_sample_reads_neither_task_nor_id(llava_folder: Path) -> None:
    method = learned(llava_folder)
    hidden = restrict(
        asks("Answer the question using a single word or phrase"), method.access.hidden(test=True)
    )
    assert method.group_of(hidden) == 1
    assert method.access.words() == "instruction text"


def test_matching_by_task_reads_all_instructions_of_the_task_and_says_so(llava_folder: Path) -> None:
    method = learned(llava_folder, match="task")
    method.set_tasks((stage_of(1, "GQA", ["Answer the question using a single word or phrase"]).task,))
    letter = "Answer with the option's letter from the given choices directly"
    assert method.group_of(asks(letter, task="GQA")) == 1
    assert method.group_of(asks(letter, task="unheard of")) == 0
    assert method.access.words() == "task id at test (oracle), instruction text"


def test_before_the_first_stage_the_backbone_answers_alone(llava_folder: Path) -> None:
    method = small_method(llava_folder, LCIA)
    assert isinstance(method, LCIA)
    assert method.group_of(asks("Answer the question.")) == -1
