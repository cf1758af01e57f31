"""Model Tailor: its rule against a transcription of the published one, its patches, what its knobs do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stream_kit import Snapshots, fit, log_rows, quick_data, small_method
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_cvit.adapters import PatchedBank
from lit_cvit.methods import ModelTailor, SeqLoRA, calibration
from lit_cvit.methods.model_tailor import num_kept, tailor, tailored

OUT, IN, COLUMNS, KEPT, OMEGA = 12, 21, 8, 0.25, 0.7
FEW = {"calibration_samples": 5}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _problem() -> tuple[Tensor, Tensor, Tensor]:
    """Weights before, change, and inputs that are correlated; the last one is always zero."""
    inputs = _random(60, IN, seed=1) @ _random(IN, IN, seed=2)
    inputs[:, -1] = 0
    return _random(OUT, IN, seed=3), 0.3 * _random(OUT, IN, seed=4), inputs


# -- the rule ------------------------------------------------------------------------------------------------


def _transcribed(
    before: np.ndarray, tuned: np.ndarray, inputs: np.ndarray, sign: float
) -> tuple[np.ndarray, np.ndarray]:
    """The published procedure on whole weights: the weights that it leaves, and what it has left tuned."""
    hessian = 2 / len(inputs) * inputs.T @ inputs
    for j in range(IN):
        if hessian[j, j] == 0:
            hessian[j, j] = 1
    hessian += 0.01 * np.mean(np.diag(hessian)) * np.eye(IN)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    weights, changes, stays = tuned.copy(), np.abs(tuned - before), np.zeros((OUT, IN), dtype=bool)
    for start in range(0, IN, COLUMNS):
        chosen = range(start, min(start + COLUMNS, IN))
        score = np.zeros((OUT, len(chosen)))
        for i in range(OUT):
            sizes = changes[i, list(chosen)]
            effects = np.array([weights[i, j] ** 2 / upper[j, j] ** 2 for j in chosen])
            for part, values in ((OMEGA, sizes), (1 - OMEGA, effects)):
                score[i] += part * (values - values.mean()) / values.std(ddof=1)
        count = round(KEPT * score.size)
        limit = np.sort(score.ravel())[-count]
        stays[:, list(chosen)] = score >= limit
        for i in range(OUT):
            for j in chosen:
                left = weights[i, j] if stays[i, j] else before[i, j]
                error = (weights[i, j] - left) / upper[j, j]
                weights[i, j] = left
                for later in range(j + 1, IN):
                    weights[i, later] += sign * error * upper[j, later]
    return weights, stays


@pytest.mark.parametrize(("compensation", "sign"), [("obs", -1), ("published", 1), ("none", 0)])
def test_the_patch_is_that_of_the_published_procedure(
    compensation: Any, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailor, "COLUMNS", COLUMNS)
    before, change, inputs = _problem()
    weights, stays = _transcribed(before.numpy(), (before + change).numpy(), inputs.numpy(), sign)
    hessian = 2 / len(inputs) * inputs.T @ inputs
    got, mask = tailored(change.clone(), before, hessian, kept=KEPT, omega=OMEGA, compensation=compensation)
    assert np.array_equal(mask.numpy(), stays)
    assert int(mask.sum()) == num_kept(OUT, IN, KEPT) == 24 + 24 + 15
    np.testing.assert_allclose(got.numpy(), weights - before.numpy(), rtol=1e-9, atol=1e-12)


def test_compensation_makes_the_outputs_error_smaller_and_its_published_sign_larger() -> None:
    before, change, _ = _problem()
    # Inputs that a few directions explain, so that columns can stand in for each other.
    inputs = _random(60, 4, seed=1) @ _random(4, IN, seed=2) + 0.1 * _random(60, IN, seed=6)
    errors = []
    for compensation in ("obs", "none", "published"):
        hessian = inputs.T @ inputs
        got, _ = tailored(
            change.clone(),
            before,
            hessian,
            kept=0.5,
            compensation=compensation,  # type: ignore[arg-type]
        )
        errors.append(float(((got - change) @ inputs.T).norm()))
    obs, none, published = errors
    assert obs < 0.8 * none
    assert none < 0.8 * published


def test_the_whole_change_stays_if_all_of_it_is_kept() -> None:
    before, change, inputs = _problem()
    got, mask = tailored(change.clone(), before, inputs.T @ inputs, kept=1.0)
    assert bool(mask.all())
    assert torch.equal(got, change)


def test_omega_weighs_the_size_of_the_change() -> None:
    before, change, inputs = _problem()
    _, mask = tailored(change.clone(), before, inputs.T @ inputs, kept=KEPT, omega=1.0)
    sizes = change.abs()
    scores = (sizes - sizes.mean(1, keepdim=True)) / sizes.std(1, keepdim=True)
    assert float(scores[mask].min()) > float(scores[~mask].max())


def test_a_layer_that_has_not_changed_leaves_no_nan() -> None:
    before, change, inputs = _problem()
    got, mask = tailored(torch.zeros_like(change), before, inputs.T @ inputs, kept=KEPT)
    assert not got.any()
    assert int(mask.sum()) == num_kept(OUT, IN, KEPT)


# -- the layer -----------------------------------------------------------------------------------------------


def _bank() -> PatchedBank:
    """Two patches that overlap, and a block that is not zero."""
    base = nn.Linear(IN, OUT).requires_grad_(False)
    bank = PatchedBank(base, "layer", scaling=1.5, default_gate="ones")
    bank.patch_size, bank.patch_each = 40, True
    for seed in (1, 2):
        bank.add_block(3, _generator(seed))
        places = torch.randperm(OUT * IN, generator=_generator(seed))[:40]
        mask = torch.zeros(OUT * IN, dtype=torch.bool).index_fill(0, places, True).view(OUT, IN)
        bank.patch(-1).fill(_random(OUT, IN, seed=seed).float(), mask)
    bank.block(0).B.data.copy_(_random(OUT, 3, seed=5))
    return bank


def test_the_layer_multiplies_by_base_patches_and_block_and_keeps_none_of_them_dense() -> None:
    bank = _bank()
    kept: list[Tensor] = []
    x = torch.randn(2, 5, IN, generator=_generator(7)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = bank(x)
    assert not any(
        t.shape[-2:] in ((OUT, IN), (IN, OUT)) for t in kept if t.data_ptr() != bank.weight.data_ptr()
    )
    change = torch.zeros(OUT * IN)
    for patch in (bank.patch(0), bank.patch(1)):
        for index, value in zip(patch.index.tolist(), patch.value.tolist(), strict=True):
            change[index] += value
    weight = bank.weight + change.view(OUT, IN) + bank.block_change()
    again = x.detach().clone().requires_grad_()
    expected = nn.functional.linear(again, weight, bank.bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn(y.shape, generator=_generator(8))
    y.backward(cotangent)
    expected.backward(cotangent)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-5, atol=1e-5)
    assert bank.block(0).B.grad is not None
    assert len(bank.blocks) == 1


def test_the_layer_computes_in_the_type_of_autocast_and_again_under_activation_checkpointing() -> None:
    bank = _bank()
    x = torch.randn(2, 5, IN, generator=_generator(7)).requires_grad_()
    (plain,) = torch.autograd.grad(bank(x).square().sum(), x)
    (again,) = torch.autograd.grad(checkpoint(bank, x, use_reentrant=False).square().sum(), x)
    assert torch.equal(again, plain)
    with torch.autocast("cpu", torch.bfloat16):
        y = bank(x)
        assert bank.combined(y, x).dtype == y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), bank(x), rtol=0.05, atol=0.1)
    (mixed,) = torch.autograd.grad(y.float().square().sum(), x)
    torch.testing.assert_close(mixed, plain, rtol=0.1, atol=0.5)


def test_a_patch_refuses_another_number_of_entries() -> None:
    with pytest.raises(ValueError, match="a patch of 40 entries was given 252"):
        _bank().patch(0).fill(torch.zeros(OUT, IN), torch.ones(OUT, IN, dtype=torch.bool))


# -- the method ----------------------------------------------------------------------------------------------


def _fitted(folder: Path, root: Path, **settings: Any) -> tuple[ModelTailor, Snapshots, list[dict[str, Any]]]:
    method = small_method(folder, ModelTailor, **{**FEW, **settings})
    seen = Snapshots()
    trainer = fit(root, method, quick_data(), callbacks=[seen])
    assert isinstance(method, ModelTailor)
    return method, seen, log_rows(trainer.run)


def _change(bank: PatchedBank, state: dict[str, Tensor], number: int = 0) -> Tensor:
    index, value = (state[f"{bank.name}.patches.{number}.{part}"] for part in ("index", "value"))
    assert index.unique().numel() == index.numel() == num_kept(bank.out_features, bank.in_features, 0.1)
    return torch.zeros(bank.weight.numel()).index_add(0, index.long(), value)


@pytest.mark.parametrize("against", ["pretrained", "stage"])
def test_a_stage_leaves_a_patch_for_the_next_to_begin_with(
    llava_folder: Path, tmp_path: Path, against: str
) -> None:
    method, seen, rows = _fitted(llava_folder, tmp_path / "own", against=against)
    plain = small_method(llava_folder, SeqLoRA)
    expected = log_rows(fit(tmp_path / "plain", plain, quick_data(), callbacks=[]).run)
    assert [row["loss/lm"] for row in rows[:2]] == [row["loss/lm"] for row in expected[:2]]
    first, begun, second = seen.after[0], seen.before[1], seen.after[1]
    for name, bank in method.banks.items():
        assert isinstance(bank, PatchedBank)
        assert not any(state[f"{name}.blocks.0.B"].any() for state in (first, second))
        assert not torch.equal(begun[f"{name}.blocks.0.A"], first[f"{name}.blocks.0.A"])
        one, two = _change(bank, first), _change(bank, second)
        assert torch.equal(_change(bank, begun), one)
        assert torch.equal(one, two) == (against == "stage")
        if against == "stage":
            two = two + _change(bank, second, 1)
        else:
            assert len(bank.patches) == 1
        assert not torch.equal(one, two)
        assert torch.equal(bank.patched_change().flatten(), two)
    assert method.parameter_counts()["stored"] == sum(t.numel() for t in second.values())


def test_layers_are_patched_in_order_each_on_what_those_before_it_now_give(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, list[str]]] = []
    real = ModelTailor._hessians

    def watched(self: ModelTailor, banks: list[PatchedBank], source: Any) -> dict[str, Tensor]:
        spent = [name for name, bank in self.banks.items() if not bank.block(0).B.any()]
        calls.append((banks[0].name, spent))
        return real(self, banks, source)

    monkeypatch.setattr(ModelTailor, "_hessians", watched)
    method, *_ = _fitted(llava_folder, tmp_path)
    half = calls[: len(calls) // 2]
    assert [name.split(".mlp")[0] for name, _ in half] == [
        "projector.linear_1",
        "decoder.0",
        "decoder.1",
        "decoder.2",
    ]
    assert [len(spent) for _, spent in half] == [0, 2, 5, 8]


def test_the_hessian_is_that_of_the_inputs_and_ranks_sum_their_shares(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, *_ = _fitted(llava_folder, tmp_path)
    bank = method.banks["decoder.1.mlp.down_proj"]
    assert isinstance(bank, PatchedBank)
    source = quick_data().stream[0].train
    assert source is not None
    seen: list[Tensor] = []
    handle = bank.base.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, 1)))
    with torch.no_grad():
        whole = method._hessians([bank], source)[bank.name]
        handle.remove()
        x = torch.cat(seen).double()
        torch.testing.assert_close(whole.double(), 2 / 5 * x.T @ x, rtol=1e-4, atol=1e-6)
        parts = []
        monkeypatch.setattr(calibration, "num_ranks", lambda: 2)
        for number in (0, 1):
            monkeypatch.setattr(calibration, "rank", lambda own=number: own)
            parts.append(method._hessians([bank], source)[bank.name])
    assert not torch.equal(parts[0], whole)
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-4, atol=1e-6)


def test_the_more_is_kept_the_more_of_a_stage_is_left(llava_folder: Path, tmp_path: Path) -> None:
    lost = []
    whole: Tensor | None = None
    for kept in (1.0, 0.5, 0.05):
        method, seen, _ = _fitted(llava_folder, tmp_path / str(kept), kept=kept, compensation="none")
        bank = method.banks["decoder.0.mlp.up_proj"]
        index, value = (seen.after[0][f"{bank.name}.patches.0.{part}"] for part in ("index", "value"))
        change = torch.zeros(bank.weight.numel()).index_add(0, index.long(), value)
        whole = change if whole is None else whole
        assert torch.equal(change[index.long()], whole[index.long()])
        lost.append(float((change - whole).norm()))
    assert lost[0] == 0 < lost[1] < 0.6 * lost[2]


@pytest.mark.parametrize("after", ["reset", "keep"])
def test_a_projector_that_trains_as_a_whole_goes_back_to_the_pretrained_one_if_asked(
    llava_folder: Path, tmp_path: Path, after: str
) -> None:
    method, seen, _ = _fitted(llava_folder, tmp_path, projector="full", projector_after=after)
    assert method.projector_bank is not None
    pretrained = method.projector_bank.base.state_dict()
    copy = {name: seen.after[1][f"projector.copies.0.{name}"] for name in pretrained}
    same = all(torch.equal(copy[name], value) for name, value in pretrained.items())
    assert same == (after == "reset")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kept": 0.0}, "model.kept must be"),
        ({"omega": 1.5}, "model.omega must be"),
        ({"compensation": "plus"}, "model.compensation must be one of obs, published, none"),
        ({"calibration_samples": 0}, "model.calibration_samples must be at least 1"),
    ],
)
def test_settings_that_make_no_method_are_refused(
    llava_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_method(llava_folder, ModelTailor, **settings)


def test_what_becomes_of_a_projector_with_adapters_is_no_setting(llava_folder: Path) -> None:
    with pytest.warns(UserWarning, match="model.projector_after has no effect on a projector"):
        small_method(llava_folder, ModelTailor, projector_after="keep")
