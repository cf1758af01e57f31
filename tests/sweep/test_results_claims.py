"""Tables that compare results with published ones."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from sweep_kit import small_result

from lit_cvit.metrics.rank_correlation import rank_correlation
from lit_cvit.report.results import write_result
from lit_cvit.report.results_page import block

PUBLISHED: dict[str, Any] = {
    "main": {"source": "Paper, Table 1", "metric": "AP", "values": {"one": 10.0, "two": 20.0, "three": 30.0}},
    "kept": {"source": "Paper, Table 5", "metric": "kept", "values": {"GQA": 0.6}},
}


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small tables in the place of the package's."""
    (tmp_path / "published.json").write_text(json.dumps(PUBLISHED))
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AP of A is 35 and 55 (captions count 30), of B 45, of C 25."""
    folder = tmp_path_factory.mktemp("results")
    for result in (
        small_result("A", 0),
        small_result("A", 1, end=80.0),
        small_result("B", 0, end=60.0),
        small_result("C", 0, end=20.0),
    ):
        write_result(folder / "study" / f"{result.name}.json", result)
    return folder


def table(results: Path, **spec: Any) -> list[str]:
    return block({"sweep": "study", "captions": "content", **spec}, results).splitlines()


def test_ranks_stand_beside_the_published_ones_with_their_correlation_over_seeds(results: Path) -> None:
    found = table(results, table="ranks", published="main", cells={"C": "one", "A": "two", "B": "three"})
    assert found == [
        "|  | Paper, Table 1: AP | seeds | here |",
        "| --- | --- | ---: | --- |",
        "| three | 30.0 | 1 | 45.0 |",
        "| two | 20.0 | 2 | 45.0 \u00b1 14.1 |",
        "| one | 10.0 | 1 | 25.0 |",
        "",
        # The mean of A ties with B; its first seed is below, its second above.
        "Spearman's rank correlation over 3 rows: **0.87** (0.50 to 1.00 over 2 seeds).",
    ]


def test_two_rows_have_no_correlation(results: Path) -> None:
    found = table(results, table="ranks", published="main", cells={"A": "two", "B": "three"})
    assert found[-1].startswith("| two |")


def test_the_correlation_is_of_ranks() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 4000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_an_order_says_of_each_step_whether_it_holds_and_by_how_much(results: Path) -> None:
    found = table(results, table="order", published="main", cells={"C": "one", "B": "two", "A": "three"})
    assert found[2:] == [
        "| one | 10.0 | 1 | 25.0 |  |",
        "| two | 20.0 | 1 | 45.0 | yes (+20.0) |",
        "| three | 30.0 | 2 | 45.0 \u00b1 14.1 | no (+0.0) |",
    ]
    down = table(results, table="order", measure="downstream", cells=["C", "B"])
    assert down[-1] == "| B |  | 1 | 12.5 | no (+0.0) |"


def test_what_is_kept_is_the_end_over_the_own_stage_or_over_another_row(results: Path) -> None:
    assert table(results, table="kept", published="kept", cells=["B"])[2:] == [
        "| GQA | 80.0 | 60.0 | 0.75 | 0.60 | yes |",
        "",
        "1 of 1 tasks.",
    ]
    assert table(results, table="kept", published="kept", cells=["C", "B"], over="B")[2] == (
        "| GQA | 60.0 | 20.0 | 0.33 | 0.60 | no |"
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"table": "ranks", "published": "mian"}, "Did you mean 'main'"),
        ({"table": "ranks", "published": "main", "cells": {"A": "twoo"}}, "Did you mean 'two'"),
        ({"table": "order", "measure": "averge", "cells": ["A"]}, "Did you mean 'average'"),
        ({"table": "kept", "published": "kept", "cells": ["A"], "over": "B"}, "unknown over 'B'. Known: A"),
    ],
)
def test_a_wrong_value_of_a_marker_is_refused(results: Path, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="results: ") as caught:
        table(results, **spec)
    assert words in str(caught.value)
