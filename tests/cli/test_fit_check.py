"""What `fit` says of records before the first step: what its backbone cannot take, and what is tolerated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prepared_kit import records, write_jsonl, write_prepared

Say = Callable[..., tuple[int, str, str]]

CUSTOM = (
    "tasks: [{name: words, train: train.jsonl, test: test.jsonl, answer_format: short, scorer: exact, "
    "instruction: none}]"
)


def rows(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"question_id": str(number), "text": text, "answer": answer}
        for number, (text, answer) in enumerate(pairs)
    ]


def test_records_that_the_backbone_cannot_take_are_all_named_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text(CUSTOM)
    train = rows(("Which?", "dog</s> cat"), ("word " * 600, "a"), ("Why?", "so"), ("word " * 700, "a"))
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "test.jsonl", rows(("Who? " * 600, "I")))
    status, _, err = say(
        "fit", "--config", "quickstart", "--config", "methods/seq_lora", "--data.benchmark", "words.yaml"
    )
    assert (status, "4 problems in 1 task" in err) == (1, True)
    assert "train.jsonl, line 1 (id '0'): it has '</s>' in an answer, a special token of the backbone" in err
    for place in ("train.jsonl, line 2 (id '1')", "train.jsonl, line 4 (id '3')", "test.jsonl, line 1"):
        assert place in err
    assert err.count("more than the backbone's max_length 512; shorten the record or leave it out, or") == 3
    assert not (tmp_path / "runs").exists()


def test_a_fit_says_in_a_line_what_is_tolerated_in_published_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_prepared(tmp_path / "data", "cvit")
    shared = [{**row, "image": "a.png"} for row in records("GQA", "test", 1)]
    write_jsonl(tmp_path / "data/cvit/GQA/test.jsonl", [*shared, *records("GQA", "test", 4)[1:]])
    (tmp_path / "now.yaml").write_text(
        "model: {class_path: SeqLoRA, init_args: {rank: 8, alpha: 16}}\n"
        "data: {benchmark: cvit, tasks: [GQA], settings: {root: data/cvit, downstream: []}}"
    )
    status, _, _ = say("fit", "--config", "quickstart", "--config", "now.yaml")
    assert status == 0
    assert "tolerated in published splits: GQA 1 train/test overlap; `check` lists them" in caplog.messages
