"""The shipped composition of every benchmark: its header, and that it parses and builds on made-up data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prepared_kit import TASKS, write_image, write_jsonl, write_prepared

from lit_cvit.cli.shipped import CONFIGS
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.benchmarks import benchmark_names

NAMES = sorted(path.stem for path in (CONFIGS / "benchmarks").glob("*.yaml"))


def build(*arguments: str) -> StreamCLI:
    return StreamCLI(["--config", "quickstart", *arguments], run=False)


def header(name: str) -> list[str]:
    lines = (CONFIGS / "benchmarks" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[: lines.index("data:")]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the data that the compositions name."""
    for name in TASKS:
        write_prepared(tmp_path / "data", name)
    write_image(tmp_path / "pets" / "a.png")
    row = {"id": 1, "image": "a.png", "question": "Which?", "instruction": "One word.", "answers": ["dog"]}
    write_jsonl(tmp_path / "pets" / "rows.jsonl", [row])
    (tmp_path / "pets" / "pets.yaml").write_text(
        "tasks: [{name: species, train: rows.jsonl, test: rows.jsonl, image_root: ., answer_format: short, "
        "scorer: exact, instruction: One word.}]"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_benchmark_of_the_papers_has_one() -> None:
    assert NAMES == ["coin", "coin_mini", "custom", "cvit", "cvit_mini", "ucit", "ucit_mini"]
    assert {name.replace("_", "-") for name in NAMES} - {"custom"} <= set(benchmark_names())


@pytest.mark.parametrize("name", NAMES)
def test_the_header_names_paper_sizes_data_and_command(name: str) -> None:
    lines = header(name)
    text = " ".join(line.removeprefix("# ") for line in lines)
    assert all(line.startswith("# ") for line in lines)
    assert lines[-1].startswith(f"# python -m lit_cvit fit --config quickstart --config benchmarks/{name}")
    assert name == "custom" or re.search(r"arXiv \d{4}\.\d{5}", text)
    assert re.search(r"test samples|sizes are yours", text)
    if name in TASKS:
        assert f"#   python -m lit_cvit prepare --benchmark {name} --raw RAW --out data/{name}" in lines


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_beside_another_configuration(there: Path, name: str) -> None:
    data = build("--config", f"benchmarks/{name}").datamodule
    assert data.benchmark_name == ("pets/pets.yaml" if name == "custom" else name.replace("_", "-"))
    assert data.batch_size == 16, "what is not the benchmark's stays"
    stream = data.stream
    assert stream[0].test.sample(0).user_text
    assert len(stream) == {"custom": 1, "coin": 8, "coin_mini": 8}.get(name, 6)
    if not name.endswith("mini"):
        image = stream[-1].test.sample(0).image
        assert image is not None
        assert image.open().size == (4, 4)


@pytest.mark.parametrize("name", ["coin", "coin_mini", "ucit", "ucit_mini"])
def test_its_usual_order_is_no_error_beside_a_list_of_tasks(
    there: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    arguments = ("--config", f"benchmarks/{name}")
    usual = [task.name for task in build(*arguments).datamodule.stream]
    picked = build(*arguments, "--data.tasks", f"[{usual[1]},{usual[0]}]").datamodule
    assert [task.name for task in picked.stream] == [usual[1], usual[0]]
    assert caplog.messages == []


@pytest.mark.parametrize("name", sorted(TASKS))
def test_without_data_it_says_how_to_prepare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = build("--config", f"benchmarks/{name}").datamodule
    command = f"python -m lit_cvit prepare --benchmark {name} --raw RAW --out data/{name} --tasks"
    with pytest.raises(ValueError, match=command):
        _ = data.stream
