"""What a record says: one row of a record file, in any of the four forms that are read.

* LLaVA training rows: `id`, `image`?, `conversations` [{from: human | gpt, value}, ...].
* LLaVA test rows: `question_id`, `image`?, `text`, and the answer as `answer` (a string or a list of
  strings), `answer_bbox` (a box, as a string or a list of four numbers) or `label` (a string).
* our own rows: `id`, `image`?, `question`?, `instruction`?, `answers`, `choices`?.
* an image of a COCO caption file (`images`: `id`, `file_name`; `annotations`: `image_id`, `caption`): its
  captions are the answers of one record, in the order of the file; the first is what is trained on.

The form is read off the keys of each row, so any form can stand in either split. What is done about further
keys says `lit_cvit.data.records.keys`. A row without an instruction (captions, our own form) is given one of
the task's instructions; see `lit_cvit.data.records.source`.

A row of a training file may lack its id, as rows of published training files do: its position in the file,
counted from 0, is its id then ("17"). Predictions are kept by id, so a row of a test file must have one.

The image stands at the start of the first turn, whether the text says so or not: `<image>` at the start or
the end of a user's turn is dropped, and a record with `image` whose text has no `<image>`, as test rows are
published, is the same record. `<image>` without an `image`, twice, in the middle of a text or in a later turn
is an error, and so is a record of more than one image.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lit_cvit.data.errors import RecordError
from lit_cvit.data.records.keys import NOTES, advice, is_void, turn_advice

IMAGE_PLACEHOLDER = "<image>"

# Where a test row has its answer; the first that is there counts.
_TEST_ANSWERS = ("answer", "answer_bbox", "label")
_IDS = ("id", "question_id")
_ALL_FORMS = (*_IDS, "image", "choices")
_CONVERSATION = frozenset((*_ALL_FORMS, "conversations"))
_TESTED = frozenset((*_ALL_FORMS, "text", *_TEST_ANSWERS))
_OWN = frozenset((*_ALL_FORMS, "question", "instruction", "answers"))
_ABSENT = object()
_PLACEHOLDER_AT_AN_END = re.compile(r"\A\s*<image>\s*|\s*<image>\s*\Z")
# What stands for an image, a video or a sound elsewhere, and would be read as letters; inside a text they may
# be its subject, as in a question about HTML.
_OTHER = r"<(?:image|img|video|audio)s?[ _-]?\d*>"
_OTHER_PLACEHOLDER = re.compile(rf"\A\s*{_OTHER}|{_OTHER}\s*\Z|<img>[^<>]*\.\w+</img>", re.IGNORECASE)


@dataclass(frozen=True)
class Record:
    """One row, checked.

    Attributes:
        id: `id` or `question_id`, as a string; the position of a training row that has neither.
        answers: Reference answers, at least one that is not blank; the first is the training target.
        text: The user's last turn without the image placeholder; empty for a row of our own form.
        question: The question of a row of our own form; may be empty.
        instruction: The instruction of a row of our own form; None where it is still part of `text`, or
            where the row has neither (an image with captions, our own row without one).
        image: Path of the image as the row gives it; empty for a text-only row.
        choices: Options of a multiple-choice question, in letter order.
        history: Earlier (user text, answer) pairs of a conversation of several turns.
        unread: Keys of the row that have no meaning here, and are none that published files note.
    """

    id: str
    answers: tuple[str, ...]
    text: str = ""
    question: str = ""
    instruction: str | None = None
    image: str = ""
    choices: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()


def parse_record(row: Mapping[str, object], *, place: str, position: int | None = None) -> Record:
    """Check one row and turn it into a record.

    Args:
        row: The decoded JSON object.
        place: File and line or index, for messages.
        position: The id of a row that has none; None makes that an error.

    Raises:
        RecordError: the row is in none of the known forms, or a field is missing, of the wrong type, blank,
            inconsistent, or a key that is refused; names place, id where known, field, the value got, and
            the fix.
    """
    image, annotations = row.get("image"), row.get("annotations")
    if isinstance(image, dict) and isinstance(annotations, list):
        return _captioned(image, annotations, place)
    reader = _Row(row, place)
    identity = reader.identity(position)
    reader.place = f"{place} (id {identity!r})"
    form = _CONVERSATION if "conversations" in row else _TESTED if "text" in row else _OWN
    if form is _OWN and not {"instruction", "answers"} & row.keys():
        raise _unknown_form(reader)
    unread = reader.unread(form)
    path, choices = reader.image(), reader.texts("choices") if "choices" in row else ()
    of_all: dict[str, Any] = {"id": identity, "image": path, "choices": choices, "unread": unread}
    if form is _CONVERSATION:
        turns, of_turns = _turns(reader)
        history, (text, answer) = tuple(turns[:-1]), turns[-1]
        of_all["unread"] = (*unread, *of_turns)
        return Record(**of_all, answers=(answer,), text=text, history=history)
    if form is _TESTED:
        text = reader.user_text("text", reader.text("text"))
        field = next((field for field in _TEST_ANSWERS if field in row), _TEST_ANSWERS[0])
        answers = (reader.box(field),) if field == "answer_bbox" else reader.answers(field)
        return Record(**of_all, answers=answers, text=text)
    question = reader.text("question", blank=True) if "question" in row else ""
    question = reader.user_text("question", question) if question.strip() else ""
    instruction = None
    if "instruction" in row:
        instruction = reader.user_text("instruction", reader.text("instruction"))
    return Record(**of_all, answers=reader.answers("answers"), question=question, instruction=instruction)


def _unknown_form(reader: _Row) -> RecordError:
    keys = ", ".join(map(repr, reader.row)) or "none"
    return RecordError.of(
        f"got the fields {keys}",
        place=reader.place,
        cause="unknown form",
        fix="a record has 'conversations' (LLaVA training), 'text' and 'answer' (LLaVA test), or 'answers' "
        "(our own)",
    )


def _captioned(image: Mapping[str, object], annotations: Sequence[object], place: str) -> Record:
    """An image of a COCO caption file, with its annotations."""
    reader = _Row(image, place)
    identity = reader.identity(None)
    reader.place = f"{place} (id {identity!r})"
    path = reader.image("file_name")
    if not path:
        reader.fail("file_name", "it must be the path of the image under the image root")
    if not annotations:
        reader.fail("caption", "the image has no annotation with a caption; add one, or remove it")
    captions = []
    for position, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            reader.fail(f"annotations[{position}]", "it must be an object with a 'caption'", annotation)
        caption = _Row(annotation, reader.place).text("caption").strip()
        reader.refuse_placeholder("caption", caption)
        captions.append(caption)
    return Record(identity, tuple(captions), image=path)


class _Row:
    """Typed access to the fields of one row; `place` is what messages start with."""

    def __init__(self, row: Mapping[str, object], place: str) -> None:
        self.row = row
        self.place = place
        self.has_image = False
        self.num_placeholders = 0

    def fail(self, field: str, fix: str, got: object = _ABSENT) -> NoReturn:
        if got is _ABSENT:
            got = self.row.get(field, _ABSENT)
        shown = "nothing" if got is _ABSENT else reprlib.repr(got)
        raise RecordError.of(f"got {shown}", place=self.place, field=field, fix=fix)

    def identity(self, position: int | None) -> str:
        if position is not None and not {"id", "question_id"} & self.row.keys():
            return str(position)
        field = "question_id" if "id" not in self.row and "question_id" in self.row else "id"
        value = self.row.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.fail(field, "give every record a unique 'id' (or 'question_id'), a string or a whole number")
        if not str(value).strip():
            self.fail(field, "an id must not be blank")
        return self.clean(field, str(value))

    def unread(self, form: frozenset[str]) -> tuple[str, ...]:
        """The keys that are not read in records of a form; one that must not stand there is an error."""
        if form.issuperset(self.row):
            return ()
        others = [key for key in self.row if key not in form]
        present = {key for key in form if key in self.row}
        for alike in (_IDS, _TEST_ANSWERS):
            if present.intersection(alike):
                present.update(alike)
        for key in others:
            if fix := advice(key, self.row[key], form, present):
                self.fail(key, fix)
        return tuple(key for key in others if key not in NOTES and not is_void(key, self.row[key]))

    def clean(self, field: str, value: str) -> str:
        # JSON can spell half a surrogate pair, which no tokenizer and no file can take.
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self.fail(field, "remove the lone surrogate (half of a character) from the text", ascii(value))
        return value

    def text(self, field: str, *, blank: bool = False) -> str:
        value = self.row.get(field)
        if not isinstance(value, str):
            self.fail(field, "it must be a string")
        if not blank and not value.strip():
            self.fail(field, "it must not be blank")
        return self.clean(field, value)

    def texts(self, field: str) -> tuple[str, ...]:
        value = self.row.get(field)
        if not isinstance(value, list) or not value:
            self.fail(field, "it must be a list of strings with at least one entry")
        for position, entry in enumerate(value):
            if not isinstance(entry, str):
                self.fail(f"{field}[{position}]", "it must be a string; put numbers in quotes", entry)
            self.clean(f"{field}[{position}]", entry)
        return tuple(value)

    def answers(self, field: str) -> tuple[str, ...]:
        value = self.row.get(field, _ABSENT)
        if not isinstance(value, str | list):
            self.fail(field, "it must be a string or a list of strings; put numbers in quotes")
        answers = (self.text(field),) if isinstance(value, str) else self.texts(field)
        if not any(answer.strip() for answer in answers):
            self.fail(field, "at least one answer must not be blank")
        for answer in answers:
            self.refuse_placeholder(field, answer)
        return answers

    def box(self, field: str) -> str:
        value = self.row[field]
        if not isinstance(value, list):
            return self.text(field)
        if len(value) != 4 or not all(type(edge) in (int, float) for edge in value):
            self.fail(field, "it must be four numbers [x1, y1, x2, y2], or a string of them")
        return str(value)

    def image(self, field: str = "image") -> str:
        value = self.row.get(field)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.strip():
            self.fail(
                field, "it must be the path of one image under the image root; leave it out without one"
            )
        self.has_image = True
        return self.clean(field, value)

    def user_text(self, field: str, value: str) -> str:
        """Drop one image placeholder from an end of a user's turn; anywhere else it is an error."""
        stripped = _PLACEHOLDER_AT_AN_END.sub("", value, count=1)
        if stripped != value:
            self.num_placeholders += 1
            if not self.has_image:
                self.fail(field, f"it has {IMAGE_PLACEHOLDER} but the record has no 'image'", value)
            if self.num_placeholders > 1:
                self.fail(field, f"a record may have {IMAGE_PLACEHOLDER} once", value)
        if IMAGE_PLACEHOLDER in stripped:
            self.fail(
                field, f"{IMAGE_PLACEHOLDER} may stand once, at the start or the end of the text", value
            )
        if found := _OTHER_PLACEHOLDER.search(stripped):
            fix = (
                f"{found[0].strip()} is no placeholder; only {IMAGE_PLACEHOLDER} is, for the record's 'image'"
            )
            self.fail(field, fix, value)
        if not stripped.strip():
            self.fail(field, "it must say something besides the image", value)
        return stripped

    def refuse_placeholder(self, field: str, answer: str) -> None:
        if IMAGE_PLACEHOLDER in answer:
            self.fail(field, f"an answer cannot contain {IMAGE_PLACEHOLDER}; remove it", answer)


