from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from check_kit import Drawn, Listed, of_files, row, sample, task
from PIL import Image

from lit_cvit.data.images import FileImage
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import Benchmark, Sample, SampleError
from lit_cvit.data.validation import images as image_check
from lit_cvit.data.validation.check import (
    BenchmarkError,
    Problem,
    ProblemKind,
    TaskReport,
    check_benchmark,
    check_task,
    require_clean,
)
from lit_cvit.data.validation.images import ImageLookup


def messages(folder: Path, train: list[dict[str, object]], test: list[dict[str, object]]) -> list[str]:
    report = check_task(of_files(folder, train, test))
    return [str(problem).replace(str(folder), "DIR") for problem in report.problems]


def test_a_clean_task_is_counted() -> None:
    report = check_task(task(Listed(sample("1", Drawn(1)), sample("2")), Listed(sample("1", Drawn(2)))))
    assert report.ok
    assert report.lines() == ["T: 2 train, 1 test, 2 with image: no problems"]


def test_a_task_without_training_data_is_counted() -> None:
    report = check_task(task(None, Listed(sample("1"))))
    assert (report.ok, report.num_train, report.num_test) == (True, 0, 1)


def test_a_bad_record_is_listed_with_its_place_and_the_rest_is_still_checked(tmp_path: Path) -> None:
    assert messages(tmp_path, [row("1", answer=3)], [row("4"), row("4", text="x")]) == [
        "T train: bad record: DIR/train.jsonl, line 1 (id '1'): field 'answer': got 3; it must be a string "
        "or a list of strings; put numbers in quotes",
        "T test: duplicate id: DIR/test.jsonl, line 2 (id '4'): the id is already that of DIR/test.jsonl, "
        "line 1; make ids unique",
    ]


def test_images_that_are_missing_or_outside_the_root_are_listed(tmp_path: Path) -> None:
    rows = [row("1", image="no.png"), row("2", image="../b.png")]
    assert messages(tmp_path, rows, [row("3")]) == [
        "T train: bad image: DIR/train.jsonl, line 1 (id '1'): image 'no.png' under DIR/img: no such file; "
        "check the path and the image root",
        "T train: bad image: DIR/train.jsonl, line 2 (id '2'): image '../b.png' under DIR/img: the path must "
        "be relative and without '..'; it must stay under the image root",
    ]


def test_a_damaged_image_is_found_on_request(tmp_path: Path) -> None:
    checked = of_files(tmp_path, [row("1", image="a.png"), row("2", image="a.png")], [row("3")])
    (tmp_path / "img" / "a.png").write_bytes(b"x")
    assert check_task(checked).ok
    report = check_task(checked, decode_images=True)
    assert report.counts == {ProblemKind.IMAGE: 2}
    assert "line 1 (id '1'): image 'a.png'" in report.problems[0].message
    assert "not a readable image" in report.problems[0].message


def test_a_drawn_image_is_opened_on_request_and_named_by_its_sample() -> None:
    checked = task(Listed(sample("1", Drawn(-1))), Listed(sample("2")))
    assert check_task(checked).ok
    (problem,) = check_task(checked, decode_images=True).problems
    assert problem == Problem(ProblemKind.IMAGE, "T", "train", "sample 0 (id '1'): cannot draw -1")


def test_a_blank_answer_is_listed() -> None:
    train = Listed(sample("1", answers=("", "a")), sample("2", answers=()))
    test = Listed(sample("3", text="x", answers=("a", "a")), sample("4", text="y", answers=(" ",)))
    assert list(map(str, check_task(task(train, test)).problems)) == [
        "T train: empty answer: sample 0 (id '1'): got ('', 'a'); the first answer is what is learned, it "
        "must not be blank",
        "T train: empty answer: sample 1 (id '2'): got (); the first answer is what is learned, it "
        "must not be blank",
        "T test: empty answer: sample 1 (id '4'): got (' ',); at least one answer must not be blank",
    ]


