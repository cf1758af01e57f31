"""`compare` over results of sweeps: grouped as the sweep grouped them, intervals over seeds alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sweep_kit import small_result

from lit_cvit.report.compare import Comparison, compare
from lit_cvit.report.results import Result, write_result


def write(root: Path, *results: Result) -> Path:
    """A folder of results."""
    for result in results:
        write_result(root / f"{result.name}.json", result)
    return root


def names(comparison: Comparison) -> list[str]:
    return [row.group.name for row in comparison.rows]


def test_groups_are_those_of_the_sweep_and_intervals_are_over_seeds_alone(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "study",
        small_result("A", 0),
        small_result("A", 1, end=60.0),
        small_result("B", 0, end=50.0),
        small_result("B", 1, end=80.0),
    )
    comparison = compare([folder])
    assert names(comparison) == ["A", "B"]
    # AP is 80 and 90, and 85 and 100; 10 and 20 points of one task of two.
    assert [row.metrics["AP"] for row in comparison.rows] == [[80.0, 90.0], [85.0, 100.0]]
    row = comparison.rows[1]
    assert row.over == "2 seeds alone: no predictions"
    found = row.differences["AP"]
    assert (found.value, found.low, found.high) == pytest.approx((7.5, 5.0, 10.0))


def test_files_may_be_named_one_by_one_and_the_first_is_the_reference(tmp_path: Path) -> None:
    folder = write(tmp_path / "study", small_result("A", 0), small_result("B", 0, end=50.0))
    comparison = compare([folder / "B-0.json", folder / "A-0.json"])
    assert names(comparison) == ["B", "A"]
    row = comparison.rows[1]
    assert row.over == "none: one seed, and no predictions"
    assert (row.differences["AP"].value, row.differences["AP"].low) == (-5.0, None)


def test_equal_groups_of_two_sweeps_are_two_rows_named_by_their_files(tmp_path: Path) -> None:
    first = write(tmp_path / "one", small_result("A", 0))
    second = write(tmp_path / "two", replace(small_result("A", 0), sweep="other"))
    assert names(compare([first, second])) == [str(first / "A-0.json"), str(second / "A-0.json")]


def test_a_folder_of_several_sweeps_names_them(tmp_path: Path) -> None:
    for sweep in ("one", "two"):
        write(tmp_path / "results" / sweep, small_result("A", 0))
    (tmp_path / "results" / "published.json").write_text("{}")
    with pytest.raises(ValueError, match="several sweeps") as caught:
        compare([tmp_path / "results"])
    assert str(tmp_path / "results" / "two") in str(caught.value)


def test_results_scored_in_another_way_are_refused_by_file_and_both_values(tmp_path: Path) -> None:
    def scored(group: str, scorer: str) -> Result:
        result = small_result(group, 0)
        how = {"stream": ["GQA", "Flickr30k"], "scoring": {"GQA": {"scorer": scorer}}}
        return replace(result, run={**result.run, **how})

    folder = write(tmp_path / "study", scored("A", "exact"), scored("B", "short_answer"))
    with pytest.raises(ValueError, match="cannot be compared") as caught:
        compare([folder])
    for words in (
        str(folder / "B-0.json"),
        str(folder / "A-0.json"),
        "scorer of GQA is short_answer, not exact",
    ):
        assert words in str(caught.value)


def test_results_with_a_record_of_another_form_are_refused_by_file(tmp_path: Path) -> None:
    result = small_result("A", 0)
    folder = write(tmp_path / "study", replace(result, run={**result.run, "unknown": 1}))
    with pytest.raises(ValueError, match=r"A-0\.json is damaged"):
        compare([folder])