def _turns(reader: _Row) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Pairs of user text and answer, and the keys of turns that are not read."""
    turns = reader.row["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        reader.fail("conversations", "it must be a list of pairs of turns, human then gpt")
    texts: list[str] = []
    unread: dict[str, None] = {}
    for position, turn in enumerate(turns):
        name = f"conversations[{position}]"
        if not isinstance(turn, dict):
            reader.fail(name, "a turn is an object with 'from' and 'value'", turn)
        speaker = ("human", "gpt")[position % 2]
        if turn.get("from") != speaker:
            got = turn.get("from", _ABSENT)
            fix = f"it must be {speaker!r}: turns alternate human, gpt and start with human"
            reader.fail(f"{name}.from", fix, "nothing" if got is _ABSENT else got)
        if len(turn) > 2:
            for key, fix in turn_advice(turn):
                if fix:
                    reader.fail(f"{name}.{key}", fix, turn[key])
                unread[f"conversations[].{key}"] = None
        value = turn.get("value")
        if not isinstance(value, str) or not value.strip():
            reader.fail(f"{name}.value", "it must be a string that is not blank", value)
        reader.clean(f"{name}.value", value)
        if speaker == "human":
            if position and IMAGE_PLACEHOLDER in value:
                fix = f"the image is shown in the first turn; put {IMAGE_PLACEHOLDER} there, or leave it out"
                reader.fail(f"{name}.value", fix, value)
            value = reader.user_text(f"{name}.value", value)
        else:
            reader.refuse_placeholder(f"{name}.value", value)
        texts.append(value)
    return list(zip(texts[::2], texts[1::2], strict=True)), tuple(unread)
