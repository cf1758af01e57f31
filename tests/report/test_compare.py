"""`compare`: means and deviations over seeds, and differences to the first with their intervals."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from compare_kit import make_run

from lit_cvit.report.compare import Comparison, Row, compare
from lit_cvit.report.compare_tables import csv_page, difference_table, measured_table, page

# QA ends at 50 %, captions at 100.
HALF = {"QA": [1.0, 0.0, 1.0, 0.0], "Cap": [1.0, 1.0]}
# The same seed, QA at 75 %.
MORE = {"QA": [1.0, 0.0, 1.0, 1.0], "Cap": [1.0, 1.0]}


def two_seeds(root: Path) -> list[Path]:
    """SeqLoRA with AP 75 and 50, other (SMoLoRA) with AP 87.5 and 62.5: always 12.5 more."""
    low = {"QA": [0.0, 0.0, 0.0, 0.0], "Cap": [1.0, 1.0]}
    one_right = {"QA": [1.0, 0.0, 0.0, 0.0], "Cap": [1.0, 1.0]}
    return [
        make_run(root, "seq-0", HALF, seed=0),
        make_run(root, "seq-1", low, seed=1),
        make_run(root, "more-0", MORE, seed=0, method="SMoLoRA"),
        make_run(root, "more-1", one_right, seed=1, method="SMoLoRA"),
    ]


def names(comparison: Comparison) -> list[str]:
    return [row.group.name for row in comparison.rows]


def second(*paths: Path) -> Row:
    return compare(paths).rows[1]


# -- groups -------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_alone_are_one_row_named_after_their_folders(tmp_path: Path) -> None:
    comparison = compare(two_seeds(tmp_path))
    assert names(comparison) == ["seq (SeqLoRA)", "more (SMoLoRA)"]
    assert [row.group.seeds for row in comparison.rows] == [[0, 1], [0, 1]]


def test_folders_without_a_common_name_are_named_after_the_first(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, HALF, seed=seed) for seed, name in enumerate(("alice", "bob"))]
    assert names(compare(runs)) == ["alice and 1 more (SeqLoRA)"]


def test_another_setting_makes_another_row_whatever_the_folders_are_called(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", "run-0", HALF, seed=0, config="rank: 8\n"),
        make_run(tmp_path / "b", "run-1", HALF, seed=1, config="rank: 16\n"),
    ]
    assert len(compare(runs).rows) == 2


def test_settings_of_the_machine_make_no_row_of_their_own(tmp_path: Path) -> None:
    workers = ["data: {num_workers: 0}\n", "data: {num_workers: 4}\n"]
    runs = [make_run(tmp_path, f"seq-{seed}", HALF, seed=seed, config=workers[seed]) for seed in (0, 1)]
    assert len(compare(runs).rows) == 1


def test_other_training_data_under_one_configuration_make_another_row(tmp_path: Path) -> None:
    of_tests = {"QA": "a" * 64, "Cap": "a" * 64}
    runs = [
        make_run(tmp_path, f"seq-{seed}", HALF, seed=seed, data={**of_tests, "QA train": digest})
        for seed, digest in enumerate(("c" * 64, "d" * 64))
    ]
    assert len(compare(runs).rows) == 2


def test_runs_that_start_from_runs_of_one_group_are_one_row(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        source = make_run(tmp_path, f"base-{seed}", HALF, seed=seed, config_digest=f"of seed {seed}")
        start = {"path": str(source), "config_digest": f"of seed {seed}", "plans": [{}, {}]}
        text = f"start_from: {source}\n"
        runs.append(make_run(tmp_path, f"few-{seed}", HALF, seed=seed, start_from=start, config=text))
    assert len(compare(runs).rows) == 1
    # Without its source nothing tells what a run started from but a digest that has the seed in it.
    (tmp_path / "base-1" / "run.json").unlink()
    assert len(compare(runs).rows) == 2


def test_a_run_from_python_has_no_configuration_and_stands_alone(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"seq-{seed}", HALF, seed=seed) for seed in (0, 1)]
    for run in runs:
        (run / "config.yaml").write_text("")
    assert len(compare(runs).rows) == 2


def test_rows_of_one_name_are_named_by_their_folders(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / place, "run", HALF, config=f"rank: {place}\n") for place in ("8", "16")]
    assert names(compare(runs)) == [str(run) for run in runs]


@pytest.mark.parametrize("same_folder", [True, False])
def test_one_result_is_not_counted_twice(tmp_path: Path, same_folder: bool) -> None:
    first = make_run(tmp_path, "a", HALF)
    again = first if same_folder else make_run(tmp_path, "b", HALF)
    with pytest.raises(ValueError, match=re.escape(str(again))) as caught:
        compare([first, again])
    assert ("named twice" if same_folder else f"the seed (0) of {first}") in str(caught.value)


def test_a_name_that_says_the_method_does_not_say_it_twice(tmp_path: Path) -> None:
    assert names(compare([make_run(tmp_path, "my_seq_lora", HALF)])) == ["my_seq_lora"]


# -- values -------------------------------------------------------------------------------------------------


def test_means_and_deviations_are_over_seeds(tmp_path: Path) -> None:
    table = measured_table(compare(two_seeds(tmp_path)))
    assert table.header == (
        "",
        "seeds",
        *("AP", "MAP", "BWT", "MIF"),
        *("AP without captions", "MAP without captions", "BWT without captions"),
        *("QA", "Cap*"),
    )
    deviation = "\u00b1 17.7"
    assert table.rows[0] == (
        "seq (SeqLoRA)",
        2,
        # The mean of 75 and 50, of (100 + 75) / 2 and (100 + 50) / 2, of -50 and -100.
        f"62.5 {deviation}",
        "81.2 \u00b1 8.8",
        "-75.0 \u00b1 35.4",
        "100.0 \u00b1 0.0",
        "25.0 \u00b1 35.4",
        "62.5 \u00b1 17.7",
        "-75.0 \u00b1 35.4",
        "25.0 \u00b1 35.4",
        "100.0 \u00b1 0.0",
    )
    assert "standard deviation over seeds" in table.note


def test_a_difference_is_that_of_the_means_and_one_that_every_sample_shares_has_no_width(
    tmp_path: Path,
) -> None:
    ours = {"QA": [0.5, 0.25, 1.0, 0.75], "Cap": [0.5, 0.6]}
    theirs = {task: [score - 0.25 for score in scores] for task, scores in ours.items()}
    first = [make_run(tmp_path, f"a-{seed}", theirs, seed=seed) for seed in (0, 1)]
    other = [make_run(tmp_path, f"b-{seed}", ours, seed=seed, method="SMoLoRA") for seed in (0, 1)]
    row = second(*first, *other)
    assert row.over == "2 seeds and 6 test samples"
    assert list(row.differences) == ["AP", "AP without captions", "MIF"]
    for metric, expected in (("AP", 25.0), ("AP without captions", 25.0), ("MIF", 0.0)):
        found = row.differences[metric]
        assert (found.value, found.low, found.high) == pytest.approx((expected,) * 3)


def test_the_interval_of_mif_is_of_the_form_of_answers(tmp_path: Path) -> None:
    form = {"QA": [0.0, 0.0, 0.0, 0.0]}
    row = second(make_run(tmp_path, "a", HALF, in_form=form), make_run(tmp_path, "b", HALF, method="SMoLoRA"))
    assert (row.differences["MIF"].low, row.differences["MIF"].high) == pytest.approx((50.0, 50.0))
    assert row.differences["AP"].value == pytest.approx(0.0)


def test_one_seed_each_leaves_an_interval_over_samples(tmp_path: Path) -> None:
    row = second(make_run(tmp_path, "a", HALF), make_run(tmp_path, "b", MORE, method="SMoLoRA"))
    found = row.differences["AP"]
    # One of four answers differs; the draws hold it 0 to 3 times, each worth 12.5 points.
    assert (found.value, found.low, found.high) == pytest.approx((12.5, 0.0, 37.5))
    assert row.over == "6 test samples alone: one seed"


def test_other_seeds_are_drawn_apart(tmp_path: Path) -> None:
    runs = two_seeds(tmp_path)
    row = second(runs[0], runs[2], runs[3])
    assert row.over == "1 and 2 seeds, drawn apart, and 6 test samples"
    assert row.differences["AP"].value == pytest.approx(75.0 - 75.0)


def test_a_score_that_is_no_mean_of_samples_counts_as_a_whole(tmp_path: Path) -> None:
    row = second(
        make_run(tmp_path, "a", HALF, percent={"Cap": 30.0}),
        make_run(tmp_path, "b", HALF, percent={"Cap": 50.0}, method="SMoLoRA"),
    )
    assert row.over == "4 test samples (of 1 of 2 tasks) alone: one seed"
    found = row.differences["AP"]
    assert (found.value, found.low, found.high) == pytest.approx((10.0, 10.0, 10.0))


def test_without_predictions_the_interval_is_over_seeds_alone_or_there_is_none(tmp_path: Path) -> None:
    ours = [make_run(tmp_path, f"a-{seed}", HALF, seed=seed, predictions=False) for seed in (0, 1)]
    theirs = [
        make_run(tmp_path, f"b-{seed}", final, seed=seed, predictions=False, method="SMoLoRA")
        for seed, final in enumerate((HALF, MORE))
    ]
    row = second(*ours, *theirs)
    assert row.over == "2 seeds alone: no predictions"
    found = row.differences["AP"]
    assert (found.value, found.low, found.high) == pytest.approx((6.25, 0.0, 12.5))
    row = second(ours[0], theirs[1])
    assert row.over == "none: one seed, and no predictions"
    assert (row.differences["AP"].value, row.differences["AP"].low) == (pytest.approx(12.5), None)


def test_joint_training_and_the_untuned_backbone_have_no_map_and_bwt(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, "seq", HALF),
        make_run(tmp_path, "joint", MORE, method="Multitask", num_stages=1),
        make_run(tmp_path, "untuned", HALF, method="ZeroShot", num_stages=1),
    ]
    comparison = compare(runs)
    rows = measured_table(comparison).rows
    assert [row[2:6] for row in rows] == [
        ("75.0", "87.5", "-50.0", "100.0"),
        ("87.5", "", "", "100.0"),
        ("75.0", "", "", "100.0"),
    ]
    assert [row[-2:] for row in rows[1:]] == [("75.0", "100.0"), ("50.0", "100.0")]
    assert [row.differences["AP"].value for row in comparison.rows[1:]] == pytest.approx([12.5, 0.0])


def test_tasks_in_another_order_stand_in_the_columns_of_the_first(tmp_path: Path) -> None:
    first = make_run(tmp_path, "a", MORE)
    # Learned the other way round, so that its matrix has the columns Cap, QA.
    other = make_run(tmp_path, "b", MORE, method="SMoLoRA", stream=["Cap", "QA"], num_stages=1)
    rows = measured_table(compare([first, other])).rows
    assert [row[-2:] for row in rows] == [("75.0", "100.0")] * 2


# -- what is written ----------------------------------------------------------------------------------------


def test_the_page_has_both_tables_and_what_the_brackets_are(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", HALF), make_run(tmp_path, "b", MORE, method="SMoLoRA")]
    assert page(compare(runs)).splitlines() == [
        "# Comparison on toy",
        "",
        "|  | seeds | AP | MAP | BWT | MIF | AP without captions | MAP without captions "
        "| BWT without captions | QA | Cap\\* |",
        "| --- | ---: | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| a (SeqLoRA) | 1 | 75.0 | 87.5 | -50.0 | 100.0 | 50.0 | 75.0 | -50.0 | 50.0 | 100.0 |",
        "| b (SMoLoRA) | 1 | 87.5 | 93.8 | -25.0 | 100.0 | 75.0 | 87.5 | -25.0 | 75.0 | 100.0 |",
        "",
        "tasks: score after the last stage; \\* caption metric: not a percentage",
        "",
        "## Difference to a (SeqLoRA), in points",
        "",
        "|  | AP | AP without captions | MIF | interval over |",
        "| --- | --- | --- | --- | --- |",
        "| b (SMoLoRA) | +12.5 (+0.0 to +37.5) | +25.0 (+0.0 to +75.0) | +0.0 (+0.0 to +0.0) "
        "| 6 test samples alone: one seed |",
        "",
        "in brackets the 95 % interval of a bootstrap of 2000 resamples over what the last column names; it "
        "says nothing of what is not drawn, and over few seeds alone it is too narrow",
    ]


def test_the_csv_has_every_digit_and_a_column_for_every_bound(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_page(compare(two_seeds(tmp_path))))))
    assert [row["group"] for row in rows] == ["seq (SeqLoRA)", "more (SMoLoRA)"]
    assert [float(row["AP"]) for row in rows] == [62.5, 75.0]
    assert float(rows[0]["AP deviation"]) == pytest.approx(25 / 2**0.5)
    assert float(rows[0]["QA"]) == 25.0
    assert [rows[0][f"AP {part}"] for part in ("difference", "low", "high")] == ["", "", ""]
    assert float(rows[1]["AP difference"]) == 12.5
    assert float(rows[1]["AP low"]) <= 12.5 <= float(rows[1]["AP high"])
    assert rows[1]["interval over"] == "2 seeds and 6 test samples"


def test_one_group_has_no_differences(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path, "a", HALF)])
    assert difference_table(comparison) is None
    assert "Difference" not in page(comparison)


def test_the_page_says_miniature_and_that_backbones_differ(tmp_path: Path) -> None:
    backbones = [{"digest": digest, "quantization": "none"} for digest in ("c" * 64, "d" * 64)]
    runs = [
        make_run(tmp_path, f"run{number}", HALF, miniature=True, backbone=each)
        for number, each in enumerate(backbones)
    ]
    text = page(compare(runs))
    assert "Miniature benchmark" in text
    assert "the backbones are not the same" in text


def test_the_record_of_a_run_and_a_folder_of_runs_are_refused_with_what_to_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "a", HALF)
    with pytest.raises(ValueError, match="name the folder"):
        compare([run / "run.json"])
    with pytest.raises(ValueError, match="it holds the runs a"):
        compare([tmp_path / "runs"])
