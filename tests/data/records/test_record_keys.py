"""Keys that are not read: refused by name where they would change what is learned, else named once."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

from lit_cvit.data.errors import RecordError
from lit_cvit.data.records.keys import ALIASES, FOREIGN
from lit_cvit.data.records.parse import Record, parse_record
from lit_cvit.data.records.source import RecordSource

TURNS = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]
FORMS: dict[str, dict[str, Any]] = {
    "train": {"id": 1, "conversations": TURNS},
    "test": {"id": 1, "text": "What is it?", "answer": "A cat."},
    "own": {"id": 1, "question": "What is it?", "answers": ["A cat."]},
}


def parse(row: dict[str, Any]) -> Record:
    return parse_record(row, place="t.json, index 3")


def refused(row: dict[str, Any]) -> RecordError:
    with pytest.raises(RecordError) as caught:
        parse(row)
    assert caught.value.place == "t.json, index 3 (id '1')"
    return caught.value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", [*FOREIGN, "Images", "VIDEO"])
def test_what_another_trainer_reads_is_refused_by_name_in_every_form(form: str, key: str) -> None:
    error = refused(FORMS[form] | {key: ["0.png"]})
    assert error.field == key
    assert error.fix == FOREIGN[key.lower()]
    assert str(error).startswith(f"t.json, index 3 (id '1'): field {key!r}: got ['0.png']; ")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "key", [*ALIASES["image"], "Image", "iamge", "imagee", "IMG", "imagePath", "image-path", "image url"]
)
def test_an_image_under_another_name_is_refused_unless_there_is_an_image(form: str, key: str) -> None:
    error = refused(FORMS[form] | {key: "0.png"})
    assert (error.field, error.fix) == (key, "no such key; did you mean 'image'?")
    with_both = parse(FORMS[form] | {key: "0.png", "image": "a.png"})
    assert (with_both.image, with_both.unread) == ("a.png", (key,))


@pytest.mark.parametrize(
    ("form", "key", "meant"),
    [
        ("own", "questions", "question"),
        ("own", "answer", "answers"),
        ("own", "Instruction", "instruction"),
        ("test", "choice", "choices"),
        ("train", "conversation", "conversations"),
    ],
)
def test_a_key_that_is_nearly_right_is_refused_with_the_right_one(form: str, key: str, meant: str) -> None:
    row = {name: value for name, value in FORMS[form].items() if name != meant}
    if form == "own":
        row = {"instruction": "Say it.", **row} if meant != "instruction" else row
    if form == "train":
        assert refused(row | {key: TURNS}).cause == "unknown form"
    else:
        error = refused(row | {key: "x"})
        assert (error.field, error.fix) == (key, f"no such key; did you mean {meant!r}?")


@pytest.mark.parametrize(
    "notes",
    [
        {"source": "x", "category": "y", "bbox": [1], "size": [2], "model_id": "z", "metadata": {"a": 1}},
        {"images": [], "video": None, "system": "", "Image": None, "weight": 1.0, "tools": {}},
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_notes_of_published_files_and_empty_values_say_nothing(form: str, notes: dict[str, Any]) -> None:
    assert parse(FORMS[form] | notes) == parse(FORMS[form])


@pytest.mark.parametrize("key", ["answer_type", "answer_id", "question_type", "image_id", "dataset", "split"])
def test_what_a_data_set_notes_of_a_sample_is_not_read_and_named(key: str) -> None:
    assert parse(FORMS["test"] | {key: "x"}).unread == (key,)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"loss": False}, "conversations[1].loss"),
        ({"weight": 0}, "conversations[1].weight"),
        ({"train": False}, "conversations[1].train"),
        ({"Loss": 0.0}, "conversations[1].Loss"),
        ({"loss_weight": 0.0}, "conversations[1].loss_weight"),
        ({"mask": 0}, "conversations[1].mask"),
        ({"images": ["a.png"]}, "conversations[1].images"),
        ({"img": "a.png"}, "conversations[1].img"),
    ],
)
def test_a_turn_that_is_not_to_be_learned_is_refused(more: dict[str, Any], field: str) -> None:
    error = refused({"id": 1, "conversations": [TURNS[0], TURNS[1] | more]})
    assert error.field == field
    assert error.cause == f"field {field.replace('1', '')!r}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "more",
    [
        {"path": "a.png"},
        {"media": ["b/c d.JPG"]},
        {"source": {"url": "http://x.org/a.jpeg?size=2"}},
        {"metadata": {"image": "a.webp"}},
    ],
)
def test_a_value_that_names_an_image_is_refused_unless_there_is_an_image(
    form: str, more: dict[str, Any]
) -> None:
    error = refused(FORMS[form] | more)
    assert (error.field, "did you mean 'image'?" in error.fix) == (next(iter(more)), True)
    assert parse(FORMS[form] | more | {"image": "a.png"}).image == "a.png"


@pytest.mark.parametrize(
    "text",
    [
        "<Image>\nWhat is it?",
        "<video>\nWhat is it?",
        "What is it? <image_1>",
        "<images>What is it?",
        "Picture 1: <img>a.png</img> What is it?",
    ],
)
def test_what_stands_for_an_image_elsewhere_is_no_text(text: str) -> None:
    turns = [{"from": "human", "value": text}, TURNS[1]]
    for row in ({"conversations": turns}, {"text": text, "answer": "A cat."}):
        error = refused({"id": 1, "image": "a.png"} | row)
        assert "only <image> is" in error.fix
    question = {"from": "human", "value": "Which tag shows it, <img> or <video>, and how?"}
    assert "<video>" in parse({"id": 1, "conversations": [question, TURNS[1]]}).text


def test_other_keys_of_a_turn_are_not_read_and_named() -> None:
    turns = [TURNS[0] | {"role": "user"}, TURNS[1] | {"no_loss": True, "role": "assistant"}]
    assert parse({"id": 1, "conversations": turns, "day": 3}).unread == (
        "day",
        "conversations[].role",
        "conversations[].no_loss",
    )


@pytest.mark.parametrize("more", [{"loss": True}, {"weight": 1}, {"loss": None}, {"markdown": "x"}])
def test_a_turn_may_say_what_is_done_anyway(more: dict[str, Any]) -> None:
    assert parse({"id": 1, "conversations": [TURNS[0], TURNS[1] | more]}) == parse(FORMS["train"])


def test_each_key_that_is_not_read_is_warned_of_once_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{}, {"lang": "en"}, {"lang": "de"}, {"lang": "en", "split": 1, "day": 2}]
    path.write_text("\n".join(json.dumps(FORMS["test"] | row | {"id": str(n)}) for n, row in enumerate(rows)))
    source = RecordSource(path, task="T")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            for index in range(4):
                source.sample(index)
        pickle.loads(pickle.dumps(source)).sample(1)
    assert [str(each.message) for each in caught] == [
        f"{path}, line 2 (id '1'): the key 'lang' is not read, here or further on",
        f"{path}, line 4 (id '3'): the keys 'split', 'day' are not read, here or further on",
    ]
