from __future__ import annotations

import pickle

import pytest

from lit_cvit.data.errors import RecordError


def test_an_error_of_a_record_has_its_parts_as_fields_and_in_its_message() -> None:
    error = RecordError.of("got 3", place="a.json, index 12", field="conversations[12].from", fix="say why")
    assert str(error) == "a.json, index 12: field 'conversations[12].from': got 3; say why"
    assert error.words == "field 'conversations[12].from': got 3; say why"
    assert (error.place, error.field, error.fix) == ("a.json, index 12", "conversations[12].from", "say why")
    assert error.cause == "field 'conversations[].from'"


@pytest.mark.parametrize(
    ("parts", "message"),
    [({}, "cut off"), ({"fix": "fetch it"}, "cut off; fetch it"), ({"place": "a.json"}, "a.json: cut off")],
)
def test_parts_that_are_empty_leave_no_trace_in_the_message(parts: dict[str, str], message: str) -> None:
    assert str(RecordError.of("cut off", cause="cut", **parts)) == message


def test_a_process_gets_the_fields_too_and_a_loader_worker_the_message() -> None:
    error = RecordError.of("got 3", place="a.json, index 1", field="id", cause="own", fix="say why")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert vars(copy)["cause"] == "own"
    assert str(RecordError("as a loader builds it anew")) == "as a loader builds it anew"
