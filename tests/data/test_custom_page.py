"""docs/custom.md is a complete example: its files are written as it shows them, its commands run on them."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
from prepared_kit import write_image

from lit_cvit.__main__ import main
from lit_cvit.backbones import InternVL, Llava, LlavaNext, LlavaOnevision, Qwen2VL, Tiny
from lit_cvit.data.benchmarks import custom as custom_module
from lit_cvit.data.benchmarks.custom import custom
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.validation.check import check_benchmark
from lit_cvit.run import RunFolder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "custom.md").read_text(encoding="utf-8")
IMAGES = ("rex.png", "tom.png", "kit.png", "bo.png")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page, in which its `fit` command has run."""
    folder = tmp_path_factory.mktemp("page")
    for image in IMAGES:
        write_image(folder / "pets" / "images" / image)
    for name, text in re.findall(r"`([\w-]+\.jsonl?)`:\n\n```json\n(.*?)```", PAGE, flags=re.DOTALL):
        (folder / "pets" / name).write_text(text, encoding="utf-8")
    (yaml_file,) = blocks("yaml")
    (folder / "pets" / "pets.yaml").write_text(yaml_file, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(command("fit")) == 0
    return folder


def command(verb: str) -> list[str]:
    lines = [
        line for line in blocks("bash")[0].splitlines() if line.startswith(f"python -m lit_cvit {verb} ")
    ]
    return shlex.split(lines[0])[3:]


def test_the_example_reads_as_the_page_says(folder: Path) -> None:
    benchmark = custom(folder / "pets" / "pets.yaml")
    species, action = benchmark.stream
    (caption,) = benchmark.downstream
    assert [task.name for task in (species, action, caption)] == ["species", "action", "caption"]
    assert species.train is not None
    assert action.train is not None
    assert species.train.sample(1).instruction == "Say it in one word."
    assert species.test.sample(0).answers == ("cat", "kitten")
    assert (action.train.sample(1).id, action.train.sample(1).image) == ("1", None)
    shown = caption.test.sample(0)
    assert (shown.question, shown.instruction) == ("What is happening here?", "")
    assert (caption.train, caption.decoding_budget) == (None, 64)
    assert [report.counts for report in check_benchmark(benchmark, decode_images=True)] == [{}, {}, {}]


def test_the_limits_of_length_are_those_of_the_backbones() -> None:
    reported = [int(number) for number in re.findall(r"\b\d+(?= for )", " ".join(PAGE.split()))]
    families = (Tiny, Llava, LlavaOnevision, LlavaNext, Qwen2VL, InternVL)
    limits = [inspect.signature(family).parameters["max_length"].default for family in families[:3]]
    for family in families[3:]:
        assert family("x").max_length == reported[3]
    assert limits == reported[:3]


def test_the_answers_of_all_turns_are_learned_as_the_page_says(tmp_path: Path) -> None:
    turns = [
        ("human", "Which colour is the sky?"),
        ("gpt", "blue"),
        ("human", "And grass?"),
        ("gpt", "green"),
    ]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    (tmp_path / "train.json").write_text(json.dumps([row]))
    sample = RecordSource(tmp_path / "train.json", task="T", ids_required=False).sample(0)
    encoder = Tiny().encoder
    batch = encoder.encode([sample], with_answers=True)
    assert batch.answer_mask is not None
    learned = batch.inputs["input_ids"][batch.answer_mask]
    assert encoder.tokenizer.decode(learned) == " blue</s> green</s>"
    assert "The answers of all turns are learned" in " ".join(PAGE.split())


def test_every_key_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert explained == {*custom_module._FILE_KEYS, *custom_module._TASK_KEYS}


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_its_check_counts_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(command("check")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "species: 2 train, 2 test, 4 with image: no problems" in lines
    assert "action: 2 train, 1 test, 2 with image: no problems" in lines
    assert "caption: 0 train, 2 test, 2 with image: no problems" in lines


def test_its_fit_learns_both_tasks_and_tests_the_third(folder: Path) -> None:
    run = RunFolder.open(folder / "runs" / "pets", verify=True)
    assert run.record.stream == ["species", "action"]
    scores = run.scores(2)
    assert scores is not None
    assert set(scores.tasks) == {"species", "action", "caption"}


def test_its_test_and_predict_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(command("test")) == 0
    assert re.findall(r"^(\w+): [\d.]+ \((\d) samples\)$", capsys.readouterr().out, flags=re.MULTILINE) == [
        ("species", "2"),
        ("caption", "2"),
    ]
    assert main(command("predict")) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