class Picky:
    """An encoder that takes no question `long` and no answer `</s>`, and reads the images of others."""

    def check(self, sample: Sample, *, with_answers: bool) -> None:
        if sample.question.startswith("long"):
            raise SampleError.of(sample, "too long", "has 9 tokens; shorten it")
        if with_answers and sample.answers[0] == "</s>":
            raise SampleError.of(sample, "special token in an answer", "has '</s>' in an answer; remove it")
        if sample.image is not None:
            sample.image.open()


def test_what_the_backbone_cannot_take_is_listed_with_its_place_before_training(tmp_path: Path) -> None:
    train = [row("1", text="long"), row("2", answer="</s>"), row("3", answer=3), *map(row, "456")]
    test = [row("7", text="long 7"), row("8", answer="</s>")]
    checked = of_files(tmp_path, train, test)
    assert check_task(checked).counts == {ProblemKind.RECORD: 1}
    report = check_task(checked, encoder=Picky())  # type: ignore[arg-type]
    found = [str(each).replace(str(tmp_path), "DIR") for each in report.problems]
    assert [each for each in found if "unfit" in each] == [
        "T train: unfit record: DIR/train.jsonl, line 1 (id '1'): it has 9 tokens; shorten it",
        "T train: unfit record: DIR/train.jsonl, line 2 (id '2'): it has '</s>' in an answer; remove it",
        "T test: unfit record: DIR/test.jsonl, line 1 (id '7'): it has 9 tokens; shorten it",
    ]
    assert report.alike["train: unfit record: too long"] == 1
    with pytest.raises(BenchmarkError, match="4 problems in 1 task"):
        require_clean([report])


def test_an_unfit_record_is_reported_once(tmp_path: Path) -> None:
    """What is blank, or has no image, is not held against the backbone too."""
    train = Listed(
        sample("1", answers=("",), text="long"), sample("2", FileImage(tmp_path, "no.png"), "long")
    )
    damaged = sample("3", Drawn(-1))
    report = check_task(task(train, Listed(damaged)), encoder=Picky())  # type: ignore[arg-type]
    assert report.counts == {ProblemKind.ANSWER: 1, ProblemKind.IMAGE: 2}


def test_ids_may_repeat_everywhere_but_in_a_test_split() -> None:
    train = Listed(sample("1", text="x"), sample("1", text="z"))
    report = check_task(task(train, Listed(sample("1"), sample("1", text="y"))))
    assert list(map(str, report.problems)) == [
        "T test: duplicate id: sample 1 (id '1'): the id is already that of sample 0; make ids unique"
    ]


def test_a_test_sample_with_image_and_text_of_a_training_sample_is_listed() -> None:
    train = Listed(sample("1", Drawn(1)), sample("2", Drawn(2)), sample("3"))
    test = Listed(
        sample("4", Drawn(3)), sample("5", Drawn(2)), sample("6", Drawn(1), text="other"), sample("7")
    )
    assert list(map(str, check_task(task(train, test)).problems)) == [
        "T test: train/test overlap: sample 1 (id '5'): same image and text as sample 1 of the training "
        "split; remove one of them",
        "T test: train/test overlap: sample 3 (id '7'): same image and text as sample 2 of the training "
        "split; remove one of them",
    ]


def test_two_spellings_of_a_path_are_one_image(tmp_path: Path) -> None:
    text = {"text": "same"}
    found = messages(tmp_path, [row("1", image="./a.png", **text)], [row("2", image="a.png", **text)])
    assert [message.split(": ")[1] for message in found] == ["bad image", "bad image", "train/test overlap"]


def test_an_empty_split_is_a_problem() -> None:
    assert list(map(str, check_task(task(Listed(), Listed(sample("1")))).problems)) == [
        "T train: empty split: it has no samples; at least one is needed"
    ]


def test_problems_that_are_alike_are_listed_thrice_and_all_are_counted_and_reported() -> None:
    reported: list[Problem] = []
    bad = Listed(*(sample(str(number), answers=()) for number in range(25)))
    report = check_task(task(bad, Listed(sample("x", text="x"))), on_problem=reported.append)
    assert (len(report.problems), report.num_problems, len(reported)) == (3, 25, 25)
    lines = report.lines()
    assert lines[0] == "T: 25 train, 1 test, 0 with image: 25 empty answers"
    assert (len(lines), lines[-1]) == (5, "  ... and 22 more: T train: empty answer")


