"""Pages are what the results generate; and docs/results.md is."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from sweep_kit import small_result

from lit_cvit.report import run_summary
from lit_cvit.report.results import read_result, write_result
from lit_cvit.report.results_headers import render_header
from lit_cvit.report.results_page import render, with_content

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "results").glob("*/*.json"))
PAGE = """\
# Title

{marker}
old
<!-- end of results -->

Words.
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for result in (
        small_result("A", 0),
        small_result("A", 1, own=90.0, end=50.0),
        small_result("B", 0, end=60.0),
    ):
        write_result(folder / "study" / f"{result.name}.json", result)
    return folder


def generated(results: Path, spec: str) -> str:
    """What stands between the lines of a marker after rendering."""
    marker = f"<!-- results {spec} -->"
    page = render(PAGE.format(marker=marker), results)
    before, _, rest = page.partition(f"{marker}\n\n")
    inside, _, after = rest.partition("\n<!-- end of results -->")
    assert (before, after) == ("# Title\n\n", "\n\nWords.\n")
    assert render(page, results) == page
    return inside


def test_metrics_are_means_over_seeds_with_their_deviation(results: Path) -> None:
    found = generated(
        results,
        '{"sweep": "study", "table": "metrics", "cells": {"B": "ours", "A": "baseline"}, '
        '"columns": {"AP without captions": "AP", "BWT without captions": "BWT", "MIF": "MIF"}}',
    )
    assert found.splitlines() == [
        "|  | seeds | AP | BWT | MIF |",
        "| --- | ---: | --- | --- | --- |",
        "| ours | 1 | 60.0 | -20.0 | 80.0 |",
        "| baseline | 2 | 45.0 \u00b1 7.1 | -40.0 \u00b1 0.0 | 80.0 \u00b1 0.0 |",
    ]


def test_captions_may_count_by_exact_content(results: Path) -> None:
    found = generated(
        results,
        '{"sweep": "study", "table": "metrics", "cells": ["B"], "captions": "content", "columns": ["AP"]}',
    )
    assert found.splitlines()[-1] == "| B | 1 | 45.0 |"


def test_tasks_are_shown_after_their_own_stage_or_at_the_end(results: Path) -> None:
    own = generated(results, '{"sweep": "study", "table": "tasks", "cells": ["B"], "at": "own"}')
    end = generated(results, '{"sweep": "study", "table": "tasks", "cells": ["B"]}')
    assert own.splitlines()[-1] == "| B | 1 | 80.0 | 120.0 |"
    assert end.splitlines()[-1] == "| B | 1 | 60.0 | 120.0 |"


def test_downstream_and_cost_have_tables_of_their_own(results: Path) -> None:
    down = generated(results, '{"sweep": "study", "table": "downstream", "cells": ["A"]}')
    assert down.splitlines()[-1] == "| A | VizWiz | 2 | 12.5 \u00b1 0.0 | 60.0 \u00b1 0.0 |"
    cost = generated(results, '{"sweep": "study", "table": "cost"}')
    assert cost == (
        "3 runs with 1 thread(s) each: 6 minutes of training and 3 minutes of evaluation; "
        "at most 1.0 GiB of main memory.\n"
    )


def test_the_efficiency_table_has_parameters_seconds_and_memory_of_every_row(results: Path) -> None:
    merged = small_result("B", 0)
    merged.stages[-1]["facts"]["parameters"]["loaded"] = 3000
    write_result(results / "merging" / "B-0.json", merged)
    for sweep, at_test in (("study", "4.0"), ("merging", "3.0")):
        found = generated(results, f'{{"sweep": "{sweep}", "table": "efficiency", "cells": ["B"]}}')
        assert found.splitlines()[-1] == f"| B | 1 | 2.0 | 4.0 | {at_test} | 120.0 | 60.0 | 1024.0 |"


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("A", "AP 37.5 \u00b1 3.5, BWT -40.0 \u00b1 0.0, MIF 80.0 \u00b1 0.0 (2 seeds)."),
        ("B", "AP 45.0, BWT -20.0, MIF 80.0 (1 seed)."),
        ("C", "not measured yet."),
    ],
)
def test_a_configuration_says_what_to_expect(results: Path, group: str, expected: str) -> None:
    header = "# A title.\n# Expect on x-mini (results/study, {}): {}\nmodel:\n"
    found = render_header(header.format(group, "AP 1.0 (1 seed)."), results)
    assert found == header.format(group, expected)


def test_what_is_not_measured_yet_is_named(results: Path) -> None:
    assert "not measured yet" in generated(results, '{"sweep": "other", "table": "cost"}')
    assert "not measured yet" in generated(results, '{"sweep": "study", "table": "cost", "cells": ["C"]}')


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ('{"sweep": "study", "tabel": "cost"}', "Did you mean 'table'"),
        ('{"sweep": "study"}', "the key table is missing"),
        ('{"sweep": "study", "table": "costs"}', "Did you mean 'cost'"),
        ("{sweep: study}", "not valid JSON"),
        ('{"sweep": "study", "table": "tasks", "at": "last"}', "unknown at 'last'"),
        ('{"sweep": "study", "table": "tasks", "captions": "contents"}', "Did you mean 'content'"),
    ],
)
def test_a_wrong_marker_is_refused(results: Path, spec: str, words: str) -> None:
    with pytest.raises(ValueError, match="results") as caught:
        generated(results, spec)
    assert words in str(caught.value)


def test_the_committed_pages_are_what_the_committed_results_generate() -> None:
    command = runpy.run_path(str(ROOT / "examples" / "results" / "page.py"))
    for path, generated in (command["PAGES"] | command["HEADERS"]).items():
        page = path.read_text(encoding="utf-8")
        assert generated(page, command["RESULTS"]) == page, "run `python examples/results/page.py`"


def test_metrics_of_committed_results_are_those_of_their_matrices() -> None:
    for path in RESULTS:
        result = read_result(path)
        known = {name: value for name, value in result.metrics.items() if value is not None}
        again = {name: value for name, value in run_summary(result.matrix).items() if name in known}
        assert again == pytest.approx(known, abs=1e-6), path.name


def test_a_matrix_without_captions_stays_as_it_is() -> None:
    held_out = small_result("A", 0).downstream
    assert with_content(held_out) is held_out
