"""CKA: the published code's values, what it is invariant to, chance, and the first task-specific layer."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_cvit.analysis.cka import (
    KERNELS,
    Kernel,
    centred_kernel,
    chance_similarities,
    cka,
    first_task_specific_layer,
    hsic,
    largest_drop,
    rbf_kernel,
    similarities,
    squared_distances,
    task_curve,
)

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("cka_[0-9]*.npz"))


def read(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays if arrays[name].dtype.kind == "f"}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the published code --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_values_are_those_of_the_published_code(path: Path) -> None:
    exact = path.stem.endswith("f64")
    atol, hsic_rtol = (1e-9, 1e-9) if exact else (1e-5, 1e-3)
    case = read(path)
    names = np.load(path, allow_pickle=False)["names"].tolist()
    x = case["X"]
    found: dict[str, list[float]] = {}
    for name in names:
        y = case[f"Y_{name}"]
        for key, value in (
            ("linear_cka", cka(x, y)),
            ("kernel_cka", cka(x, y, "rbf")),
            ("kernel_cka_sigma2", cka(x, y, "rbf", 2.0)),
            ("linear_hsic", product(x, y, "linear")),
            ("kernel_hsic", product(x, y, "rbf")),
        ):
            found.setdefault(key, []).append(float(value))
    for key in ("linear_cka", "kernel_cka", "kernel_cka_sigma2"):
        assert found[key] == pytest.approx(case[key].tolist(), abs=atol, rel=0)
    for key in ("linear_hsic", "kernel_hsic"):
        assert found[key] == pytest.approx(case[key].tolist(), rel=hsic_rtol)
    distances = squared_distances(x)
    for name, matrix in (
        ("K_rbf_X", rbf_kernel(distances)),
        ("centered_K_rbf_X", centred_kernel(distances, "rbf")),
    ):
        torch.testing.assert_close(matrix, case[name].double(), atol=atol, rtol=0)


def product(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    one, other = (centred_kernel(squared_distances(each), kernel) for each in (x, y))
    return hsic(one, other)


def test_equal_rows_are_left_out_of_the_median() -> None:
    case = read(Path(__file__).parents[1] / "golden" / "cka_degenerate.npz")
    assert int((squared_distances(case["X"]) == 0).sum()) == 8 + 6
    assert float(cka(case["X"], case["Y"])) == pytest.approx(float(case["linear_cka"]), abs=1e-9)
    assert float(cka(case["X"], case["Y"], "rbf")) == pytest.approx(float(case["kernel_cka"]), abs=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_vectors_that_are_all_equal_have_no_cka(kernel: Kernel) -> None:
    same = torch.ones(6, 3)
    assert math.isnan(float(cka(same, draw(6, 4), kernel)))
    layers = [torch.stack([squared_distances(same), squared_distances(draw(6, 3))]) for _ in range(2)]
    matrices = similarities(layers, kernel)
    assert matrices[0].isnan().all()
    torch.testing.assert_close(matrices[1], torch.ones(2, 2, dtype=torch.float64))


# -- what it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_rotation_uniform_scaling_shift_and_a_common_order_change_nothing(kernel: Kernel) -> None:
    x, y = draw(9, 5), draw(9, 7, seed=1)
    rotation = torch.linalg.qr(draw(5, 5, seed=2)).Q
    value = float(cka(x, y, kernel))
    assert 0.05 < value < 0.95
    assert float(cka(x, x, kernel)) == pytest.approx(1, abs=1e-12)
    assert float(cka(y, x, kernel)) == pytest.approx(value, abs=1e-12)
    for other in (x @ rotation, 3.7 * x, x + draw(5, seed=3)):
        assert float(cka(other, y, kernel)) == pytest.approx(value, abs=1e-12)
    order = torch.tensor([4, 0, 8, 2, 1, 7, 3, 6, 5])
    assert float(cka(x[order], y[order], kernel)) == pytest.approx(value, abs=1e-12)
    # Stretching one direction, or another order of one set alone, does change it.
    assert abs(float(cka(x * torch.tensor([9.0, 1, 1, 1, 1]), y, kernel)) - value) > 1e-3
    assert abs(float(cka(x[order], y, kernel)) - value) > 1e-3


def test_a_linear_value_worked_by_hand() -> None:
    x, y = torch.tensor([[1.0], [0.0], [-1.0]]), torch.tensor([[1.0], [-2.0], [1.0]])
    # Centred Gram matrices x x^T and y y^T: HSIC = (x . y)^2 = 0, and with z = x + y it is (x . z)^2.
    assert float(cka(x, y)) == pytest.approx(0, abs=1e-12)
    assert float(cka(x, x + y)) == pytest.approx(2**2 / (2 * 8), abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_matrices_hold_the_cka_of_every_pair_in_every_layer(kernel: Kernel) -> None:
    tasks = [draw(2, 8, 5, seed=seed) for seed in range(3)]
    matrices = similarities([squared_distances(each) for each in tasks], kernel)
    assert matrices.shape == (2, 3, 3)
    for a, b in itertools.product(range(3), repeat=2):
        torch.testing.assert_close(matrices[:, a, b], cka(tasks[a], tasks[b], kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_chance_is_the_mean_over_all_orders_of_the_rows(kernel: Kernel) -> None:
    tasks = [draw(1, 5, 4, seed=1), draw(1, 5, 3, seed=2)]
    orders = [list(order) for order in itertools.permutations(range(5))]
    chance = chance_similarities([squared_distances(each) for each in tasks], kernel)[0]
    for a, b in itertools.product(range(2), repeat=2):
        values = [float(cka(tasks[a], tasks[b][:, order], kernel)) for order in orders]
        assert float(chance[a, b]) == pytest.approx(sum(values) / len(values), abs=1e-12)


def test_sets_of_different_size_and_unknown_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="as many rows in both sets, got 5 and 6"):
        cka(draw(5, 2), draw(6, 2))
    with pytest.raises(ValueError, match="kernel must be one of linear, rbf; got 'cosine'"):
        cka(draw(5, 2), draw(5, 2), "cosine")  # type: ignore[arg-type]


# -- the first task-specific layer ---------------------------------------------------------------------------


def activations(change: int, *, tasks: int = 3, layers: int = 6, rows: int = 40) -> list[Tensor]:
    """Vectors of tasks that show the same thing in all layers below `change`, and each its own from it on."""
    shared = draw(rows, 4, seed=99)
    found = []
    for task in range(tasks):
        own = draw(rows, 4, seed=100 + task)
        views = [draw(4, 16, seed=1000 * task + layer) for layer in range(layers)]
        hidden = [(shared if layer < change else own) @ view for layer, view in enumerate(views)]
        noise = [0.1 * draw(rows, 16, seed=7000 + 10 * task + layer) for layer in range(layers)]
        found.append(torch.stack(hidden) + torch.stack(noise))
    return found


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("change", [1, 2, 3, 4, 5])
def test_a_known_change_point_is_found(kernel: Kernel, change: int) -> None:
    matrices = similarities([squared_distances(each) for each in activations(change)], kernel)
    curve = task_curve(matrices)
    assert curve.shape == (6,)
    assert first_task_specific_layer(curve) == change
    assert largest_drop(curve)[0] == change


@pytest.mark.parametrize("change", [0, 6])
def test_where_nothing_changes_no_layer_is_task_specific(change: int) -> None:
    matrices = similarities([squared_distances(each) for each in activations(change, rows=400)])
    assert first_task_specific_layer(task_curve(matrices), threshold=0.2) is None


@pytest.mark.parametrize(
    ("curve", "threshold", "first"),
    [
        ([0.9, 0.85, 0.88, 0.6], 0.05, 3),
        ([0.9, 0.85, 0.88, 0.6], 0.3, None),
        # The drop must exceed the threshold, and the first of equals counts.
        ([0.75, 0.5, 0.5], 0.25, None),
        ([0.75, 0.5, 0.5], 0.125, 1),
        ([1.0, 0.75, 0.5, 0.5], 0.125, 1),
        # What falls and rises again is found too; a curve that only rises has none.
        ([0.9, 0.2, 0.8, 0.85], 0.05, 1),
        ([0.1, 0.2, 0.3], 0.0, None),
        ([0.5, 0.5], 0.0, None),
    ],
)
def test_the_rule_takes_the_largest_drop_above_the_threshold(
    curve: list[float], threshold: float, first: int | None
) -> None:
    assert first_task_specific_layer(torch.tensor(curve, dtype=torch.float64), threshold) == first


def test_the_curve_leaves_out_the_similarity_of_a_task_with_itself() -> None:
    matrices = torch.tensor([[[9.0, 0.2], [0.4, 9.0]], [[0.0, 0.7], [0.9, 0.0]]])
    torch.testing.assert_close(task_curve(matrices), torch.tensor([0.3, 0.8]))
    with pytest.raises(ValueError, match=r"of two tasks or more, got \(2, 1, 1\)"):
        task_curve(torch.ones(2, 1, 1))


@pytest.mark.parametrize(
    ("curve", "message"),
    [([0.5], "must have two layers or more .*, got 1"), ([0.5, math.nan], "that is not a number")],
)
def test_a_curve_without_a_drop_to_speak_of_is_refused(curve: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        first_task_specific_layer(torch.tensor(curve))
