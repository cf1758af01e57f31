"""`docs/data.md` says of every data set what its converter says: task, counts, owner, and every raw file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lit_cvit.data.prepare import benchmark_names, converters
from lit_cvit.data.prepare.base import Converter, Raw

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
CONVERTERS = converters()
BENCHMARKS = ("cvit", "coin", "ucit")
# Images of another row of the table, which links them.
BORROWS = {"TextVQA/train_images/": ("TextCaps",)}
# Where owners keep their archives or the lists of their classes.
SAME_OWNER = {"images.cocodataset.org", "www.kaggle.com", "scienceqa.s3.us-west-1.amazonaws.com"}


def table(first: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has this title, by their first cell."""
    lines = PAGE[PAGE.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    assert len({row[0] for row in rows}) == len(rows), "a row stands twice"
    return {row[0].strip("`"): row[1:] for row in rows}


def raw_of(converter: Converter) -> set[Raw]:
    return {raw for splits in converter.splits.values() for split in splits.values() for raw in split.raw}


def counts(converter: Converter, benchmark: str) -> str:
    splits = converter.splits.get(benchmark)
    if splits is None:
        return ""
    return " / ".join(splits[name].printed if name in splits else "-" for name in ("train", "test"))


def test_the_table_has_exactly_the_tasks_that_can_be_prepared() -> None:
    assert set(BENCHMARKS) == set(benchmark_names())
    assert sorted(table("task")) == sorted(converter.task for converter in CONVERTERS)


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.task)
def test_a_row_says_the_data_set_and_the_published_counts(converter: Converter) -> None:
    row = table("task")[converter.task]
    assert row[0] == converter.data_set
    assert row[1:4] == [counts(converter, benchmark) for benchmark in BENCHMARKS]
    assert all(row[4:]), "owner, licence and size are given, or '?'"


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.task)
def test_the_row_links_the_place_of_each_raw_file(converter: Converter) -> None:
    sites = set(re.findall(r"https?://([^/)\s]+)", table("task")[converter.task][4]))
    for raw in raw_of(converter):
        address = re.search(r"https?://([^/)\s]+)", raw.source)
        if address and converter.task not in BORROWS.get(raw.path, ()):
            assert address[1] in sites | SAME_OWNER, raw


def tree() -> dict[str, str]:
    """What the page's tree says of every file and folder with a word beside it, by its path under RAW."""
    lines = PAGE[PAGE.index("```text\nRAW/\n") :].split("```")[1].splitlines()[2:]
    reported, folders = {}, [""]
    for line in lines:
        name, _, words = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        path = f"{folders[depth - 1]}{name}"
        folders[depth:] = [path]
        if words:
            reported[path] = words.strip()
    return reported


def test_the_tree_has_every_raw_file_with_its_archive_and_the_tasks_that_need_it() -> None:
    needed: dict[str, tuple[Raw, list[str]]] = {}
    for converter in CONVERTERS:
        for raw in raw_of(converter):
            needed.setdefault(raw.path, (raw, []))[1].append(converter.task)
    reported = tree()
    assert sorted(reported) == sorted(needed)
    for path, (raw, tasks) in needed.items():
        _, _, uses = reported[path].partition("; for ")
        assert (uses.split(", ") if uses else [path.partition("/")[0]]) == tasks, path
        for archive in re.findall(r"[\w+.-]+\.(?:zip|tgz|tar\.gz|tar)\b", raw.source):
            assert archive in reported[path], path


def test_the_page_tells_of_the_inputs_that_are_optional() -> None:
    optional = {raw.path for converter in CONVERTERS for raw in raw_of(converter) if raw.optional}
    assert optional == {"ImageNet/classes.txt", "ImageNet/LOC_val_solution.csv"}
    for name in (*(Path(path).name for path in optional), "--without_images", "--limit", "--tasks"):
        assert f"`{name}" in PAGE, name


def test_the_commands_name_benchmarks_tasks_and_configurations_that_exist() -> None:
    commands = re.findall(r"^python -m lit_cvit .*", PAGE, re.MULTILINE)
    assert {command.split()[3] for command in commands} == {"prepare", "check", "fit"}
    tasks = {converter.task for converter in CONVERTERS}
    root = Path(__file__).parents[3]
    for command in commands:
        named = re.search(r"--(?:data\.)?benchmark (\S+)", command)
        assert named
        assert named[1] in BENCHMARKS
        assert set(re.findall(r"--data\.tasks \"\[(.*?)\]", command)) <= tasks
        for name in re.findall(r"--config (\S+)", command):
            assert (root / "configs" / f"{name}.yaml").is_file()
