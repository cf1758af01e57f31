"""Placement: which layers expand and which fuse, by lists, words and a CKA report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_cvit.methods.hide.placement import layers_to_expand, place


def letters(expand: Any, fuse: Any, *, num_layers: int = 4, divided: tuple[int, ...] = ()) -> str:
    roles = place(expand, fuse, num_layers=num_layers, divided=divided)
    assert list(roles) == list(range(num_layers))
    return "".join(role[0] for role in roles.values())


@pytest.mark.parametrize(
    ("expand", "fuse", "expected"),
    [
        ("top", "all", "fffe"),
        ("all", "all", "eeee"),
        ([], "all", "ffff"),
        ([], "below_top", "fffb"),
        ("below_top", [], "eeeb"),
        ([-1, 0], [1], "efbe"),
        ([1, -3], "top", "bebf"),
        ("top", "top", "bbbe"),
    ],
)
def test_every_layer_has_one_role(expand: Any, fuse: Any, expected: str) -> None:
    assert letters(expand, fuse) == expected


@pytest.mark.parametrize(
    ("expand", "fuse", "expected"),
    [("auto", "auto", "fefe"), ("top", "auto", "fbfe"), ("auto", [0], "febe"), ("auto", "all", "fefe")],
)
def test_auto_follows_the_division(expand: Any, fuse: Any, expected: str) -> None:
    assert letters(expand, fuse, divided=(1, 3)) == expected


@pytest.mark.parametrize(
    ("expand", "fuse", "message"),
    [
        (
            [4],
            "all",
            r"model.expand: the decoder has no layer 4; allowed are 0 to 3, or -4 to -1 from the top",
        ),
        ("top", [-5], r"model.fuse: the decoder has no layer -5"),
        ([1, 3], [0, -1], r"model.expand and model.fuse both name layer 3"),
    ],
)
def test_what_cannot_be_placed_is_refused(expand: Any, fuse: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        letters(expand, fuse)


def written(folder: Path, between: list[float]) -> Path:
    """A report of two tasks with the given similarity in every layer."""
    path = folder / "cka.json"
    path.write_text(json.dumps({"cka": [[[1.0, value], [value, 1.0]] for value in between]}))
    return path


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ([0.9, 0.88, 0.91, 0.5], [3]),
        ([0.4, 0.9, 0.45, 0.95], [2, 3]),
        ([0.9, 0.1], [1]),
        ([0.9, 0.8, 0.5], [2]),
    ],
)
def test_the_largest_drop_is_where_layers_begin_to_expand(
    tmp_path: Path, between: list[float], expected: list[int]
) -> None:
    assert layers_to_expand(written(tmp_path, between), num_layers=len(between)) == expected


def test_the_reports_own_threshold_holds(tmp_path: Path) -> None:
    path = written(tmp_path, [0.9, 0.85, 0.6])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "threshold": 0.2}))
    assert layers_to_expand(path, num_layers=3) == [2]
    path.write_text(json.dumps({**content, "threshold": 0.3}))
    with pytest.raises(ValueError, match="falls most at layer 2, by 0.25, and must fall by more than 0.3;"):
        layers_to_expand(path, num_layers=3)


def test_the_similarity_of_a_task_with_itself_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "cka.json"
    layers = [[[0.0, 0.7], [0.9, 0.0]], [[9.0, 0.2], [0.4, 9.0]], [[1.0, 0.8], [0.9, 1.0]]]
    path.write_text(json.dumps({"cka": layers}))
    assert layers_to_expand(path, num_layers=3) == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a file; write it first, or name the layers"),
        ("no json", "must hold"),
        ("{}", "must hold .* KeyError 'cka'"),
        ('{"cka": "x"}', "must hold"),
        (
            '{"cka": [[[1, 0.5]]]}',
            r"must hold \(layers, tasks, tasks\) of two tasks or more, got \(1, 1, 2\)",
        ),
        ('{"cka": [[[1]], [[1]]]}', r"of two tasks or more, got \(2, 1, 1\)"),
        ("[1]", "must hold .* TypeError"),
        ('{"cka": [[[1, 0.5], [0.5, 1]]]}', "must have two layers or more .*, got 1"),
        (
            '{"cka": [[[1, 0.5], [0.5, 1]], [[1, 0.1], [0.1, 1]], [[1, 0.1], [0.1, 1]]]}',
            "has 3 layers, the decoder has 2",
        ),
        (
            '{"cka": [[[1, 0.5], [0.5, 1]], [[1, 0.5], [0.5, 1]]]}',
            "has no task-specific layer: .* name the layers to expand",
        ),
        ('{"cka": [[[1, NaN], [0.5, 1]], [[1, 0.5], [0.5, 1]]]}', "a similarity that is not a number"),
        ('{"cka": [[[1, 1], [1, 1]], [[1, 0], [0, 1]]], "threshold": "low"}', "must hold .* ValueError"),
    ],
)
def test_a_report_that_cannot_divide_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        layers_to_expand(path, num_layers=2)
    assert str(caught.value).startswith(f"model.cka_report '{path}'")
