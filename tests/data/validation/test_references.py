"""References of a test split that a scorer cannot use, or on which it says nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from check_kit import Listed, of_files, row, sample, task
from PIL import Image

from lit_cvit.data.tasks import AnswerFormat, Task
from lit_cvit.data.validation.check import BenchmarkError, check_task, require_clean
from lit_cvit.metrics.scoring import scorer
from lit_cvit.stream.preflight import check_data


def test_a_test_answer_that_the_scorers_cannot_compare_with_is_listed() -> None:
    train = Listed(sample("1", answers=("blue",)))
    test = Listed(sample("2", text="x", answers=("B",)), sample("3", text="y", answers=("blue",)))
    checked = dataclasses.replace(task(train, test), scorer=scorer("letter"), also=(scorer("vqa_soft"),))
    report = check_task(checked)
    needs = "scorer 'vqa_soft': soft accuracy needs 10 human answers, got 1"
    no_letter = "scorer 'letter': the reference answer 'blue' is not an option letter"
    assert [str(problem).partition(";")[0] for problem in report.problems] == [
        f"T test: unscorable answer: sample 0 (id '2'): {needs}",
        f"T test: unscorable answer: sample 1 (id '3'): {no_letter}",
        f"T test: unscorable answer: sample 1 (id '3'): {needs}",
    ]
    with pytest.raises(BenchmarkError, match="3 problems in 1 task"):
        require_clean([report])


def test_references_that_make_every_or_no_prediction_right_are_listed(tmp_path: Path) -> None:
    rows = [row("1", answer=["red", ""]), row("2", answer=["red", "?"]), row("3", answer=["red"])]
    report = check_task(of_files(tmp_path, [row("4")], rows))
    assert [problem.message.removeprefix(f"{tmp_path}/") for problem in report.problems] == [
        "test.jsonl, line 1 (id '1'): scorer 'exact': the reference answer '' has nothing to compare with; "
        "remove it from the record"
    ]
    boxes = ["[0.1, 0.1, 0.5, 0.5]", "[0.5, 0.1, 0.1, 0.5]", "[0.1, 0.2, 0.5, 0.2]"]
    samples = Listed(*(sample(str(n), text=str(n), answers=(box,)) for n, box in enumerate(boxes)))
    report = check_task(Task("T", AnswerFormat.BOX, scorer("grounding_iou"), test=samples))
    assert [problem.message.partition(";")[0] for problem in report.problems] == [
        f"sample {n} (id '{n}'): scorer 'grounding_iou': the reference box {boxes[n]!r} has no area, so that "
        "no prediction can be right"
        for n in (1, 2)
    ]


@pytest.mark.parametrize(
    ("name", "captions", "why"),
    [
        ("cider", [("A red box.", "The box is red.")], "it has one sample"),
        ("official_textcaps", [("A red box.",)], "it has one sample"),
        ("cider", [("A red box.",), ("a RED box",), ("A red, box!",)], "all its samples have the same words"),
        ("cider", [("A red box.",), ("Box a red.",)], ""),
        ("cider", [("A red box.",), ("A blue box.",)], ""),
        ("rouge_l", [("A red box.",)], ""),
        ("exact", [("red",), ("red",)], ""),
    ],
)
def test_a_split_on_which_a_scorer_gives_0_whatever_is_answered_is_warned_of(
    name: str, captions: list[tuple[str, ...]], why: str
) -> None:
    samples = Listed(*(sample(str(n), text=str(n), answers=each) for n, each in enumerate(captions)))
    report = check_task(Task("T", AnswerFormat.CAPTION, scorer(name), test=samples))
    assert report.ok
    warning = f"scorer {name!r} gives 0 on the test split whatever is answered, as {why}; add samples "
    assert [each[: len(warning)] for each in report.warnings] == ([warning] if why else [])
    assert [line.strip()[:9] for line in report.lines()[1:]] == (["warning: "] if why else [])


def test_a_fit_logs_what_its_check_warns_of(caplog: pytest.LogCaptureFixture) -> None:
    one = check_task(Task("T", AnswerFormat.CAPTION, scorer("cider"), test=Listed(sample("1"))))
    method = SimpleNamespace(backbone=SimpleNamespace(encoder=None))
    data = SimpleNamespace(check=lambda encoder: [one], isolated=False)
    for reports in (False, True):
        check_data(method, data, reports=reports)  # type: ignore[arg-type]
    (message,) = caplog.messages
    assert message.startswith("T: scorer 'cider' gives 0 on the test split whatever is answered")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            ["[0.1, 0.2, 0.3, 1.0]"],
            ["[12, 20, 300, 410]"],
            "1 of 1 test boxes have edges beyond 1, but 0 of 1 tr",
        ),
        (["[12, 20, 300, 410]"], ["[0.1, 0.2, 0.3, 0.4]"], "1 of 1 test boxes have edges from 0 to 1, but 0"),
        (["[0.1, 0.2, 0.3, 0.4]", "[1, 2, 3, 4]"], ["[12, 20, 300, 410]"], ""),
        # One box that rounding, or the whole image, put among the others.
        (["[0, 0.2, 0.3, 1.004]"], ["[12, 20, 300, 410]"], "1 of 1 test boxes have edges beyond 1, but 0"),
        (
            ["[0, 0, 1, 1]", *["[9, 9, 99, 99]"] * 2],
            ["[0.1, 0.2, 0.3, 0.4]"],
            "1 of 1 test boxes have edges fr",
        ),
        (["nowhere"], ["[12, 20, 300, 410]"], ""),
    ],
)
def test_test_boxes_in_other_units_than_all_that_are_learned_are_a_problem(
    train: list[str], test: list[str], message: str
) -> None:
    splits = [
        Listed(*(sample(str(n), text=f"{name} {n}", answers=(box,)) for n, box in enumerate(boxes)))
        for name, boxes in (("train", train), ("test", test))
    ]
    boxes = Task("T", AnswerFormat.BOX, scorer("grounding_iou"), train=splits[0], test=splits[1])
    found = check_task(boxes).problems
    assert [(each.split, each.message[: len(message)]) for each in found] == (
        [("test", message)] if message else []
    )


def test_training_boxes_as_corner_width_and_height_are_a_problem() -> None:
    def report(*boxes: str) -> list[tuple[str, str]]:
        train = Listed(*(sample(str(n), text=f"train {n}", answers=(box,)) for n, box in enumerate(boxes)))
        test = Listed(sample("9", text="test", answers=("[10, 20, 30, 40]",)))
        task = Task("T", AnswerFormat.BOX, scorer("grounding_iou"), train=train, test=test)
        return [(each.split, each.message[:41]) for each in check_task(task).problems]

    right, turned = "[200, 100, 230, 140]", "[200, 100, 30, 40]"
    assert report(right, right, right, turned) == []
    assert report(right, right, turned) == [("train", "1 of 3 training boxes have no area; a box")]


@dataclass(frozen=True)
class Sized:
    """An image of a size."""

    width: int
    height: int

    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def open(self) -> Image.Image:
        raise NotImplementedError


def test_boxes_from_0_to_1000_beside_pixels_are_a_problem_where_images_are_small() -> None:
    thousandths = ["[100, 100, 900, 999]", "[10, 10, 90, 90]", "[5, 700, 400, 800]"]
    pixels = ["[1, 2, 300, 200]", "[4, 4, 50, 60]", "[4, 4, 640, 480]", "[1, 1, 9, 9]"]

    def report(train: list[str], test: list[str], size: tuple[int, int]) -> list[str]:
        splits = [
            Listed(
                *(
                    replace(sample(f"{name}{n}", text=f"{name} {n}", answers=(box,)), image=Sized(*size))
                    for n, box in enumerate(boxes)
                )
            )
            for name, boxes in (("train", train), ("test", test))
        ]
        task = Task("T", AnswerFormat.BOX, scorer("grounding_iou"), train=splits[0], test=splits[1])
        return [each.message[:46] for each in check_task(task).problems]

    small, large = (640, 480), (1200, 1000)
    assert report(pixels, pixels, small) == report(thousandths, thousandths, small) == []
    assert report(pixels, thousandths, small) == ["2 of 3 test boxes lie outside their images, an"]
    assert report(thousandths, pixels, small) == ["2 of 3 train boxes lie outside their images, a"]
    assert report(thousandths, pixels, large) == []
    assert report(thousandths, pixels[:3], small) == []
