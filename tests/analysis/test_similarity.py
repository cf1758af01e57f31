"""Similarity of tasks: Eq. 3 of ProgLoRA and the transform of TIR, against plain transcriptions."""

from __future__ import annotations

import math

import pytest
import torch

from lit_cvit.analysis.similarity import cosine, require_similarities, task_similarities

TASKS = [
    [torch.randn(5, generator=torch.Generator().manual_seed(7 * t + m)) + 1 for m in range(3)]
    for t in range(4)
]


def plain(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))


def test_a_similarity_is_the_product_of_the_three_cosines_of_equation_3() -> None:
    expected = []
    for old in TASKS[:-1]:
        expected.append(math.prod(plain(a, b) for a, b in zip(old, TASKS[-1], strict=True)))
    assert min(expected) > 0
    assert task_similarities(TASKS) == pytest.approx(expected, rel=1e-12)


def test_the_first_task_is_compared_with_nothing() -> None:
    assert task_similarities(TASKS[:1]) == []
    assert task_similarities(TASKS[:1], transform="tir") == []


def test_a_task_is_entirely_like_itself_and_opposites_are_taken_to_zero() -> None:
    turned = [-TASKS[0][0], *TASKS[0][1:]]
    assert task_similarities([TASKS[0], turned, TASKS[0]]) == pytest.approx([1.0, 0.0], abs=1e-12)


def test_a_modality_that_no_task_has_says_nothing_and_one_that_one_lacks_separates() -> None:
    none = torch.zeros(5)
    assert float(cosine(none, none)) == 1.0
    assert float(cosine(none, TASKS[0][0])) == 0.0
    without = [[none, *task[1:]] for task in TASKS[:2]]
    expected = math.prod(plain(a, b) for a, b in zip(TASKS[0][1:], TASKS[1][1:], strict=True))
    assert task_similarities(without) == pytest.approx([expected], rel=1e-12)


def test_tir_takes_the_sigmoid_of_z_scores_among_all_pairs() -> None:
    expected = [1.0, 1.0, 1.0]
    for m in range(3):
        pairs = {(p, i): plain(TASKS[p][m], TASKS[i][m]) for i in range(4) for p in range(i)}
        mean = sum(pairs.values()) / 6
        spread = math.sqrt(sum((value - mean) ** 2 for value in pairs.values()) / 6)
        for p in range(3):
            expected[p] /= 1 + math.exp(-(pairs[p, 3] - mean) / spread)
    assert task_similarities(TASKS, transform="tir") == pytest.approx(expected, rel=1e-9)


def test_a_single_pair_is_its_own_mean_under_tir() -> None:
    assert task_similarities(TASKS[:2], transform="tir") == [0.125]


def test_an_unknown_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'none' or 'tir', got 'sigmoid'"):
        task_similarities(TASKS, transform="sigmoid")  # type: ignore[arg-type]


def test_comparing_no_tasks_is_an_error() -> None:
    class Compares:
        measures = False

        def similarities(self) -> dict[str, float]:
            return {}

    with pytest.raises(
        ValueError, match="Mine needs a method that compares tasks, such as ProgLoRAStatic, not object"
    ):
        require_similarities(object(), option="Mine")
    with pytest.raises(ValueError, match="Mine needs the similarity of tasks, which Compares as configured"):
        require_similarities(Compares(), option="Mine")
    Compares.measures = True
    require_similarities(Compares(), option="Mine")
