"""`ucit` on made-up prepared records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prepared_kit import OPTIONS, records, samples, write_jsonl, write_prepared

from lit_cvit.data.benchmarks.ucit import ucit
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.tasks import AnswerFormat, Counts
from lit_cvit.metrics import scoring

RAVICF = ["ImageNet-R", "ArxivQA", "VizWiz-cap", "IconQA", "CLEVR-Math", "Flickr30k"]
CAPTIONS = ("VizWiz-cap", "Flickr30k")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data"), "ucit")


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("RAVICF", RAVICF),
        ("AIRFCV", ["ArxivQA", "IconQA", "ImageNet-R", "Flickr30k", "CLEVR-Math", "VizWiz-cap"]),
        ("IFRCAV", ["IconQA", "Flickr30k", "ImageNet-R", "CLEVR-Math", "ArxivQA", "VizWiz-cap"]),
    ],
)
def test_orders_are_the_published_ones(prepared: Path, order: Any, names: list[str]) -> None:
    assert [task.name for task in ucit(root=str(prepared), order=order).stream] == names
    data = ContinualDataModule("ucit", order=order, settings={"root": str(prepared)})
    assert [task.name for task in data.stream] == names
    assert data.downstream == ()


def test_users_turns_are_question_and_instruction(prepared: Path) -> None:
    stream = ucit(root=str(prepared)).stream
    letter, short = (
        "Answer with the option's letter from the given choices directly.",
        "Answer the question using a single word or phrase.",
    )
    caption = "What is happening in the image?\nGenerate a brief caption for the image."
    assert {task.name: task.test.sample(0).user_text for task in stream} == {
        "ImageNet-R": f"What is the object in the image?\n{short}",
        "ArxivQA": f"{OPTIONS}\n{letter}",
        "VizWiz-cap": caption,
        "IconQA": f"{OPTIONS}\n{letter}",
        "CLEVR-Math": f"Subtract one ball. How many are left?\n{short}",
        "Flickr30k": caption,
    }


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("standard", "class_name letter cider letter_or_short short_answer cider"),
        (
            "official",
            "official_exact official_exact mean_of_seven official_exact official_exact mean_of_seven",
        ),
        ("paper", "paper_hide paper_hide mean_of_seven paper_hide paper_hide mean_of_seven"),
    ],
)
def test_main_scorers_are_those_that_were_asked_for(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, choice: Any, names: str
) -> None:
    # The extra with METEOR need not be installed to say which scorers these are.
    every = {each.name: each for each in scoring.SCORERS}
    monkeypatch.setattr("lit_cvit.data.benchmarks.prepared.scorer", every.__getitem__)
    stream = ucit(root=str(prepared), scorer=choice).stream
    assert [task.scorer.name for task in stream] == names.split()
    for task in stream:
        beside = [scorer.name for scorer in task.also]
        if task.name not in CAPTIONS:
            assert beside == []
            rows = samples(task.test)
            assert task.scorer([sample.answers[0] for sample in rows], rows) == [1.0] * 4
        else:
            assert task.answer_format is AnswerFormat.CAPTION
            assert beside == (["mean_of_six"] if choice == "standard" else ["cider", "mean_of_six"])


def test_questions_of_iconqa_without_options_ask_for_a_word(tmp_path: Path) -> None:
    root = write_prepared(tmp_path, "ucit")
    rows = [{"id": "0", "question": "How many?", "answers": ["4"]}, records("IconQA", "test", 1)[0]]
    write_jsonl(root / "IconQA" / "test.jsonl", rows)
    task = ucit(root=str(root)).task("IconQA")
    letter, short = (
        "Answer with the option's letter from the given choices directly.",
        "Answer the question using a single word or phrase.",
    )
    assert task.instructions == (letter, short)
    assert [sample.instruction for sample in samples(task.test)] == [short, letter]
    assert task.scorer(["four", "(B)"], samples(task.test)) == [1.0, 1.0]


def test_published_counts_are_those_of_table_5(prepared: Path) -> None:
    trained = dict.fromkeys(RAVICF, 40_000) | {"ImageNet-R": 23_998, "IconQA": 29_859}
    assert {task.name: task.published for task in ucit(root=str(prepared)).stream} == {
        name: Counts(count, 3_000) for name, count in trained.items()
    }


def test_an_unknown_order_is_refused(prepared: Path) -> None:
    with pytest.raises(ValueError, match="ucit: unknown order 'RAVIC'. Did you mean 'RAVICF'"):
        ucit(root=str(prepared), order="RAVIC")  # type: ignore[arg-type]
