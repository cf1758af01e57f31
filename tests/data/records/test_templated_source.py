"""Instructions added to prepared records, and draws of records that are the same every time."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prepared_kit import samples, write_jsonl

from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.records.templated import DrawnRecords, TemplatedSource
from lit_cvit.data.tasks import Sample

STRINGS = ("Say one word.", "Use a word.", "Be brief.")


def rows_of(count: int, **change: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "question": f"Colour {n}?", "answers": ["red"], **change} for n in range(count)]


def records(folder: Path, rows: list[dict[str, Any]]) -> RecordSource:
    return RecordSource(write_jsonl(folder / "train.jsonl", rows), task="Colour")


def source(folder: Path, *, count: int = 30, **change: Any) -> TemplatedSource:
    settings: dict[str, Any] = {"task": "Colour", "split": "train", "seed": 0, "instructions": STRINGS}
    return TemplatedSource(records(folder, rows_of(count)), **settings | change)


def shown(source: TemplatedSource, epoch: int = 0) -> dict[str, str]:
    return {sample.id: sample.instruction for sample in samples(source, epoch)}


# -- instructions --------------------------------------------------------------------------------------------


def test_a_record_gets_its_instruction_below_its_question(tmp_path: Path) -> None:
    sample = source(tmp_path, instructions=STRINGS[:1]).sample(3)
    assert sample == Sample("r3", "Colour", "Colour 3?", "Say one word.", ("red",))
    assert sample.user_text == "Colour 3?\nSay one word."


def test_a_layout_and_a_question_of_the_benchmark_take_the_place_of_the_records_own(tmp_path: Path) -> None:
    around = source(tmp_path, instructions=STRINGS[:1], layout="{instruction}: {question}").sample(3)
    assert around.user_text == "Say one word.: Colour 3?"
    assert (around.question, around.instruction) == ("Colour 3?", "Say one word.")
    asked = source(tmp_path, instructions=STRINGS[:1], question="What is it?").sample(3)
    assert asked.user_text == "What is it?\nSay one word."
    assert source(tmp_path, instructions=STRINGS[:1], question="").sample(3).user_text == "Say one word."


def test_records_without_options_may_have_instructions_of_their_own(tmp_path: Path) -> None:
    rows = [*rows_of(9), *({**row, "id": f"c{n}", "choices": ["a", "b"]} for n, row in enumerate(rows_of(9)))]
    both = TemplatedSource(
        records(tmp_path, rows), "T", "test", 0, STRINGS[:1], open_instructions=STRINGS[1:]
    )
    by_kind = {sample.id[0]: set[str]() for sample in samples(both)}
    for sample in samples(both):
        by_kind[sample.id[0]].add(sample.instruction)
    assert by_kind == {"r": set(STRINGS[1:]), "c": set(STRINGS[:1])}


def test_braces_in_a_question_stay(tmp_path: Path) -> None:
    given = records(tmp_path, rows_of(1, question="What is {x}?"))
    made = TemplatedSource(given, "T", "test", 0, ("Say {y}.",), layout="{instruction} {question}")
    assert made.sample(0).text == "Say {y}. What is {x}?"


def test_every_string_is_drawn_about_equally_often(tmp_path: Path) -> None:
    drawn = Counter(shown(source(tmp_path, count=600)).values())
    assert set(drawn) == set(STRINGS)
    assert min(drawn.values()) > 150


def test_the_instruction_follows_seed_split_epoch_and_id_alone(tmp_path: Path) -> None:
    first = shown(source(tmp_path))
    assert shown(source(tmp_path)) == first
    assert shown(source(tmp_path), epoch=1) != first
    assert shown(source(tmp_path, seed=1)) != first
    assert shown(source(tmp_path, split="test")) != first
    backwards = records(tmp_path / "other", rows_of(30)[::-1])
    assert shown(dataclasses.replace(source(tmp_path), records=backwards)) == first


def test_only_the_instruction_changes_with_the_epoch(tmp_path: Path) -> None:
    several = source(tmp_path)
    for now, later in zip(samples(several, 0), samples(several, 7), strict=True):
        assert dataclasses.replace(later, instruction=now.instruction) == now


def test_a_record_with_an_instruction_of_its_own_is_refused_with_its_place(tmp_path: Path) -> None:
    row = {"question_id": 7, "text": "Colour?\nShout.", "answer": "red"}
    made = TemplatedSource(records(tmp_path, [row]), "Colour", "test", 0, STRINGS)
    with pytest.raises(ValueError, match="line 1") as caught:
        made.sample(0)
    assert str(caught.value) == (
        f"{tmp_path / 'train.jsonl'}, line 1 (id '7'): it has an instruction in its text; prepared records "
        "have 'question' and 'answers', others are read with the setting 'files'"
    )


def test_the_digest_follows_all_that_decides_the_samples(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"split": "test"},
        {"task": "Other"},
        {"instructions": STRINGS[:2]},
        {"question": ""},
        {"layout": "{instruction} {question}"},
        {"instructions": STRINGS[:2], "open_instructions": STRINGS[2:]},
        {"count": 29},
    ]
    assert len({source(tmp_path, **change).digest() for change in changes}) == len(changes)
    assert source(tmp_path).digest() == source(tmp_path / "elsewhere").digest()


def test_it_survives_pickling(tmp_path: Path) -> None:
    made = dataclasses.replace(source(tmp_path), records=DrawnRecords(source(tmp_path).records, 0, limit=9))
    copy = pickle.loads(pickle.dumps(made))
    assert samples(copy) == samples(made)
    assert copy.digest() == made.digest()


# -- draws ---------------------------------------------------------------------------------------------------


def ids(source: DrawnRecords) -> list[str]:
    return [sample.id for sample in samples(source)]


def test_a_draw_keeps_the_order_of_the_file_and_is_spread_over_it(tmp_path: Path) -> None:
    given = records(tmp_path, rows_of(1000))
    drawn = ids(DrawnRecords(given, seed=0, limit=100))
    assert len(set(drawn)) == 100
    numbers = [int(name[1:]) for name in drawn]
    assert numbers == sorted(numbers)
    assert all(sum(start <= n < start + 250 for n in numbers) > 10 for start in range(0, 1000, 250))
    assert ids(DrawnRecords(given, seed=0, limit=100)) == drawn
    assert ids(DrawnRecords(given, seed=1, limit=100)) != drawn


def test_a_larger_draw_holds_the_smaller_one(tmp_path: Path) -> None:
    given = records(tmp_path, rows_of(60))
    few, more = (ids(DrawnRecords(given, seed=3, limit=limit)) for limit in (10, 20))
    assert set(few) < set(more)
    assert ids(DrawnRecords(given, seed=3, limit=99)) == [f"r{n}" for n in range(60)]


def classes(folder: Path, sizes: dict[str, int]) -> RecordSource:
    rows = [{"answers": [name]} for name, size in sizes.items() for _ in range(size)]
    return records(folder, [{"id": f"r{n}", "question": "What?", **row} for n, row in enumerate(rows)])


def test_shots_are_so_many_of_every_class(tmp_path: Path) -> None:
    given = classes(tmp_path, {"beach": 30, "attic": 40, "bar": 10})
    five, ten = DrawnRecords(given, 0, shots=5), DrawnRecords(given, 0, shots=10)
    assert Counter(sample.answers[0] for sample in samples(five)) == {"beach": 5, "attic": 5, "bar": 5}
    assert len(ten) == 30
    assert set(ids(five)) < set(ids(ten))
    assert len(DrawnRecords(given, 0, limit=4, shots=5)) == 4


def test_a_class_with_too_few_records_is_a_warning(tmp_path: Path) -> None:
    given = classes(tmp_path, {"beach": 3, "attic": 9, "bar": 1})
    with pytest.warns(
        UserWarning, match=r"train\.jsonl: 2 of 3 classes have fewer than 4 .*, 'bar' the first"
    ):
        assert len(DrawnRecords(given, 0, shots=4)) == 8


def test_a_drawn_record_has_its_place_and_an_index_past_the_end_is_refused(tmp_path: Path) -> None:
    given = records(tmp_path, rows_of(9))
    drawn = DrawnRecords(given, 0, limit=2)
    number = int(drawn.sample(1).id[1:])
    assert drawn.where(1) == f"{tmp_path / 'train.jsonl'}, line {number + 1}"
    for index in (-1, 2):
        with pytest.raises(IndexError, match=rf"2 records are drawn, got index {index}"):
            drawn.sample(index)


def test_the_digest_of_a_draw_follows_records_and_draw(tmp_path: Path) -> None:
    given = records(tmp_path, rows_of(9))
    draws = [(0, 3, None), (1, 3, None), (0, 4, None), (0, 3, 1)]
    assert len({given.digest(), *(DrawnRecords(given, *draw).digest() for draw in draws)}) == 5
