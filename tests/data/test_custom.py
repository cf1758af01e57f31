from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from lit_cvit.data.benchmarks import load_benchmark
from lit_cvit.data.benchmarks.custom import custom
from lit_cvit.data.images import FileImage
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import AnswerFormat, Sample, Task
from lit_cvit.data.validation.check import ProblemKind, check_task

WORD = "Use one word."
LONG = "Look closely. Use one word."


def conversation(number: int, *turns: str, image: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"r{number}", "image": image} if image else {"id": f"r{number}"}
    pairs = zip(("human", "gpt") * len(turns), turns, strict=False)
    return row | {"conversations": [{"from": who, "value": value} for who, value in pairs]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "img" / "a.png")
    train = [
        conversation(0, f"<image>\nColour?\n{WORD}", "red", image="a.png"),
        conversation(1, f"Colour? {LONG}", "blue"),
        conversation(2, "Hello", "Hi", f"Sky?{WORD}\n", "blue"),
    ]
    (tmp_path / "train.json").write_text(json.dumps(train))
    test = {"question_id": 5, "image": "a.png", "text": f"Colour?\n{WORD}", "answer": ["red", "crimson"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(test) + "\n")
    return tmp_path


def settings(**change: Any) -> dict[str, Any]:
    """One good task; a value of None leaves the key out."""
    good = {
        "name": "Colour",
        "train": "train.json",
        "test": "test.jsonl",
        "image_root": "img",
        "answer_format": "short",
        "scorer": "exact",
        "instruction": [WORD, LONG],
    }
    return {key: value for key, value in (good | change).items() if value is not None}


def write(folder: Path, *tasks: Any, **top: Any) -> Path:
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({"tasks": list(tasks)} | top, sort_keys=False))
    return path


def train_of(folder: Path, **change: Any) -> RecordSource:
    source = custom(write(folder, settings(**change))).stream[0].train
    assert isinstance(source, RecordSource)
    return source


def error_of(path: Path) -> str:
    with pytest.raises(ValueError, match="my.yaml") as caught:
        custom(path)
    return str(caught.value).replace(str(path.parent), "DIR")


def test_a_task_has_what_its_settings_say(folder: Path) -> None:
    benchmark = custom(write(folder, settings(max_new_tokens=16), name="mine"))
    (task,) = benchmark.stream
    assert (benchmark.name, benchmark.downstream) == ("mine", ())
    assert (task.name, task.answer_format, task.scorer.name) == ("Colour", AnswerFormat.SHORT, "exact")
    assert (task.instructions, task.decoding_budget, task.few_shot) == ((WORD, LONG), 16, False)
    assert task.train is not None
    assert (len(task.train), len(task.test)) == (3, 1)


def test_a_task_may_have_further_scorers(folder: Path) -> None:
    (task,) = custom(write(folder, settings(also=["bleu_4", "rouge_l"]))).stream
    assert [each.name for each in task.also] == ["bleu_4", "rouge_l"]


def test_a_training_sample_keeps_text_and_separates_the_instruction(folder: Path) -> None:
    root, place = folder / "img", f"{folder / 'train.json'}, index 0 (id 'r0')"
    sample = train_of(folder).sample(0)
    assert sample == Sample(
        id="r0",
        task="Colour",
        question="Colour?",
        instruction=WORD,
        answers=("red",),
        image=FileImage(root, "a.png"),
        text=f"Colour?\n{WORD}",
    )
    assert isinstance(sample.image, FileImage)
    assert sample.image.record == place
    assert sample.image.open().getpixel((0, 0)) == (255, 0, 0)


def test_the_longest_instruction_that_fits_is_taken(folder: Path) -> None:
    sample = train_of(folder).sample(1)
    assert (sample.question, sample.instruction, sample.user_text) == ("Colour?", LONG, f"Colour? {LONG}")


def test_an_instruction_may_stand_in_front_with_a_colon(folder: Path) -> None:
    rows = [conversation(n, f"{text} the left dog", "red") for n, text in enumerate(("Find:", "Find now:"))]
    (folder / "train.json").write_text(json.dumps(rows))
    source = train_of(folder, instruction=["Find", "Find now"])
    assert [(source.sample(n).question, source.sample(n).instruction) for n in (0, 1)] == [
        ("the left dog", "Find"),
        ("the left dog", "Find now"),
    ]
    assert source.sample(1).user_text == "Find now: the left dog"