def test_problems_are_alike_by_split_kind_and_field_or_cause(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "empty.png").touch()
    rows = [row(str(number), image=f"{number}.png") for number in range(5)]
    rows += [row("e", image="empty.png"), row("f", text=5), row("g", text=" "), {"text": "x", "answer": "y"}]
    rows += [row(f"h{number}", answer=["x", number]) for number in range(5)]
    report = check_task(of_files(tmp_path, rows, [row("x", answer=number) for number in range(2)]))
    assert dict(report.alike) == {
        "train: bad image: no such file": 5,
        "train: bad image: the file is empty": 1,
        "train: bad record: field 'text'": 2,
        "train: bad record: field 'id'": 1,
        "train: bad record: field 'answer[]'": 5,
        "test: bad record: field 'answer'": 2,
    }
    lines = report.lines()
    assert lines[0] == "T: 14 train, 2 test, 6 with image: 6 bad images, 10 bad records"
    assert len(lines) == 1 + 12 + 2
    assert lines[-2:] == [
        "  ... and 2 more: T train: bad image: no such file",
        "  ... and 2 more: T train: bad record: field 'answer[]'",
    ]


def test_every_problem_is_listed_on_request(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    checked = of_files(tmp_path, [row(str(n), image=f"{n}.png") for n in range(40)], [row("x")])
    report = check_task(checked)
    with pytest.raises(BenchmarkError) as caught:
        require_clean([report])
    assert (len(report.problems), report.lines()[-1][:17]) == (3, "  ... and 37 more")
    assert str(caught.value).splitlines()[-1] == "`check --all` with the same options names each"
    report = check_task(checked, list_all=True)
    with pytest.raises(BenchmarkError) as caught:
        require_clean([report])
    assert [each.message.partition(" (id")[0] for each in report.problems] == [
        f"{tmp_path / 'train.jsonl'}, line {n + 1}" for n in range(40)
    ]
    assert str(caught.value).splitlines() == ["40 problems in 1 task", *report.lines()]
    assert len(report.lines()) == 41


def test_at_most_20_problems_are_listed_however_they_differ() -> None:
    report = TaskReport("T", 60, 1)
    for number in range(60):
        report.add(Problem(ProblemKind.RECORD, "T", "train", f"{number}", cause=f"field {number}"))
    assert len(report.lines()) == 1 + 20 + 21
    assert report.lines()[-1] == "  ... and 20 more of 20 other kinds"


def test_what_is_wrong_with_a_line_is_its_cause_whatever_stands_in_it(tmp_path: Path) -> None:
    turn = {"from": "human", "value": "Q"}
    checked = of_files(tmp_path, [row("1", conversations=[turn, turn]), row("2")], [row("3"), row("4")])
    with (tmp_path / "test.jsonl").open("ab") as file:
        file.write(b'\n{"a": }\n{"a": ;}\n[1]\n{"a": "\xe9"}\n{"a": 1, "id": ": 5; x"}')
    test = RecordSource(tmp_path / "test.jsonl", task="T")
    assert dict(check_task(dataclasses.replace(checked, test=test)).alike) == {
        "train: bad record: field 'conversations[].from'": 1,
        "test: bad record: broken JSON": 2,
        "test: bad record: not an object": 1,
        "test: bad record: not UTF-8": 1,
        "test: bad record: unknown form": 1,
    }


def test_an_error_of_a_source_of_ones_own_is_listed_as_it_is() -> None:
    class Own(Listed):
        def sample(self, index: int, epoch: int = 0) -> Sample:
            raise ValueError(f"row {index}: field 'x': no such row")

    report = check_task(task(None, Own(sample("1"))))
    assert [(each.message, each.cause) for each in report.problems] == [("row 0: field 'x': no such row", "")]


def test_a_sample_that_asks_nothing_is_a_bad_record() -> None:
    found = check_task(task(None, Listed(sample("1", Drawn(1), text=""))))
    assert list(map(str, found.problems)) == [
        "T test: bad record: sample 0 (id '1'): got neither question nor instruction; give the task an "
        "instruction"
    ]


def test_images_are_decoded_in_several_processes_with_the_same_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_check, "_CHUNK", 2)
    rows = [row(str(number), image=f"{number % 7}.png") for number in range(9)]
    checked = of_files(tmp_path, rows, [row("x", image="2.png")])
    for number in range(7):
        Image.new("RGB", (2, 2)).save(tmp_path / "img" / f"{number}.png")
    (tmp_path / "img" / "1.png").write_bytes(b"x")
    (tmp_path / "img" / "2.png").write_bytes(b"y")
    steps: list[tuple[str, int, int]] = []
    found = [
        check_task(checked, decode_images=True, workers=workers, on_progress=lambda *at: steps.append(at))
        for workers in (1, 2)
    ]
    assert found[0] == found[1]
    places = [problem.message.split(": ")[0].removeprefix(str(tmp_path)) for problem in found[0].problems]
    assert places == [
        "/train.jsonl, line 2 (id '1')",
        "/train.jsonl, line 9 (id '8')",
        "/train.jsonl, line 3 (id '2')",
        "/test.jsonl, line 1 (id 'x')",
    ]
    assert steps[len(steps) // 2 :] == [
        ("T train records", 0, 9),
        ("T train records", 9, 9),
        ("T test records", 0, 1),
        ("T test records", 1, 1),
        *(("T images", done, 7) for done in (2, 4, 6, 7)),
    ]


