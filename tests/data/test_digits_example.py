from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_cvit.data.benchmarks.custom import custom
from lit_cvit.data.tasks import AnswerFormat, Benchmark
from lit_cvit.data.validation.check import check_benchmark

BUILD = Path(__file__).parents[2] / "examples" / "digits" / "build.py"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BUILD), "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "built"
    assert build(out, "--train", "60", "--test", "20").returncode == 0
    return out


@pytest.fixture(scope="module")
def benchmark_of(folder: Path) -> Benchmark:
    return custom(folder / "digits.yaml")


def rows(folder: Path, task: str, split: str) -> list[dict[str, str]]:
    return json.loads((folder / f"{task}-{split}.json").read_text())


def scans(folder: Path, split: str) -> set[str]:
    found = [rows(folder, task, split) for task in ("naming", "parity", "larger")]
    return {scan for each in found for row in each for scan in row["image"].removesuffix(".png").split("-")}


def test_the_built_folder_checks_clean(benchmark_of: Benchmark) -> None:
    reports = check_benchmark(benchmark_of, decode_images=True)
    assert [line for report in reports for line in report.lines()] == [
        f"{task}: 60 train, 20 test, 80 with image: no problems" for task in ("naming", "parity", "larger")
    ]


def test_train_and_test_come_from_different_scans(folder: Path) -> None:
    train, test = scans(folder, "train"), scans(folder, "test")
    assert len(train) > 100
    assert len(test) > 40
    assert not train & test


def test_answers_agree_across_tasks_with_the_labels(folder: Path) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits().target
    for row in rows(folder, "naming", "test"):
        assert row["answer"] == WORDS[digits[int(row["image"][:4])]]
    for row in rows(folder, "parity", "test"):
        assert row["answer"] == ("A" if digits[int(row["image"][:4])] % 2 == 0 else "B")
    for row in rows(folder, "larger", "test"):
        left, right = (digits[int(scan)] for scan in (row["image"][:4], row["image"][5:9]))
        assert left != right
        assert row["answer"] == str(max(left, right))


def test_samples_have_question_instruction_and_a_visible_image(benchmark_of: Benchmark) -> None:
    naming, parity, larger = benchmark_of.stream
    assert [task.answer_format for task in benchmark_of.stream] == [
        AnswerFormat.SHORT,
        AnswerFormat.LETTER,
        AnswerFormat.SHORT,
    ]
    assert naming.test.sample(0).question == ""
    assert parity.test.sample(0).question == "Is the digit even or odd?\nA. even\nB. odd"
    assert larger.test.sample(0).question == "Which of the two digits is larger?"
    for task, size in ((naming, (96, 96)), (larger, (192, 96))):
        sample = task.test.sample(0)
        assert sample.instruction == task.instructions[0]
        assert sample.image is not None
        assert sample.image.open().size == size


def test_building_twice_gives_the_same_folder(folder: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "again", "--train", "60", "--test", "20").returncode == 0
    digests = [
        {
            p.relative_to(top): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in top.rglob("*")
            if p.is_file()
        }
        for top in (folder, tmp_path / "again")
    ]
    assert digests[0] == digests[1]


def test_a_folder_with_content_and_too_many_samples_are_refused(folder: Path, tmp_path: Path) -> None:
    taken = build(folder)
    assert taken.returncode == 2
    assert f"error: --out {folder} exists and is not an empty folder; name a new one" in taken.stderr
    many = build(tmp_path / "many", "--test", "361")
    assert many.returncode == 2
    assert "error: --test must be 1 to 360, got 361" in many.stderr
    assert not (tmp_path / "many").exists()
