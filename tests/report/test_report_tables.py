"""Tables: exact text from exact numbers."""

from __future__ import annotations

import math

import pytest

from lit_cvit.report import (
    Table,
    csv_text,
    further_table,
    headline,
    markdown,
    matrix_table,
    plain,
    run_summary,
    summary_table,
)
from lit_cvit.run import ScoreMatrix

TWO = ScoreMatrix(
    tasks=("QA", "Cap"),
    captions=("Cap",),
    stages=("QA", "Cap"),
    scores=[[80.0, None], [50.0, 120.0]],
    mif=[[90.0, None], [100.0, 70.0]],
    also={"exact": [[None, None], [None, 40.0]]},
)


def three(**changes: object) -> ScoreMatrix:
    values: dict[str, object] = {
        "tasks": ("A", "B", "C"),
        "captions": (),
        "stages": ("A", "B", "C"),
        "scores": [[80.0, 10.0, 0.0], [60.0, 90.0, 0.0], [30.0, 60.0, 90.0]],
        "mif": [[100.0, None, None], [50.0, 100.0, None], [10.0, 20.0, 90.0]],
    }
    return ScoreMatrix(**{**values, **changes})  # type: ignore[arg-type]


def test_the_matrix_table_marks_captions_and_averages_with_and_without_them() -> None:
    assert matrix_table(TWO) == Table(
        header=("stage", "learned", "QA", "Cap*", "mean seen", "without captions"),
        rows=((1, "QA", 80.0, None, 80.0, 80.0), (2, "Cap", 50.0, 120.0, 85.0, 50.0)),
        note="* caption metric: not a percentage; the last column averages without it",
    )


def test_the_mean_covers_learned_tasks_only() -> None:
    assert [row[-1] for row in matrix_table(three()).rows] == [80.0, 75.0, 60.0]


def test_without_captions_there_is_one_mean_and_no_note() -> None:
    table = matrix_table(three())
    assert table.header == ("stage", "learned", "A", "B", "C", "mean seen")
    assert table.note == ""


def test_a_mean_with_a_missing_score_is_missing() -> None:
    scores = [[80.0, None, None], [None, 90.0, None], [None, None, None]]
    assert [row[-1] for row in matrix_table(three(scores=scores)).rows] == [80.0, None, None]


def test_joint_training_averages_all_tasks() -> None:
    joint = three(stages=("all tasks",), scores=[[30.0, 60.0, 90.0]], mif=[[None, None, None]])
    assert [row[-1] for row in matrix_table(joint).rows] == [60.0]


def test_a_further_table_leaves_empty_columns_out() -> None:
    assert further_table(TWO, TWO.also["exact"]) == Table(
        header=("stage", "learned", "Cap", "mean seen"), rows=((1, "QA", None, None), (2, "Cap", 40.0, 40.0))
    )


def test_markdown_is_exact() -> None:
    assert markdown(matrix_table(TWO)) == (
        "| stage | learned | QA | Cap\\* | mean seen | without captions |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: |\n"
        "| 1 | QA | 80.00 | - | 80.00 | 80.00 |\n"
        "| 2 | Cap | 50.00 | 120.00 | 85.00 | 50.00 |\n"
        "\n"
        "\\* caption metric: not a percentage; the last column averages without it\n"
    )


def test_csv_has_every_digit_and_empty_fields() -> None:
    table = Table(("a", "b,c"), ((1 / 3, None), ("x", 2)))
    assert csv_text(table) == 'a,"b,c"\n0.3333333333333333,\nx,2\n'


def test_plain_text_is_aligned() -> None:
    assert plain(matrix_table(TWO)) == (
        "stage  learned     QA    Cap*  mean seen  without captions\n"
        "-----  -------  -----  ------  ---------  ----------------\n"
        "    1  QA       80.00       -      80.00             80.00\n"
        "    2  Cap      50.00  120.00      85.00             50.00\n"
        "* caption metric: not a percentage; the last column averages without it\n"
    )


def test_a_bar_in_a_name_does_not_break_the_markdown_table() -> None:
    assert markdown(Table(("a|b",), (("c|d",),))) == "| a\\|b |\n| --- |\n| c\\|d |\n"


