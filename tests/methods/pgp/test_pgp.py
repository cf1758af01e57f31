"""PGP: bases against an independent transcription, and where steps and gradients may go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stream_kit import STREAM, Snapshots, differing, fit, quick_data, small_method, snapshot
from torch import Tensor

from lit_cvit.adapters import routing
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.methods import L2PPGP, PGP, ContinualMethod, SeqLoRA
from lit_cvit.methods.pgp import extended, without
from lit_cvit.methods.pgp.projected import ProjectedMethod

# The fits of the tests set them for every method.
pytestmark = pytest.mark.filterwarnings("ignore:model.rank, model.alpha have no effect")

FEW: dict[str, Any] = {"feature_samples": 5}
HALVES = {"batch_size": 2, "global_batch_size": 4}


def trained(
    root: Path, method: ContinualMethod, tasks: list[str] = STREAM[:2], **data: Any
) -> tuple[Snapshots, ContinualMethod]:
    states = Snapshots()
    fit(root, method, quick_data(tasks=tasks, **data), callbacks=[states])
    return states, method


# -- bases ---------------------------------------------------------------------------------------------------


def published_extension(basis: np.ndarray, inputs: np.ndarray, threshold: float) -> np.ndarray:
    """The update of gradient projection memory, by eigenvectors, from the paper's Eq. 8 and 9."""
    total = np.trace(inputs.T @ inputs)
    rest = inputs - inputs @ basis @ basis.T
    values, vectors = np.linalg.eigh(rest.T @ rest)
    held, count = 1 - values.sum() / total, 0
    while held < threshold:
        count += 1
        held = 1 - values.sum() / total + values[-count:].sum() / total
    return np.concatenate([basis, vectors[:, len(vectors) - count :][:, ::-1]], axis=1)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.97])
def test_a_basis_grows_as_in_gradient_projection_memory(energy: float) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, expected = torch.zeros(12, 0), np.zeros((12, 0))
    for _ in range(3):
        scales = 10 ** torch.linspace(0, -1.5, 12)[torch.randperm(12, generator=generator)]
        rows = torch.randn(30, 12, generator=generator) * scales
        before = basis.clone()
        basis = extended(basis, rows, energy)
        expected = published_extension(expected, rows.double().numpy(), energy)
        assert basis.shape == expected.shape
        assert torch.equal(basis[:, : before.shape[1]], before)
        np.testing.assert_allclose((basis @ basis.T).numpy(), expected @ expected.T, atol=1e-5)
    assert basis.shape[1] > 0
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-5)


def test_nothing_is_added_for_inputs_that_are_held_or_none() -> None:
    basis = torch.eye(4)[:, :2]
    assert torch.equal(extended(basis, torch.tensor([[3.0, 1.0, 0.0, 0.0]]), 1.0), basis)
    assert torch.equal(extended(basis, torch.zeros(2, 4), 0.9), basis)
    assert extended(basis, torch.tensor([[1.0, 0.0, 0.0, -2.0]]), 1.0)[:, 2].tolist() == [0, 0, 0, 1]


def test_without_leaves_what_is_orthogonal() -> None:
    basis = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(1)))[0]
    vectors = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(2))
    expected = vectors.numpy() @ (np.eye(6) - basis.numpy() @ basis.numpy().T)
    np.testing.assert_allclose(without(vectors, basis).numpy(), expected, atol=1e-6)


def test_a_basis_holds_the_energy_of_the_layers_inputs_and_no_direction_more(
    llava_folder: Path, tmp_path: Path
) -> None:
    method = small_method(llava_folder, PGP, energy=0.8, feature_samples=3, feature_rows=10_000, up=True)
    data = quick_data(tasks=STREAM[:1])
    fit(tmp_path, method, data, callbacks=[])
    assert isinstance(method, PGP)
    source = data.stream[0].train
    seen: dict[str, list[Tensor]] = {name: [] for name in method.banks}
    for name, bank in method.banks.items():
        bank.base.register_forward_pre_hook(
            lambda _, inputs, name=name: seen[name].append(inputs[0].flatten(0, -2))
        )
    method.eval()
    for number in evenly_spaced(len(source), 3):  # type: ignore[arg-type]
        batch = method.backbone.encode([source.sample(number)], with_answers=True)  # type: ignore[union-attr]
        with torch.no_grad(), routing(method.context(batch)):
            method.backbone.forward_hidden(batch)
    for name, parts in seen.items():
        met = torch.cat(parts)
        for part, inputs in (("A", met), ("B", met @ method.banks[name].block(0).A.T)):
            basis, total = method.bases[f"{name}.{part}"], inputs.square().sum()
            held = (inputs @ basis).square().sum(0).cumsum(0) / total
            assert held[-1] >= 0.8 - 1e-5
            assert len(held) == 1 or held[-2] < 0.8 + 1e-5


