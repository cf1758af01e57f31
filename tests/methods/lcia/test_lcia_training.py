"""LCIA in training: what a stage moves, what stays, what a group starts from, and mixed batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from stream_kit import Snapshots, differing, fit, quick_data, small_method, snapshot

from callbacks import DynamicEMA, StageEvaluation
from lit_cvit.adapters import routing
from lit_cvit.data.stage import Stage
from lit_cvit.methods import LCIA, ContinualMethod
from lit_cvit.run import RunFolder
from lit_cvit.stream.trainer import ContinualTrainer

# The groups are 0, 1, 1, 2: GQA and VQAv2 have one instruction.
STREAM = ["ScienceQA", "GQA", "VQAv2", "Flickr30k"]


class Trains(Snapshots):
    """What trains in every stage, and the tensors around it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[set[str]] = []

    def on_stage_start(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        super().on_stage_start(trainer, method, stage)
        names = {tensor.data_ptr(): name for name, tensor in method.tensors().items()}
        self.names.append({names[p.data_ptr()] for p in method.parameters() if p.requires_grad})


class Learned(NamedTuple):
    run: RunFolder
    method: ContinualMethod
    trains: Trains


@pytest.fixture(scope="module", params=["lora", "full"])
def trained(
    request: pytest.FixtureRequest, llava_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Learned:
    method, trains = small_method(llava_folder, LCIA, projector=request.param), Trains()
    callbacks: list[Callback] = [trains, DynamicEMA(), StageEvaluation(downstream=False)]
    trainer = fit(tmp_path_factory.mktemp("lcia"), method, quick_data(tasks=STREAM), callbacks=callbacks)
    return Learned(trainer.run, method.eval(), trains)


def group_in(name: str) -> int:
    parts = name.split(".")
    return int(parts[parts.index("blocks" if "blocks" in parts else "copies") + 1])


def test_stages_with_one_instruction_share_a_group_and_the_plan_says_why(trained: Learned) -> None:
    plans = [trained.run.record.stage(number).plan for number in range(1, 5)]
    assert [plan["group"] for plan in plans] == [0, 1, 1, 2]
    assert [plan["new_blocks"] for plan in plans] == [[32], [32], [], [32]]
    assert plans[2]["similarities"][1] == 1.0
    assert {plan["epsilon"] for plan in plans} == {0.9}
    assert {group_in(name) for name in trained.method.tensors()} == {0, 1, 2}


def test_a_stage_trains_its_group_alone(trained: Learned) -> None:
    for names, group in zip(trained.trains.names, (0, 1, 1, 2), strict=True):
        assert {group_in(name) for name in names} == {group}
        assert names == {name for name in trained.method.tensors() if group_in(name) == group}


def test_the_groups_at_rest_stay_bit_for_bit(trained: Learned) -> None:
    after = [trained.run.load_stage(number).tensors for number in range(1, 5)]
    for before, now, group in zip(after[:-1], after[1:], (1, 1, 2), strict=True):
        changed = {name for name in before if not torch.equal(before[name], now[name])}
        assert {group_in(name) for name in changed} <= {group}
    assert any(not torch.equal(after[1][name], after[2][name]) for name in after[1])


def test_a_stage_that_re_trains_starts_from_what_the_group_kept(trained: Learned) -> None:
    assert differing(trained.trains.before[2], trained.run.load_stage(2).tensors) == []


def test_answers_to_a_task_change_only_when_its_group_is_trained(trained: Learned) -> None:
    run = trained.run
    own = run.predictions_path(1, "ScienceQA").read_bytes()
    assert all(run.predictions_path(later, "ScienceQA").read_bytes() == own for later in (2, 3, 4))
    both = [run.predictions_path(number, "VQAv2").read_bytes() for number in (3, 4)]
    assert both[0] == both[1]


def test_each_sample_of_a_mixed_batch_is_answered_by_its_group(trained: Learned) -> None:
    """Text alone (ScienceQA 4) and a task that was never learned included."""
    tasks = {task.name: task.test for task in quick_data().benchmark.stream}
    picks = (("Flickr30k", 0), ("GQA", 0), ("ScienceQA", 4), ("TextVQA", 1), ("ScienceQA", 0))
    samples = [tasks[name].sample(index) for name, index in picks]
    assert samples[2].image is None
    method = trained.method
    batch = method.backbone.encode(samples, with_answers=True)
    facts = method.sample_facts(batch)
    assert facts["projector"].tolist() == [2, 1, 0, 1, 0]
    assert torch.equal(facts["gate"], torch.eye(3)[facts["projector"]])
    with torch.no_grad(), routing(method.context(batch)):
        together = method.backbone.answer_logits(batch).logits
    alone = []
    for sample in samples:
        one = method.backbone.encode([sample], with_answers=True)
        with torch.no_grad(), routing(method.context(one)):
            alone.append(method.backbone.answer_logits(one).logits)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_in_training_every_sample_goes_to_the_stages_group(trained: Learned) -> None:
    source = quick_data().benchmark.task("ScienceQA").test
    batch = trained.method.backbone.encode([source.sample(0)], with_answers=True)
    trained.method.train()
    try:
        assert trained.method.sample_facts(batch)["gate"].tolist() == [[0, 0, 1]]
    finally:
        trained.method.eval()
    assert trained.method.sample_facts(batch)["gate"].tolist() == [[1, 0, 0]]


def test_without_the_average_it_is_refused_unless_that_is_asked_for(
    llava_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="LCIA as configured needs the callback DynamicEMA"):
        fit(tmp_path, small_method(llava_folder, LCIA), callbacks=[])
    assert small_method(llava_folder, LCIA, ema=False).requires_callbacks == ()


def test_a_run_that_starts_from_another_goes_on_with_its_groups(
    trained: Learned, llava_folder: Path, tmp_path: Path
) -> None:
    projector = "full" if trained.method.projector_bank is not None else "lora"
    method = small_method(llava_folder, LCIA, projector=projector)
    trainer = fit(
        tmp_path,
        method,
        quick_data(tasks=["TextVQA"]),
        callbacks=[DynamicEMA()],
        start_from=str(trained.run.path),
    )
    assert trainer.run.record.stage(1).plan["group"] == 1
    before, after = trained.run.load_stage(4).tensors, trainer.run.load_stage(1).tensors
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {group_in(name) for name in changed} == {1}


# -- what a group starts from --------------------------------------------------------------------------------


def stages(method: ContinualMethod, order: list[str]) -> list[dict[str, torch.Tensor]]:
    """Begins stages, moving what trains by noise in each; the tensors at every start."""
    method.prepare()
    data, starts = quick_data(tasks=STREAM), []
    by_name = {stage.task.name: stage for stage in data.stages(seed=0)}
    for number, name in enumerate(order, start=1):
        method.begin_stage(dataclasses.replace(by_name[name], number=number))
        starts.append(snapshot(method))
        generator = torch.Generator().manual_seed(number)
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    starts.append(snapshot(method))
    return starts


def of_group(tensors: dict[str, torch.Tensor], group: int) -> dict[str, torch.Tensor]:
    return {
        name.replace(f"blocks.{group}.", "blocks.").replace(f"copies.{group}.", "copies."): tensor
        for name, tensor in tensors.items()
        if group_in(name) == group
    }


@pytest.mark.parametrize("init", ["fresh", "previous_stage"])
def test_a_new_group_starts_fresh_or_from_the_group_of_the_previous_stage(
    llava_folder: Path, init: str
) -> None:
    method = small_method(llava_folder, LCIA, new_group_init=init, projector="full")
    starts = stages(method, ["ScienceQA", "GQA", "ScienceQA", "Flickr30k"])
    new, first = of_group(starts[3], 2), of_group(starts[0], 0)
    if init == "previous_stage":
        # Group 0 was trained last, not the newest group 1.
        assert differing(new, of_group(starts[3], 0)) == []
        assert len(differing(new, of_group(starts[3], 1))) == len(new)
    else:
        assert all(not tensor.any() for name, tensor in new.items() if name.endswith(".B"))
        pretrained = {name for name in new if ".copies." in name}
        assert pretrained
        assert all(torch.equal(new[name], first[name]) for name in pretrained)
    assert differing(of_group(starts[4], 0), of_group(starts[3], 0)) == []


@pytest.mark.parametrize("carry", ["keep", "reset_pretrained", "reinit_random"])
def test_the_projector_of_the_stages_own_group_starts_as_it_is_carried(
    llava_folder: Path, carry: str
) -> None:
    method = small_method(llava_folder, LCIA, projector="full", projector_carry=carry)
    starts = stages(method, ["ScienceQA", "GQA", "ScienceQA"])
    copies = [{n: t for n, t in of_group(tensors, 0).items() if ".copies." in n} for tensors in starts]
    pretrained, trained, again = copies[0], copies[1], copies[2]
    # In stage 2 group 0 rests; in stage 3 it is trained on and group 1 rests.
    assert len(differing(pretrained, trained)) == len(pretrained)
    same = {
        "keep": [differing(again, trained) == [], False],
        "reset_pretrained": [False, differing(again, pretrained) == []],
        "reinit_random": [differing(again, trained) == [], differing(again, pretrained) == []],
    }
    expected = {"keep": [True, False], "reset_pretrained": [False, True], "reinit_random": [False, False]}
    assert same[carry] == expected[carry]
    assert differing(of_group(starts[2], 1), of_group(starts[3], 1)) == []
    second = {n: t for n, t in of_group(starts[1], 1).items() if ".copies." in n}
    assert (differing(second, pretrained) == []) is (carry != "reinit_random")
