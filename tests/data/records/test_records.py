from __future__ import annotations

from typing import Any

import pytest

from lit_cvit.data.records.parse import Record, parse_record

PAIR = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]


def parse(**row: Any) -> Record:
    return parse_record(row, place="t.json, index 3")


def train(*turns: tuple[str, Any], **row: Any) -> Record:
    return parse(id="q1", conversations=[{"from": who, "value": value} for who, value in turns], **row)


def test_a_llava_training_row_is_read() -> None:
    expected = Record("q1", ("A cat.",), text="What is it?", image="a/b.png")
    assert parse(id="q1", image="a/b.png", conversations=PAIR, model="x") == expected


def test_earlier_turns_become_history() -> None:
    record = train(("human", "<image>\nOne?"), ("gpt", "1"), ("human", "Two?"), ("gpt", "2"), image="a.png")
    assert record.history == (("One?", "1"),)
    assert (record.text, record.answers) == ("Two?", ("2",))


@pytest.mark.parametrize(("answer", "answers"), [("red", ("red",)), (["a", "", "a"], ("a", "", "a"))])
def test_a_llava_test_row_is_read(answer: Any, answers: tuple[str, ...]) -> None:
    expected = Record("7", answers, text="Colour?", image="a.png")
    assert parse(question_id=7, image="a.png", text="Colour?", answer=answer) == expected


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"answer_bbox": "[0.41,0.45,0.63,0.62]", "size": [640, 480]}, "[0.41,0.45,0.63,0.62]"),
        ({"answer_bbox": [0.41, 0.45, 0.63, 1]}, "[0.41, 0.45, 0.63, 1]"),
        ({"label": "yes"}, "yes"),
        ({"label": "no", "answer": "yes"}, "yes"),
    ],
)
def test_a_test_row_may_have_its_answer_as_a_box_or_a_label(fields: dict[str, Any], answer: str) -> None:
    assert parse(question_id=7, image="a.png", text="Where?", **fields).answers == (answer,)


def test_an_image_needs_no_placeholder() -> None:
    bare = train(("human", "What?"), ("gpt", "1"), ("human", "Now?"), ("gpt", "2"), image="a.png")
    assert bare == train(
        ("human", "<image>\nWhat?"), ("gpt", "1"), ("human", "Now?"), ("gpt", "2"), image="a.png"
    )
    assert parse(id=1, image="a.png", text="Red?", answer="x") == parse(
        id=1, image="a.png", text="Red?\n<image>", answer="x"
    )


def test_a_row_of_our_own_form_needs_no_instruction() -> None:
    record = parse(id="q1", image="a.png", question="", answers=["A cat."], bbox=[1, 2, 3, 4], size=[9, 9])
    assert record == Record("q1", ("A cat.",), image="a.png")
    assert parse(id="q1", question="Which?", answers=["x"]) == Record("q1", ("x",), question="Which?")


def test_a_row_of_our_own_form_is_read() -> None:
    row = {"question": "Which?", "instruction": "Say a letter.", "answers": ["B"], "choices": ["x", "y"]}
    expected = Record(
        "q1", ("B",), question="Which?", instruction="Say a letter.", image="a.png", choices=("x", "y")
    )
    assert parse(id="q1", image="a.png", **row) == expected


@pytest.mark.parametrize("row", [{}, {"image": None}])
def test_a_row_without_an_image_is_text_only(row: dict[str, Any]) -> None:
    assert parse(id="q1", text="Why?", answer="so", **row).image == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<image>\nWhat?\nSay it.", "What?\nSay it."),
        ("What?\nSay it.\n<image>", "What?\nSay it."),
        ("  <image> What? ", "What? "),
        ("  What? ", "  What? "),
    ],
)
def test_the_placeholder_goes_and_the_rest_stays_as_it_is(value: str, text: str) -> None:
    assert parse(id=1, image="a.png", text=value, answer="x").text == text


@pytest.mark.parametrize("field", ["question", "instruction"])
def test_the_placeholder_goes_from_our_own_form_too(field: str) -> None:
    row = {"question": "Which?", "instruction": "Say it.", "answers": ["x"], "image": "a.png"}
    row[field] = f"<image>\n{row[field]}"
    record = parse(id=1, **row)
    assert (record.question, record.instruction) == ("Which?", "Say it.")


def fails(message: str, **row: Any) -> None:
    with pytest.raises(ValueError, match=r"t\.json, index 3") as caught:
        parse(**row)
    assert str(caught.value) == f"t.json, index 3{message}"


@pytest.mark.parametrize(("row", "got"), [({}, "nothing"), ({"id": None}, "None"), ({"id": True}, "True")])
def test_an_id_is_required(row: dict[str, Any], got: str) -> None:
    fix = "give every record a unique 'id' (or 'question_id'), a string or a whole number"
    fails(f": field 'id': got {got}; {fix}", text="a", answer="b", **row)