# -- steps ---------------------------------------------------------------------------------------------------


def along(states: Snapshots, stage: int, name: str, basis: str) -> tuple[float, float]:
    """How far a parameter went in a stage: along its basis, and in all."""
    moved = states.after[stage - 1][name] - states.before[stage - 1][name]
    return float((moved @ states.before[stage - 1][f"basis.{basis}"]).norm()), float(moved.norm())


@pytest.mark.parametrize("sizes", [{}, HALVES], ids=["whole", "halves"])
def test_steps_leave_the_inputs_of_earlier_tasks_alone_weight_decay_included(
    llava_folder: Path, tmp_path: Path, sizes: dict[str, int]
) -> None:
    method = small_method(llava_folder, PGP, decay=0.5, energy=0.6, up=True, **FEW)
    states, _ = trained(tmp_path, method, **sizes)
    for name in method.banks:
        for part in ("A", "B"):
            assert states.before[0][f"basis.{name}.{part}"].shape[1] == 0
            parallel, whole = along(states, 2, f"{name}.blocks.0.{part}", f"{name}.{part}")
            assert states.before[1][f"basis.{name}.{part}"].shape[1] > 0
            assert parallel < 1e-5 < 1e-3 < whole, (name, part)
    bases = [states.before[1], states.after[1]]
    grown = [sum(t.shape[1] for n, t in each.items() if n.startswith("basis.")) for each in bases]
    assert grown[0] < grown[1]


def test_projected_gradients_are_orthogonal_and_adams_steps_are_not(
    llava_folder: Path, tmp_path: Path
) -> None:
    method = small_method(llava_folder, PGP, projects="gradients", energy=0.6, **FEW)
    assert isinstance(method, PGP)
    found: list[tuple[float, float, float]] = []
    real = method.on_gradients

    def watched(step: int) -> None:
        name, (parameter, _) = next(iter(method.projected().items()))
        assert parameter.grad is not None
        basis = method.bases[name]
        before = float((parameter.grad @ basis).norm())
        real(step)
        found.append((before, float((parameter.grad @ basis).norm()), float(parameter.grad.norm())))

    method.on_gradients = watched  # type: ignore[method-assign]
    states, _ = trained(tmp_path, method)
    for before, after, whole in found[2:]:
        assert after < 1e-5 * whole < 1e-2 * before
    name = next(iter(method.banks))
    parallel, whole = along(states, 2, f"{name}.blocks.0.A", f"{name}.A")
    assert parallel > 0.05 * whole


def test_energy_0_is_seq_lora_bit_for_bit_also_under_dropout(llava_folder: Path, tmp_path: Path) -> None:
    _, plain = trained(tmp_path / "seq", small_method(llava_folder, SeqLoRA, dropout=0.2))
    _, free = trained(tmp_path / "free", small_method(llava_folder, PGP, energy=0.0, dropout=0.2, **FEW))
    found = {name: t for name, t in snapshot(free).items() if not name.startswith("basis.")}
    assert differing(found, snapshot(plain)) == []


def test_prompts_and_keys_leave_old_inputs_and_queries_alone(llava_folder: Path, tmp_path: Path) -> None:
    method = small_method(llava_folder, L2PPGP, decay=0.1, key_energy=0.9, **FEW)
    assert isinstance(method, ProjectedMethod)
    states, _ = trained(tmp_path, method)
    for name in ("pool.prompts", "pool.keys"):
        parallel, whole = along(states, 2, name, name)
        assert parallel < 1e-5 < 1e-3 < whole, name
        assert along(states, 1, name, name)[0] == 0
        basis = states.before[1][f"basis.{name}"]
        assert 0 < basis.shape[1] < basis.shape[0]
