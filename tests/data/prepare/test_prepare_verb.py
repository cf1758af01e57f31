"""`python -m lit_cvit prepare`, over all tasks of CVIT at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from raw_kit import CVIT, touch, write

from lit_cvit.__main__ import main
from lit_cvit.data.benchmarks import load_benchmark
from lit_cvit.data.prepare import converters_of
from lit_cvit.data.prepare.base import Request
from lit_cvit.data.prepare.running import Outcome, _result, prepare


@pytest.fixture(scope="module")
def full_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Downloads of all tasks; do not change them."""
    raw = tmp_path_factory.mktemp("downloads")
    for make in CVIT.values():
        make(raw)
    return raw


def verb(raw: Path, out: Path, *options: str) -> int:
    return main(["prepare", "--benchmark", "cvit", "--raw", str(raw), "--out", str(out), *options])


def test_help_and_the_list_of_what_is_missing_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lit_cvit.__main__ import main\n"
        f"status = main(['prepare', '--benchmark', 'cvit', '--raw', {str(tmp_path)!r}, '--out', 'x'])\n"
        "print(status, sorted({'torch', 'numpy', 'lightning', 'transformers'} & set(sys.modules)))\n"
        "main(['prepare', '--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "1 []"
    assert "one of" in done.stdout
    assert "--without_images" in done.stdout


def test_all_missing_raw_files_are_named_at_once_with_where_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(tmp_path, tmp_path / "out") == 1
    message = capsys.readouterr().err
    needed = [
        raw
        for converter in converters_of("cvit")
        for split in converter.splits["cvit"].values()
        for raw in split.raw
        if not raw.optional
    ]
    assert len(set(needed)) == 31
    for raw in needed:
        assert message.count(f"  {raw.path}: missing\n    {raw.what}; from {raw.source} (for ") == 1
    assert "(for TextCaps, TextVQA)" in message
    assert not (tmp_path / "out").exists()


def test_an_empty_file_and_a_folder_in_the_place_of_a_file_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CVIT["GQA"](tmp_path)
    write(tmp_path / "GQA/testdev_balanced_questions.json", "")
    (tmp_path / "GQA/train_balanced_questions.json").unlink()
    touch(tmp_path / "GQA/train_balanced_questions.json/part")
    assert verb(tmp_path, tmp_path / "out", "--tasks", "GQA") == 1
    message = capsys.readouterr().err
    assert "GQA/testdev_balanced_questions.json: empty" in message
    assert "GQA/train_balanced_questions.json: a folder, it must be a file" in message
    assert "GQA/images" not in message


def test_a_missing_file_that_lies_a_folder_deeper_or_higher_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CVIT["VizWiz"](tmp_path)
    (tmp_path / "VizWiz/Annotations").mkdir()
    (tmp_path / "VizWiz/val.json").rename(tmp_path / "VizWiz/Annotations/val.json")
    (tmp_path / "VizWiz/val").rename(tmp_path / "val")
    assert verb(tmp_path, tmp_path / "out", "--tasks", "VizWiz") == 1
    message = capsys.readouterr().err
    assert (
        "VizWiz/val.json: missing; there is VizWiz/Annotations/val.json: if it is this, move it\n" in message
    )
    assert "VizWiz/val/: missing; there is val: if it is this, move it\n" in message


def test_a_needed_file_of_the_same_name_is_not_taken_for_a_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "RefCOCO/refcoco+/instances.json", {"images": [], "annotations": []})
    options = ["--benchmark", "coin", "--tasks", "Grounding", "--raw", str(tmp_path), "--out", "none"]
    assert main(["prepare", *options]) == 1
    assert "RefCOCO/refcoco/instances.json: missing\n" in capsys.readouterr().err


def test_images_are_not_asked_for_without_images_but_listed_folders_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(tmp_path, tmp_path / "out", "--without_images") == 1
    message = capsys.readouterr().err
    assert "COCO2014/val2014/" not in message
    assert "ImageNet/val/: missing" in message