def test_earlier_turns_are_history_and_the_last_turn_is_kept_as_it_is(folder: Path) -> None:
    sample = train_of(folder).sample(2)
    assert sample.history == (("Hello", "Hi"),)
    assert (sample.question, sample.instruction, sample.text) == ("Sky?", WORD, f"Sky?{WORD}\n")


def test_a_test_sample_has_every_reference(folder: Path) -> None:
    sample = custom(write(folder, settings())).stream[0].test.sample(0)
    assert (sample.id, sample.answers, sample.question) == ("5", ("red", "crimson"), "Colour?")


def test_our_own_records_are_read_and_joined_by_a_line_break(folder: Path) -> None:
    row = {
        "id": 1,
        "question": "Colour?",
        "instruction": WORD,
        "answers": ["red"],
        "choices": ["red", "blue"],
    }
    (folder / "own.jsonl").write_text(json.dumps(row))
    sample = train_of(folder, train="own.jsonl").sample(0)
    assert (sample.question, sample.instruction, sample.text) == ("Colour?", WORD, "")
    assert (sample.user_text, sample.choices) == (f"Colour?\n{WORD}", ("red", "blue"))


def test_instruction_none_leaves_texts_whole(folder: Path) -> None:
    source = train_of(folder, instruction="none")
    assert [(source.sample(i).question, source.sample(i).instruction) for i in (0, 2)] == [
        (f"Colour?\n{WORD}", ""),
        (f"Sky?{WORD}", ""),
    ]


def test_a_limit_takes_the_first_records_of_each_split(folder: Path) -> None:
    source = train_of(folder, limit=2)
    assert [source.sample(index).id for index in range(len(source))] == ["r0", "r1"]
    with pytest.raises(IndexError, match=r"train\.json has samples 0 to 1, got 2"):
        source.sample(2)
    assert len(train_of(folder, limit=9)) == 3


def without_ids(folder: Path, *, keep: dict[int, str]) -> Task:
    """The task after its three training records lost their ids, but for some that are given."""
    rows = [conversation(number, WORD, f"answer {number}") for number in range(3)]
    for number, row in enumerate(rows):
        del row["id"]
        if number in keep:
            row["id"] = keep[number]
    (folder / "train.json").write_text(json.dumps(rows))
    return custom(write(folder, settings())).stream[0]


def test_training_records_without_ids_have_their_positions_in_the_file(folder: Path) -> None:
    task = without_ids(folder, keep={1: "mine"})
    assert task.train is not None
    assert [task.train.sample(index).id for index in range(3)] == ["0", "mine", "2"]
    assert check_task(task).counts[ProblemKind.DUPLICATE_ID] == 0


def test_training_records_may_share_an_id(folder: Path) -> None:
    task = without_ids(folder, keep={0: "2", 1: "2"})
    assert task.train is not None
    assert [task.train.sample(index).id for index in range(3)] == ["2", "2", "2"]
    assert check_task(task).ok


def test_test_records_need_their_ids(folder: Path) -> None:
    (folder / "test.jsonl").write_text(json.dumps({"text": WORD, "answer": "red"}))
    with pytest.raises(ValueError, match="line 1: field 'id': got nothing; give every record a unique 'id'"):
        custom(write(folder, settings())).stream[0].test.sample(0)


def test_downstream_tasks_stand_apart(folder: Path) -> None:
    zero = settings(name="Zero", train=None, downstream="zero_shot")
    few = settings(name="Few", downstream="few_shot")
    benchmark = custom(write(folder, settings(), zero, few))
    assert [task.name for task in benchmark.stream] == ["Colour"]
    assert [(t.name, t.train is None, t.few_shot) for t in benchmark.downstream] == [
        ("Zero", True, False),
        ("Few", False, True),
    ]
    assert benchmark.name == "my"


