"""Runs that were tested or scored in another way are refused, with folder, both values and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compare_kit import DIGEST, OTHER, TASKS, make_run

from lit_cvit.report.compare import compare

FINAL = {"QA": [1.0, 0.0], "Cap": [1.0, 1.0]}


def refusal(root: Path, first: dict[str, Any] | None = None, **changes: Any) -> str:
    """The message about a run that is not as the first, which has to name both folders."""
    one = make_run(root, "one", FINAL, **(first or {}))
    other = make_run(root, "other", **{"final": FINAL, "method": "SMoLoRA", **changes})
    with pytest.raises(ValueError, match="cannot be compared") as caught:
        compare([one, other])
    message = str(caught.value)
    assert message.startswith(f"{other} cannot be compared with {one}: ")
    assert f"Leave it out, or run it again with the data and the scoring of {one}" in message
    return message


def test_another_benchmark_is_refused(tmp_path: Path) -> None:
    assert "its benchmark is cvit-mini, not toy" in refusal(tmp_path, benchmark="cvit-mini")


def test_another_set_of_tasks_is_refused(tmp_path: Path) -> None:
    final = {"QA": [1.0], "Other": [1.0]}
    assert "its tasks are QA, Other, not QA, Cap" in refusal(tmp_path, final=final, stream=["QA", "Other"])


def test_other_test_data_are_refused_by_task_and_digest(tmp_path: Path) -> None:
    message = refusal(tmp_path, data={"QA": OTHER, "Cap": DIGEST})
    assert "its data of QA is bbbbbbbb, not aaaaaaaa (digests of records" in message
    assert "Cap" not in message


def test_other_images_under_the_same_names_are_refused(tmp_path: Path) -> None:
    images = [{"QA": {"root": "photos", "digest": digest}} for digest in (DIGEST, OTHER)]
    message = refusal(tmp_path, {"images": images[0]}, images=images[1])
    assert "its folder of images of QA is photos (digest bbbbbbbb), not photos (digest aaaaaaaa)" in message


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [("scorer", "short_answer", "exact"), ("max_new_tokens", 64, 8)],
)
def test_another_scorer_or_budget_of_new_tokens_is_refused(
    tmp_path: Path, key: str, value: object, before: object
) -> None:
    how = {"scorer": "exact", "max_new_tokens": 8}
    scoring = {"QA": {**how, key: value}, "Cap": how}
    assert f"its {key} of QA is {value}, not {before}" in refusal(tmp_path, scoring=scoring)


def test_another_version_of_what_ships_is_refused(tmp_path: Path) -> None:
    assert "its version of toy is 2, not 1" in refusal(tmp_path, content_versions={"toy": 2})


def test_other_test_samples_are_refused_by_id(tmp_path: Path) -> None:
    message = refusal(tmp_path, ids={"QA": ["QA-0", "QA-7"]})
    assert "its test sample 2 of QA is 'QA-7', not 'QA-1'" in message


def test_another_number_of_test_samples_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, final={"QA": [1.0, 0.0, 0.0], "Cap": [1.0, 1.0]})
    assert "it answered 3 test samples of QA, not 2" in message


def test_other_references_of_a_sample_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, references="no")
    assert "its test sample 'QA-0' of QA has references ['no'], not ['yes']" in message


def test_samples_are_held_against_a_run_that_stores_them(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, "one", FINAL, predictions=False),
        make_run(tmp_path, "two", FINAL, method="SMoLoRA"),
        make_run(tmp_path, "three", FINAL, method="HiDe", references="no"),
    ]
    with pytest.raises(ValueError, match="cannot be compared") as caught:
        compare(runs)
    assert str(caught.value).startswith(f"{runs[2]} cannot be compared with {runs[1]}")


def test_conditions_that_the_first_record_does_not_hold_are_held_against_the_next(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, "old", FINAL, data={}),
        make_run(tmp_path, "two", FINAL, method="SMoLoRA"),
        make_run(tmp_path, "three", FINAL, method="HiDe", data={"QA": OTHER, "Cap": DIGEST}),
    ]
    assert len(compare(runs[:2]).rows) == 2
    with pytest.raises(ValueError, match="cannot be compared") as caught:
        compare(runs)
    assert str(caught.value).startswith(f"{runs[2]} cannot be compared with {runs[1]}")


def test_other_training_data_downstream_tasks_and_settings_are_no_reason(tmp_path: Path) -> None:
    data = dict.fromkeys(TASKS, DIGEST)
    runs = [
        make_run(tmp_path, "one", FINAL, data={**data, "QA train": DIGEST, "Places": DIGEST}),
        make_run(
            tmp_path,
            "other",
            FINAL,
            method="SMoLoRA",
            data={**data, "QA train": OTHER, "Places": OTHER},
            settings={"model.rank": 8},
            backbone={"digest": OTHER},
        ),
    ]
    assert len(compare(runs).rows) == 2


@pytest.mark.parametrize("trained", [0, 1])
def test_a_stopped_run_is_refused_with_how_to_go_on(tmp_path: Path, trained: int) -> None:
    runs = [make_run(tmp_path, "one", FINAL), make_run(tmp_path, "half", FINAL, seed=1, trained=trained)]
    with pytest.raises(ValueError, match="no final scores") as caught:
        compare(runs)
    for words in (str(runs[1]), f"{trained} of 2 stages", "--ckpt_path last"):
        assert words in str(caught.value)


def test_a_stage_that_is_trained_and_not_scored_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", FINAL)
    (run / "stages" / "02-Cap" / "scores.json").unlink()
    with pytest.raises(ValueError, match="1 of 2 stages"):
        compare([run])


def test_a_task_that_was_not_tested_at_the_end_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", {"QA": FINAL["QA"]})
    with pytest.raises(ValueError, match="no score of Cap after its last stage"):
        compare([run])


def test_predictions_that_are_fewer_than_were_scored_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", FINAL)
    path = run / "stages" / "02-Cap" / "predictions" / "QA.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(ValueError, match="1 predictions, but 2 were scored") as caught:
        compare([run])
    assert str(path) in str(caught.value)


def test_a_path_that_is_no_run_is_refused_with_those_near_it(tmp_path: Path) -> None:
    make_run(tmp_path, "one", FINAL)
    with pytest.raises(ValueError, match="did you mean"):
        compare([tmp_path / "onee"])