def test_every_task_is_prepared_and_reported_with_its_counts(
    full_raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(full_raw, tmp_path / "out", "--workers", "1") == 0
    printed = capsys.readouterr().out
    assert "ScienceQA train: 2 records (published: 12726)" in printed
    assert "  dropped 1: its answer is none of its choices" in printed
    assert "GQA train: 3 records (published: 72140)\n  drawn from 9: 1 of each image" in printed
    assert printed.endswith("ready for `check` and `fit`\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(CVIT)
    assert verb(full_raw, tmp_path / "out", "--workers", "1") == 0
    assert capsys.readouterr().out.count("; was there, raw files unchanged") == 17


def test_the_benchmark_reads_what_was_prepared(full_raw: Path, tmp_path: Path) -> None:
    prepare(Request("cvit", full_raw, tmp_path / "out"), workers=1)
    benchmark = load_benchmark("cvit", {"root": str(tmp_path / "out"), "shots": 5})
    assert [task.name for task in benchmark.stream] == list(CVIT)[:6]
    science = benchmark.task("ScienceQA")
    assert science.train is not None
    assert science.train.sample(0).user_text == (
        "Context: Cork is light.\nWhich one floats?\nA. a cork\nB. a nail\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert science.train.sample(1).image is None
    places = benchmark.task("Places365")
    assert places.train is not None
    assert len(places.train) == 15


def test_several_processes_write_the_same_bytes_as_one(full_raw: Path, tmp_path: Path) -> None:
    tasks = ["GQA", "VQAv2", "TextCaps"]
    for workers in (1, 2):
        outcomes = prepare(Request("cvit", full_raw, tmp_path / str(workers)), tasks=tasks, workers=workers)
        assert [outcome.task for outcome in outcomes] == tasks
        assert not any(outcome.error for outcome in outcomes)
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.json*"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_a_task_that_fails_does_not_stop_the_others_and_all_failures_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("GQA", "VizWiz", "TextVQA"):
        CVIT[task](tmp_path / "raw")
    write(tmp_path / "raw/GQA/train_balanced_questions.json", '{"1": ')
    write(tmp_path / "raw/VizWiz/val.json", [{"image": "a.jpg"}])
    options = ("--tasks", "GQA", "VizWiz", "TextVQA", "--workers", "1")
    assert verb(tmp_path / "raw", tmp_path / "out", *options) == 1
    printed = capsys.readouterr()
    assert "2 of 3 tasks failed" in printed.err
    assert "train_balanced_questions.json: not the JSON file it should be" in printed.err
    assert "val.json, [0]: field 'question' must be a string, got only 'image'" in printed.err
    assert "TextVQA test: 3 records" in printed.out
    CVIT["GQA"](tmp_path / "raw")
    CVIT["VizWiz"](tmp_path / "raw")
    assert verb(tmp_path / "raw", tmp_path / "out", *options) == 0
    printed = capsys.readouterr()
    assert printed.out.count("; was there") == 2
    assert "TextVQA test: 3 records (published: 5000); was there" in printed.out


def test_a_process_that_died_fails_its_task_with_a_hint() -> None:
    future: Future[Outcome] = Future()
    future.set_exception(BrokenProcessPool())
    outcome = _result(future, "GQA")
    assert outcome.error == "its process died, perhaps for want of memory; give fewer --workers"
    assert outcome.lines() == ["GQA: failed, see below"]


def test_a_folder_of_another_benchmark_is_not_written_over(full_raw: Path, tmp_path: Path) -> None:
    prepare(Request("cvit", full_raw, tmp_path), tasks=["GQA"], workers=1)
    with pytest.raises(ValueError, match=r"--out: .*GQA holds the task as prepared for 'cvit'"):
        prepare(Request("coin", full_raw, tmp_path), tasks=["GQA"], workers=1)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--tasks", "gqa"], 1, "--tasks: unknown task of cvit 'gqa'. Did you mean 'GQA'?"),
        (["--limit", "-1"], 2, "--limit must be 0 or more, got -1"),
        (["--workers", "-2"], 2, "--workers must be 0 or more, got -2"),
        (["--limits", "1"], 2, "unknown option --limits. Did you mean '--limit'?"),
        (["--benchmark", "cvi"], 1, "--benchmark: unknown benchmark 'cvi'. Did you mean 'cvit'?"),
        (["--raw", "none"], 1, "--raw: no folder none"),
    ],
)
def test_wrong_options_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int, message: str
) -> None:
    assert verb(tmp_path, tmp_path / "out", *options) == status
    assert message in capsys.readouterr().err