def test_the_summary_puts_values_without_captions_beside_the_others() -> None:
    summary = {"AP": 70.0, "BWT": math.nan, "MIF": 90.0, "AP without captions": 60.0}
    assert summary_table(summary) == Table(
        ("metric", "value", "without captions"),
        (("AP", 70.0, 60.0), ("BWT", None, None), ("MIF", 90.0, None)),
    )


def test_a_summary_without_captions_has_two_columns() -> None:
    assert summary_table({"AP": 70.0}) == Table(("metric", "value"), (("AP", 70.0),))


def test_the_run_summary_has_the_published_denominators() -> None:
    summary = run_summary(three())
    # AP = (30+60+90)/3; MAP = (80+75+60)/3; BWT = ((30-80)+(60-90))/2; MIF = (10+20+90)/3.
    assert {name: summary[name] for name in ("AP", "BWT", "MIF")} == {"AP": 60.0, "BWT": -40.0, "MIF": 40.0}
    assert summary["MAP"] == pytest.approx(215 / 3, abs=1e-12)


def test_the_run_summary_of_a_stopped_run_reads_the_last_measured_stage() -> None:
    scores = [[80.0, None, None], [60.0, 90.0, None], [None, None, None]]
    summary = run_summary(three(scores=scores, mif=[[None] * 3] * 3))
    assert (summary["AP"], summary["BWT"]) == (75.0, -20.0)


def test_the_run_summary_leaves_out_what_was_not_measured() -> None:
    upper, last = [[80.0, None, None], [60.0, 90.0, None], [30.0, 60.0, 90.0]], [[None] * 3] * 2
    assert set(run_summary(three())) - set(run_summary(three(scores=upper))) == {"InstrDialog FWT"}
    only_last = run_summary(three(scores=[*last, [30.0, 60.0, 90.0]], mif=[*last, [10.0, 20.0, 90.0]]))
    means = ("AP", "HiDe Last", "ProgLoRA ACC", "LCIA Avg.ACC", "InstrDialog AR")
    assert only_last == dict.fromkeys(means, 60.0) | {"MIF": 40.0}


def test_formats_that_were_not_measured_last_give_no_mif() -> None:
    assert "MIF" not in run_summary(three(mif=[[100.0, None, None], [50.0, 100.0, None], [None] * 3]))


def test_the_headline_is_what_smolora_reports_with_and_without_captions() -> None:
    assert list(headline(run_summary(TWO))) == [
        *("AP", "MAP", "BWT"),
        *("AP without captions", "MAP without captions", "BWT without captions"),
        "MIF",
    ]


def test_the_run_summary_orders_columns_as_they_were_learned() -> None:
    swapped = three(stages=("C", "A", "B"), scores=[[0.0, 0.0, 80.0], [90.0, 0.0, 60.0], [60.0, 90.0, 30.0]])
    assert (run_summary(swapped)["AP"], run_summary(swapped)["BWT"]) == (60.0, -40.0)


def test_the_run_summary_leaves_captions_apart() -> None:
    summary = run_summary(TWO)
    assert (summary["AP"], summary["AP without captions"]) == (85.0, 50.0)


def test_isolated_scores_give_forward_transfer() -> None:
    assert run_summary(three(), isolated=[70.0, 90.0, 96.0])["ProgLoRA FWT"] == pytest.approx(
        4 / 3, abs=1e-12
    )


def test_joint_training_has_ap_and_mif_over_all_tasks_alone() -> None:
    joint = three(
        stages=("all tasks",), captions=("C",), scores=[[30.0, 60.0, 120.0]], mif=[[90.0, 100.0, 80.0]]
    )
    assert run_summary(joint) == {"AP": 70.0, "MIF": 90.0, "AP without captions": 45.0}


def test_a_matrix_without_scores_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no evaluated stage"):
        run_summary(three(scores=[[None] * 3] * 3))


def test_a_task_learned_twice_has_no_summary() -> None:
    with pytest.raises(ValueError, match=r"learned twice \(A, B, A\)"):
        run_summary(three(stages=("A", "B", "A")))