def test_a_training_file_of_a_zero_shot_task_is_ignored_with_a_warning(folder: Path) -> None:
    path = write(folder, settings(), settings(name="Zero", downstream="zero_shot"))
    with pytest.warns(UserWarning, match=r"task 2 \('Zero'\): 'train' is ignored, a zero_shot task is only"):
        benchmark = custom(path)
    assert benchmark.downstream[0].train is None


def test_a_source_survives_pickling(folder: Path) -> None:
    source = train_of(folder)
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.sample(index) for index in range(3)] == [source.sample(index) for index in range(3)]
    assert copy.digest() == source.digest()


def test_the_digest_follows_records_and_settings_but_not_the_place(folder: Path, tmp_path: Path) -> None:
    base = train_of(folder).digest()
    changes: list[dict[str, Any]] = [{"limit": 2}, {"instruction": "none"}, {"name": "Other"}]
    assert len({base, *(train_of(folder, **change).digest() for change in changes)}) == 4
    (folder / "moved.json").write_bytes((folder / "train.json").read_bytes())
    assert train_of(folder, train="moved.json").digest() == base


def test_a_text_without_its_instruction_is_refused(folder: Path) -> None:
    (folder / "train.json").write_text(json.dumps([conversation(0, "Colour?", "red")]))
    with pytest.raises(ValueError, match="index 0") as caught:
        train_of(folder).sample(0)
    assert str(caught.value) == (
        f"{folder / 'train.json'}, index 0 (id 'r0'): the user's last text: got 'Colour?'; it must end with "
        f"an instruction of the task, or start with one and a colon ('{WORD}'; '{LONG}'); correct the record "
        "or 'instruction' in the YAML file"
    )


def test_an_instruction_that_is_not_listed_is_refused(folder: Path) -> None:
    (folder / "own.jsonl").write_text(json.dumps({"id": 1, "instruction": "Shout.", "answers": ["red"]}))
    with pytest.raises(ValueError, match="line 1") as caught:
        train_of(folder, train="own.jsonl", instruction=WORD).sample(0)
    assert str(caught.value) == (
        f"{folder / 'own.jsonl'}, line 1 (id '1'): field 'instruction': got 'Shout.'; it must be one of the "
        f"task's instructions ('{WORD}'); correct the record or 'instruction' in the YAML file"
    )


def test_an_image_without_an_image_root_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="index 0") as caught:
        train_of(folder, image_root=None).sample(0)
    assert str(caught.value) == (
        f"{folder / 'train.json'}, index 0 (id 'r0'): field 'image': got 'a.png'; task 'Colour' has no "
        "'image_root'; add it to the task in the YAML file"
    )