def test_a_lookup_judges_a_path_as_locate_does(tmp_path: Path) -> None:
    root = tmp_path / "img"
    (root / "in" / "a: b").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for path in ("img/a.png", "img/in/b.png", "img/in/a: b/c.png", "out/d.png"):
        (tmp_path / path).write_bytes(b"x")
    (root / "empty.png").touch()
    (root / "link.png").symlink_to("a.png")
    (root / "away.png").symlink_to(tmp_path / "out" / "d.png")
    (root / "far").symlink_to(tmp_path / "out")
    (root / "near").symlink_to("in")
    good = ["a.png", "./a.png", "in//b.png", "in/a: b/c.png", "near/b.png", "link.png"]
    bad = ["empty.png", "no.png", "away.png", "far/d.png", "in", "../img/a.png", str(root / "a.png")]
    paths = [*good, *bad, "C:a.png", "a.png/x", "\0.png"]
    lookup = ImageLookup()

    def judged(look: Callable[[FileImage], object], path: str) -> str:
        try:
            look(FileImage(root, path))
        except ValueError as error:
            return str(error)
        return ""

    found = {path: judged(lookup.find, path) for path in paths * 2}
    assert found == {path: judged(FileImage.locate, path) for path in paths}
    assert [path for path in paths if not found[path]] == good


def test_a_benchmark_is_checked_stream_first() -> None:
    tasks = [task(Listed(sample("1", text=name)), Listed(sample("1")), name) for name in "ABC"]
    reports = check_benchmark(Benchmark("b", stream=(tasks[1], tasks[0]), downstream=(tasks[2],)))
    assert [(report.task, report.ok) for report in reports] == [("B", True), ("A", True), ("C", True)]
    require_clean(reports)


def test_problems_become_one_readable_error() -> None:
    good = check_task(task(None, Listed(sample("1")), "Good"))
    bad = check_task(task(None, Listed(sample("1"), sample("1", answers=("",))), "Bad"))
    with pytest.raises(BenchmarkError) as caught:
        require_clean([good, bad])
    assert str(caught.value).splitlines() == [
        "2 problems in 1 task",
        "Bad: 0 train, 2 test, 0 with image: 1 empty answer, 1 duplicate id",
        "  Bad test: empty answer: sample 1 (id '1'): got ('',); at least one answer must not be blank",
        "  Bad test: duplicate id: sample 1 (id '1'): the id is already that of sample 0; make ids unique",
    ]
    with pytest.raises(BenchmarkError):
        require_clean([bad], allow=[ProblemKind.ANSWER])
    require_clean([bad], allow=[ProblemKind.ANSWER, ProblemKind.DUPLICATE_ID])
