"""L2, EWC and EWCTIR: the penalty and the Fisher information against their formulas, and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from prog_kit import hashed_texts  # noqa: F401
from stream_kit import STREAM, fit, log_rows, quick_data, small_method
from torch import Tensor

from lit_cvit.adapters import routing
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.methods import EWC, EWCTIR, L2, ContinualMethod, SeqLoRA, calibration
from lit_cvit.methods.ewc import diagonal_fisher
from lit_cvit.methods.ewc.anchored import AnchoredMethod
from lit_cvit.run import RunFolder
from lit_cvit.stream.trainer import ContinualTrainer

FEW = {"fisher_samples": 5}
# By class: settings under which the penalty pulls visibly.
FORMS: dict[type[AnchoredMethod], dict[str, Any]] = {
    L2: {"strength": 0.5},
    EWC: {**FEW, "strength": 3e5},
    EWCTIR: {**FEW, "strength": 3e7, "similarity_samples": 8},
}


class Watched:
    """The gradients of every step before and after the method has changed them, and the weights then."""

    def __init__(self, method: ContinualMethod) -> None:
        self.steps: list[dict[str, tuple[Tensor, Tensor, Tensor]]] = []
        real = method.on_gradients

        def watched(step: int) -> None:
            trained = method.adapters.trained()
            before = {name: _grad(p).clone() for name, p in trained.items()}
            real(step)
            self.steps.append(
                {name: (before[name], _grad(p).clone(), p.detach().clone()) for name, p in trained.items()}
            )

        method.on_gradients = watched  # type: ignore[method-assign]


def _grad(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def trained_on(
    root: Path, method: ContinualMethod, tasks: list[str] = STREAM[:2], **data: Any
) -> ContinualTrainer:
    return fit(root, method, quick_data(tasks=tasks, **data), callbacks=[])


def tensors_of(run: RunFolder, stage: int) -> dict[str, Tensor]:
    return run.load_stage(stage).tensors


# -- the penalty ---------------------------------------------------------------------------------------------


HALVES = {"batch_size": 2, "global_batch_size": 4}


@pytest.mark.filterwarnings("ignore:model.rank, model.alpha have no effect")
@pytest.mark.parametrize(
    ("settings", "sizes"), [({}, {}), ({}, HALVES), ({"train": "full"}, {})], ids=["", "halves", "full"]
)
@pytest.mark.parametrize("family", list(FORMS))
def test_the_gradient_of_the_penalty_is_added_once_a_step_from_the_second_stage_on(
    llava_folder: Path,
    tmp_path: Path,
    family: type[AnchoredMethod],
    settings: dict[str, Any],
    sizes: dict[str, int],
) -> None:
    method = small_method(llava_folder, family, **FORMS[family], **settings)
    watched = Watched(method)
    run = trained_on(tmp_path, method, **sizes).run
    stored = tensors_of(run, 1)
    unlike = 1.0
    if family is EWCTIR:
        (similarity,) = run.record.stage(2).plan["similarity"]
        unlike = 1 - similarity
        assert 0 < unlike < 1
    for first in watched.steps[:2]:
        assert [name for name, (before, after, _) in first.items() if not torch.equal(before, after)] == []
    rows = log_rows(run)
    for row, step in zip(rows[2:], watched.steps[2:], strict=True):
        weights = {name: theta.clone().requires_grad_() for name, (_, _, theta) in step.items()}
        terms = []
        for name, theta in weights.items():
            if family is L2:
                terms.append(0.5 * ((theta - stored[name]) ** 2).sum())
            else:
                importance = stored[f"fisher.{name}"] * unlike
                terms.append(FORMS[family]["strength"] / 2 * (importance * (theta - stored[name]) ** 2).sum())
        total = torch.stack(terms).sum()
        total.backward()
        assert row[f"loss/{family.term}"] == pytest.approx(float(total), rel=1e-4)
        for name, (before, after, _) in step.items():
            expected = before + weights[name].grad  # type: ignore[operator]
            torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-7, msg=name)
    assert rows[3][f"loss/{family.term}"] > 0
    assert f"loss/{family.term}" not in rows[1]


@pytest.mark.parametrize("family", list(FORMS))
def test_strength_0_is_seq_lora_bit_for_bit_also_under_dropout(
    llava_folder: Path, tmp_path: Path, family: type[AnchoredMethod]
) -> None:
    """The Fisher information neither draws anything nor moves anything."""
    settings = {**FORMS[family], "strength": 0.0}
    plain = trained_on(tmp_path / "seq", small_method(llava_folder, SeqLoRA, dropout=0.2)).run
    free = trained_on(tmp_path / "free", small_method(llava_folder, family, dropout=0.2, **settings)).run
    for stage in (1, 2):
        expected, got = tensors_of(plain, stage), tensors_of(free, stage)
        assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


@pytest.mark.parametrize("family", list(FORMS))
def test_the_stronger_the_closer_to_the_stage_before(
    llava_folder: Path, tmp_path: Path, family: type[AnchoredMethod]
) -> None:
    far = []
    for strength in (0.0, 1.0, 100.0):
        settings = {**FORMS[family], "strength": strength * FORMS[family]["strength"]}
        method = small_method(llava_folder, family, **settings)
        run = trained_on(tmp_path / str(strength), method, settings={"num_train": 24}).run
        before, after = tensors_of(run, 1), tensors_of(run, 2)
        far.append(sum(float((after[n] - before[n]).square().sum()) for n in before if ".blocks." in n))
    assert far[0] > 1.02 * far[1] > far[2] > 0


def test_a_run_that_starts_from_another_is_held_to_it_from_its_first_stage_on(
    llava_folder: Path, tmp_path: Path
) -> None:
    source = trained_on(tmp_path, small_method(llava_folder, EWC, **FORMS[EWC]), ["GQA"]).run
    method = small_method(llava_folder, EWC, **FORMS[EWC])
    data = quick_data(tasks=["VQAv2"])
    run = fit(tmp_path, method, data, callbacks=[], start_from=str(source.path)).run
    assert [row["loss/ewc"] > 0 for row in log_rows(run)] == [False, True]
    before, after = tensors_of(source, 1), tensors_of(run, 1)
    information = [name for name in before if name.startswith("fisher.")]
    assert [name for name in information if not bool((after[name] >= before[name]).all())] == []


def test_nothing_is_held_beside_a_stage(llava_folder: Path, tmp_path: Path) -> None:
    method = small_method(llava_folder, EWC, **FORMS[EWC])
    trained_on(tmp_path, method)
    assert isinstance(method, EWC)
    assert method._held == []


# -- the Fisher information ----------------------------------------------------------------------------------


def squared_gradients(method: ContinualMethod, rows: list[int], group: int) -> dict[str, Tensor]:
    """The transcription: one backward pass for each group of samples."""
    source = quick_data().stream[0].train
    assert source is not None
    trained = method.adapters.trained()
    total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in trained.items()}
    groups = [rows[start : start + group] for start in range(0, len(rows), group)]
    for chosen in groups:
        method.zero_grad()
        batch = method.backbone.encode([source.sample(row) for row in chosen], with_answers=True)
        with routing(method.context(batch)):
            output = method.backbone.loss(batch)
        (output.loss_sum / output.num_tokens).backward()
        for name, parameter in trained.items():
            if parameter.grad is not None:
                total[name] += parameter.grad.double() ** 2
    return {name: value / len(groups) for name, value in total.items()}


@pytest.mark.parametrize("group", [1, 3])
def test_the_information_is_the_mean_squared_gradient_of_the_answers_loss(
    llava_folder: Path, tmp_path: Path, group: int
) -> None:
    method = small_method(llava_folder, EWC, **FEW, fisher_group=group, dropout=0.2, projector="full")
    run = trained_on(tmp_path, method, STREAM[:1]).run
    stored = tensors_of(run, 1)
    method.eval()
    expected = squared_gradients(method, evenly_spaced(8, 5), group)
    for name, value in expected.items():
        largest = float(value.max())
        assert largest > 0, name
        torch.testing.assert_close(stored[f"fisher.{name}"].double(), value, rtol=1e-3, atol=1e-6 * largest)
    assert {name for name in stored if name.startswith("fisher.")} == {f"fisher.{name}" for name in expected}


def test_ranks_share_the_groups_and_sum_what_they_found(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = small_method(llava_folder, EWC, **FEW)
    run = trained_on(tmp_path, method, STREAM[:1]).run
    source = quick_data().stream[0].train
    assert source is not None
    parts = []
    monkeypatch.setattr(calibration, "num_ranks", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(calibration, "rank", lambda own=rank: own)
        parts.append(diagonal_fisher(method, source, num_samples=5))
    stored = tensors_of(run, 1)
    for name, one in parts[0].items():
        assert bool(one.any()), name
        assert not torch.equal(one, stored[f"fisher.{name}"])
        torch.testing.assert_close(one + parts[1][name], stored[f"fisher.{name}"], rtol=1e-4, atol=1e-12)


def test_divided_by_its_sum_the_information_of_a_task_adds_up_to_1(
    llava_folder: Path, tmp_path: Path
) -> None:
    run = trained_on(tmp_path, small_method(llava_folder, EWC, **FEW, scale="sum"), STREAM[:1]).run
    values = [value for name, value in tensors_of(run, 1).items() if name.startswith("fisher.")]
    assert sum(float(value.double().sum()) for value in values) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [4.0, 3.0]),
        ({"gamma": 0.5}, [2.5, 2.5]),
        ({"combine": "last"}, [1.0, 2.0]),
        ({"combine": "max"}, [3.0, 2.0]),
    ],
)
def test_the_information_of_tasks_is_put_together_as_asked(
    llava_folder: Path, settings: dict[str, Any], expected: list[float]
) -> None:
    method = small_method(llava_folder, EWC, **settings)
    assert isinstance(method, EWC)
    assert method.combined("x", torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])).tolist() == expected


# -- similar tasks -------------------------------------------------------------------------------------------


def test_tir_scales_each_importance_by_how_unlike_its_task_is(llava_folder: Path, tmp_path: Path) -> None:
    method = small_method(llava_folder, EWCTIR, **FORMS[EWCTIR])
    assert isinstance(method, EWCTIR)
    run = trained_on(tmp_path, method, STREAM).run
    name = "decoder.1.mlp.up_proj.blocks.0.B"
    first, second, third = (tensors_of(run, stage) for stage in (1, 2, 3))
    assert not first[f"fisher_task.{name}"].any()
    grown = second[f"fisher.{name}"] > first[f"fisher.{name}"]
    assert 0 < int(grown.sum()) < grown.numel()
    assert torch.equal(second[f"fisher_task.{name}"].bool(), grown)
    assert set(third[f"fisher_task.{name}"].unique().tolist()) == {0, 1, 2}
    # As in the third stage, which began where the second had ended.
    method.load_tensors(third | {n: second[n] for n in second if n.startswith("fisher")})
    similarity = run.record.stage(3).plan["similarity"]
    expected = second[f"fisher.{name}"] * torch.where(grown, 1 - similarity[1], 1 - similarity[0])
    got = method.importance_of(name)
    assert got is not None
    torch.testing.assert_close(got, expected)


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (L2, {"strength": -1.0}, "model.strength must be at least 0"),
        (EWC, {"fisher_samples": 0}, "model.fisher_samples must be at least 1"),
        (EWC, {"combine": "max", "gamma": 0.5}, "model.gamma 0.5 is for combine 'online'"),
        (EWC, {"combine": "mean"}, "model.combine must be one of online, last, max"),
    ],
)
def test_settings_that_make_no_method_are_refused(
    llava_folder: Path, family: type[AnchoredMethod], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_method(llava_folder, family, **settings)