REQUIRED = "required: name, test, answer_format, scorer, instruction"
KEYS = f"{REQUIRED[10:]}, also, train, image_root, max_new_tokens, limit, downstream"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imageroot": "img"}, f"unknown key 'imageroot'. Did you mean 'image_root'? Known: {KEYS}"),
        ({"zzz": 1}, f"unknown key 'zzz'. Known: {KEYS}"),
        ({"scorer": None}, f"the key 'scorer' is missing; {REQUIRED}"),
        (
            {"instruction": None},
            f"the key 'instruction' is missing; {REQUIRED}; say `instruction: none` for texts without one",
        ),
        (
            {"train": None},
            "'train': got nothing; it is needed for every task that is not 'downstream: zero_shot'",
        ),
        ({"scorer": "exakt"}, "'scorer': unknown scorer 'exakt'. Did you mean 'exact'? Known: "),
        ({"scorer": 3}, "'scorer': got 3; it must be a string that is not blank; put it in quotes"),
        ({"also": ["bleu4"]}, "'also': unknown scorer 'bleu4'. Did you mean 'bleu_4'? Known: "),
        ({"also": "bleu_4"}, "'also': got 'bleu_4'; it must be a list of scorers"),
        ({"also": [4]}, "'also': got [4]; it must be a list of scorers"),
        (
            {"also": ["exact"]},
            "'also': got ['exact']; every scorer may be listed once, and not the task's own",
        ),
        (
            {"also": ["letter", "letter"]},
            "'also': got ['letter', 'letter']; every scorer may be listed once, and not the task's own",
        ),
        (
            {"answer_format": "Short"},
            "unknown answer_format 'Short'. Did you mean 'short'? Known: letter, short, caption, box",
        ),
        ({"answer_format": 3}, "unknown answer_format 3. Known: letter, short, caption, box"),
        ({"downstream": True}, "unknown downstream True. Known: zero_shot, few_shot"),
        ({"limit": 0}, "'limit': got 0; it must be a whole number of at least 1"),
        ({"limit": True}, "'limit': got True; it must be a whole number of at least 1"),
        ({"max_new_tokens": "16"}, "'max_new_tokens': got '16'; it must be a whole number of at least 1"),
        (
            {"image_root": "imgs"},
            "'image_root': got 'imgs'; there is no folder DIR/imgs; paths are relative to ",
        ),
        ({"train": "x.json"}, "'train': DIR/x.json: no such file; a record file is a JSON list of objects"),
        ({"train": ["train.json"]}, "'train': got ['train.json']; it must be a string that is not blank"),
        ({"instruction": []}, "'instruction': got []; it must be a string, a list of strings, or `none`"),
        (
            {"instruction": False},
            "'instruction': got False; it must be a string, a list of strings, or `none`",
        ),
        (
            {"instruction": [1]},
            "'instruction': got [1]; every instruction must be a string that is not blank",
        ),
        (
            {"instruction": ["a", "a "]},
            "'instruction': got ['a', 'a ']; every instruction may be listed once",
        ),
    ],
)
def test_a_bad_setting_is_refused_with_task_key_value_and_fix(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    error = error_of(write(folder, settings(**change)))
    assert error.startswith(f"DIR/my.yaml, task 1 ('Colour'): {message}")


@pytest.mark.parametrize("name", ["a/b", "..", "", "Two words", "Stra\u00dfe", "\u6807\u5fd7", "\u0663"])
def test_a_task_name_that_is_no_file_name_is_refused(folder: Path, name: str) -> None:
    assert f"DIR/my.yaml, task 1 ({name!r}): 'name': got {name!r}; " in error_of(
        write(folder, settings(name=name))
    )


def test_two_tasks_cannot_share_a_name(folder: Path) -> None:
    error = error_of(write(folder, settings(), settings(name="colour")))
    assert error == "DIR/my.yaml, task 2: name 'colour' is taken by an earlier task; names must differ"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: []", ": unknown key 'task'. Did you mean 'tasks'? Known: name, tasks"),
        ("name: x", ": the key 'tasks' is missing; required: tasks"),
        ("tasks: {}", ": 'tasks': got {}; it must be a list with at least one task"),
        ("tasks: []", ": 'tasks': got []; it must be a list with at least one task"),
        ("tasks: [a]", f", task 1: got 'a'; a task is a mapping of keys ({KEYS})"),
        ("[]", ": got []; the file must be a mapping with the key 'tasks'"),
        ("", ": got None; the file must be a mapping with the key 'tasks'"),
        ("tasks: [", ": broken YAML, line 1, column 9: "),
        ("a: 1\na: 2", ": broken YAML, line 2, column 1: the key 'a' stands twice"),
        ("a: \0", ": broken YAML: unacceptable character #x0000"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.yaml").write_text(text)
    assert error_of(tmp_path / "my.yaml").startswith(f"DIR/my.yaml{message}")


def test_a_stream_needs_a_task(folder: Path) -> None:
    path = write(folder, settings(train=None, downstream="zero_shot"))
    assert error_of(path) == "DIR/my.yaml: every task is downstream; at least one must be in the stream"


def test_a_missing_file_and_a_wrong_encoding_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    assert error_of(path) == "DIR/my.yaml: no such file; `custom` needs a YAML file that lists tasks"
    path.write_bytes(b"name: \xe9")
    assert error_of(path) == "DIR/my.yaml: not UTF-8 at byte 6; save it as UTF-8"


def test_a_yaml_file_takes_no_settings_not_even_another_path(folder: Path) -> None:
    path = write(folder, settings())
    with pytest.raises(ValueError, match=r"my\.yaml: got path; a \.yaml file takes none"):
        load_benchmark(str(path), {"path": "other.yaml"})