def test_a_training_row_without_an_id_has_its_position() -> None:
    def identity(**row: Any) -> str:
        return parse_record({"text": "a", "answer": "b", **row}, place="t.json, index 17", position=17).id

    assert identity() == "17"
    assert identity(id="q1") == "q1"
    assert identity(question_id=5) == "5"
    with pytest.raises(ValueError, match="field 'id': got None; give every record a unique 'id'"):
        identity(id=None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"txt": "a", "answer": "b"},
            "got the fields 'id', 'txt', 'answer'; a record has 'conversations' (LLaVA training), 'text' and "
            "'answer' (LLaVA test), or 'answers' (our own)",
        ),
        ({"text": 5, "answer": "b"}, "field 'text': got 5; it must be a string"),
        ({"text": " ", "answer": "b"}, "field 'text': got ' '; it must not be blank"),
        (
            {"text": "a"},
            "field 'answer': got nothing; it must be a string or a list of strings; put numbers in quotes",
        ),
        (
            {"text": "a", "answer": 3},
            "field 'answer': got 3; it must be a string or a list of strings; put numbers in quotes",
        ),
        ({"text": "a", "answer": ""}, "field 'answer': got ''; it must not be blank"),
        (
            {"text": "a", "answer": []},
            "field 'answer': got []; it must be a list of strings with at least one entry",
        ),
        (
            {"text": "a", "answer": ["x", 3]},
            "field 'answer[1]': got 3; it must be a string; put numbers in quotes",
        ),
        (
            {"text": "a", "answer": ["", " "]},
            "field 'answer': got ['', ' ']; at least one answer must not be blank",
        ),
        (
            {"instruction": "Say.", "answers": "x", "choices": []},
            "field 'choices': got []; it must be a list of strings with at least one entry",
        ),
        ({"answers": ["x"], "instruction": None}, "field 'instruction': got None; it must be a string"),
        (
            {"text": "a", "answer_bbox": [0.1, 0.2, 0.3]},
            "field 'answer_bbox': got [0.1, 0.2, 0.3]; it must be four numbers [x1, y1, x2, y2], or a string "
            "of them",
        ),
        (
            {"text": "a", "answer_bbox": [0.1, 0.2, "0.3", True]},
            "field 'answer_bbox': got [0.1, 0.2, '0.3', True]; it must be four numbers [x1, y1, x2, y2], "
            "or a string of them",
        ),
        (
            {"text": "a", "label": 1},
            "field 'label': got 1; it must be a string or a list of strings; put numbers in quotes",
        ),
        (
            {"text": "a", "answer": "b", "image": ["a.png"]},
            "field 'image': got ['a.png']; it must be the path of one image under the image root; "
            "leave it out without one",
        ),
        (
            {"text": "a\ud800", "answer": "b"},
            "field 'text': got \"'a\\\\ud800'\"; remove the lone surrogate (half of a character) "
            "from the text",
        ),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_the_fix(row: dict[str, Any], message: str) -> None:
    fails(f" (id 'q'): {message}", id="q", **row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "<image>\nWhat?"},
            "field 'text': got '<image>\\nWhat?'; it has <image> but the record has no 'image'",
        ),
        (
            {"text": "Is <image> red?", "image": "a.png"},
            "field 'text': got 'Is <image> red?'; <image> may stand once, at the start or the end "
            "of the text",
        ),
        (
            {"text": "<image>\nRed?\n<image>", "image": "a.png"},
            "field 'text': got '<image>\\nRed?\\n<image>'; <image> may stand once, at the start or the "
            "end of the text",
        ),
        (
            {"text": "<image>", "image": "a.png"},
            "field 'text': got '<image>'; it must say something besides the image",
        ),
        (
            {"text": "What?", "answer": "<image>"},
            "field 'answer': got '<image>'; an answer cannot contain <image>; remove it",
        ),
    ],
)
def test_a_misplaced_image_placeholder_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="index 3") as caught:
        parse(**{"id": "q", "answer": "b"} | row)
    assert str(caught.value) == f"t.json, index 3 (id 'q'): {message}"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "field 'conversations': got []; it must be a list of pairs of turns, human then gpt"),
        (
            [("gpt", "a"), ("human", "b")],
            "field 'conversations[0].from': got 'gpt'; it must be 'human': turns alternate human, gpt and "
            "start with human",
        ),
        (
            [("human", "a"), ("gpt", "b"), ("human", "c"), ("human", "d")],
            "field 'conversations[3].from': got 'human'; it must be 'gpt': turns alternate human, gpt and "
            "start with human",
        ),
        (
            [("human", "a"), ("gpt", " ")],
            "field 'conversations[1].value': got ' '; it must be a string that is not blank",
        ),
        (
            [("human", "a"), ("gpt", "b"), ("human", "<image>\nc"), ("gpt", "d")],
            "field 'conversations[2].value': got '<image>\\nc'; the image is shown in the first turn; put "
            "<image> there, or leave it out",
        ),
    ],
)
def test_a_bad_conversation_is_refused_with_the_turn(turns: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match="index 3") as caught:
        train(*turns, image="a.png")
    assert str(caught.value) == f"t.json, index 3 (id 'q1'): {message}"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([PAIR[0]], "got [{'from': 'human', 'value': '<image>\\nWhat is it?'}]; it must be a list of pairs"),
        ([PAIR[0], "x"], "field 'conversations[1]': got 'x'; a turn is an object with 'from' and 'value'"),
        ([PAIR[0], {"value": "x"}], "field 'conversations[1].from': got 'nothing'; it must be 'gpt'"),
    ],
)
def test_turns_must_be_pairs_of_objects(turns: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match="index 3") as caught:
        parse(id="q1", image="a.png", conversations=turns)
    assert message in str(caught.value)
