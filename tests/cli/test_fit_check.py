"""What `fit` says of records before the first step: what its backbone cannot take, and what is tolerated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from family_kit import FAMILIES
from PIL import Image
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


def test_images_of_sides_that_the_family_refuses_are_named_by_check_and_fit_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    monkeypatch.chdir(tmp_path)
    FAMILIES["qwen2_vl"].build(tmp_path / "qwen")
    (tmp_path / "words.yaml").write_text(CUSTOM.replace("none}", "none, image_root: images}"))
    (tmp_path / "images").mkdir()
    train, sizes = rows(*[(f"Which {number}?", "a") for number in range(5)]), (30, 2010, 2000, 2001, 3000)
    for row, width in zip(train, sizes, strict=True):
        row["image"] = f"{width}.png"
        Image.new("RGB", (width, 10), "red").save(tmp_path / "images" / row["image"])
    # The size stands in the header; nothing behind it is read.
    (tmp_path / "images/3000.png").write_bytes((tmp_path / "images/3000.png").read_bytes()[:60])
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "test.jsonl", rows(("Who?", "I")))
    given = ["--config", "quickstart", "--config", "methods/seq_lora", "--data.benchmark", "words.yaml"]
    given += ["--model.backbone", "Qwen2VL", "--model.backbone.name_or_path", "qwen"]
    given += ["--model.backbone.max_pixels", "9216"]
    for verb in ("check", "fit"):
        status, _, err = say(verb, *given)
        assert (status, "3 unfit record" in err) == (1, True)
        for line, width in ((2, 2010), (4, 2001), (5, 3000)):
            assert (
                f"train.jsonl, line {line} (id '{line - 1}'): it has an image of {width} x 10 pixels" in err
            )
        assert "absolute aspect ratio must be smaller than 200, got 200.1; crop the image, leave" in err
    status, out, _ = say("check", *given, "--model.backbone.image_aspect", "pad")
    assert (status, "no problems" in out) == (0, True)


def test_check_says_that_a_backbone_which_is_not_here_was_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text(CUSTOM)
    write_jsonl(tmp_path / "train.jsonl", rows(("Which?", "dog</s> cat")))
    write_jsonl(tmp_path / "test.jsonl", rows(("Who?", "I")))
    given = ["--config", "quickstart", "--config", "methods/seq_lora", "--data.benchmark", "words.yaml"]
    status, _, err = say("check", *given)
    assert (status, "'</s>' in an answer, a special token of the backbone" in err) == (1, True)
    status, out, _ = say("check", *given, "--model.backbone.name_or_path", "no_folder")
    assert status == 0
    assert "backbone 'no_folder' is not on this machine: `fit` checks what it can take" in out


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
