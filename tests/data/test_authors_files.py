"""The files of the benchmarks' authors, read as they are. Every row is made up in the schema of its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import AnswerFormat, Sample, Task
from lit_cvit.data.validation.check import check_task
from lit_cvit.metrics.scoring import scorer

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
BOX = "Please provide the bounding box coordinate of the region this sentence describes"


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


# CoIN, Instructions_Original: ScienceQA has rows without an image; paths may start with "./".
SCIENCE_TRAIN = [
    {
        "id": "1",
        "image": "./ScienceQA/images/train/1/image.png",
        "conversations": turns(f"<image>\nWhich is a gas?\nA. air\nB. ice\n{LETTER}", "A"),
    },
    {"id": "2", "conversations": turns(f"Which is solid?\nA. air\nB. ice\n{LETTER}", "B")},
]
SCIENCE_TEST = [
    {
        "question_id": "7",
        "image": "./ScienceQA/images/test/7/image.png",
        "text": f"Which?\nA. a\nB. b\n{LETTER}",
        "answer": "B",
    },
    {"question_id": "8", "text": f"What?\nA. a\nB. b\n{LETTER}", "answer": "A"},
]
# CoIN, Grounding: the question stands after the instruction.
GROUNDING_TRAIN = [
    {
        "id": "0",
        "image": "./COCO2014/train2014/COCO_train2014_000000581857.jpg",
        "conversations": turns(f"<image>\n{BOX}: the lady.", "[0.0,0.27,0.29,0.7]"),
    }
]
GROUNDING_TEST = [
    {
        "question_id": 3,
        "image": "./COCO2014/train2014/COCO_train2014_000000581563.jpg",
        "text": f"{BOX}: lower left corner.",
        "answer_bbox": "[0.0,0.41,0.36,0.77]",
        "origin_answer_bbox": "[0.0,0.38,0.36,0.85]",
        "size": [640, 480],
    }
]
# SMoLoRA: rows of training files may have no id; Flickr30k has five references.
FLICKR_TRAIN = [
    {
        "image": "Flickr30k/images/1000092795.jpg",
        "conversations": turns("<image>\nWhat is happening in the image?", "Two men stand in a yard."),
    }
]
FLICKR_TEST = [
    {
        "question_id": 0,
        "image": "Flickr30k/images/1007129816.jpg",
        "text": "What is happening in the image?",
        "answer": ["A man in a hat.", "A man.", "A hat.", "He stands.", "A man smiles."],
    }
]
# UCIT: the question id is a file name in CoIN's ImageNet and a number here.
IMAGENET_R_TEST = [
    {
        "question_id": 12,
        "image": "./ImageNet-R/test/n01443537/art_1.jpg",
        "text": f"What is the object?\n{SHORT}",
        "answer": "goldfish",
    }
]
# POPE, output/coco (JSON lines): the answer is a label.
POPE_TEST = [{"question_id": 1, "image": "COCO_val2014_1.jpg", "text": "Is there a dog?", "label": "no"}]


def source(path: Path, rows: list[dict[str, Any]], *, training: bool, known: str = "") -> RecordSource:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    for row in rows:
        if "image" in row:
            image = path.parent / row["image"]
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"x")
    instructions = (known,) if known else ()
    return RecordSource(
        path, task="T", instructions=instructions, image_root=path.parent, ids_required=not training
    )


@pytest.mark.parametrize(
    ("train", "test", "known"),
    [
        (SCIENCE_TRAIN, SCIENCE_TEST, LETTER),
        (GROUNDING_TRAIN, GROUNDING_TEST, ""),
        (FLICKR_TRAIN, FLICKR_TEST, "What is happening in the image?"),
        (FLICKR_TRAIN, IMAGENET_R_TEST, ""),
    ],
    ids=["scienceqa", "grounding", "flickr30k", "imagenet-r"],
)
def test_the_authors_files_pass_the_check(
    tmp_path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], known: str
) -> None:
    task = Task(
        "T",
        AnswerFormat.SHORT,
        scorer("exact"),
        train=source(tmp_path / "train.json", train, training=True, known=known),
        test=source(tmp_path / "test.json", test, training=False, known=known),
    )
    report = check_task(task)
    assert report.lines()[1:] == []
    assert (report.num_train, report.num_test) == (len(train), len(test))


def only(path: Path, rows: list[dict[str, Any]], *, training: bool = False, known: str = "") -> Sample:
    return source(path, rows, training=training, known=known).sample(0)


def test_a_test_row_of_grounding_is_answered_by_its_padded_box(tmp_path: Path) -> None:
    sample = only(tmp_path / "test.json", GROUNDING_TEST)
    assert (sample.id, sample.answers) == ("3", ("[0.0,0.41,0.36,0.77]",))
    assert sample.user_text == f"{BOX}: lower left corner."


def test_a_training_row_and_a_test_row_of_one_form_say_the_same(tmp_path: Path) -> None:
    train = only(tmp_path / "train.json", SCIENCE_TRAIN, training=True, known=LETTER)
    assert (train.question, train.instruction) == ("Which is a gas?\nA. air\nB. ice", LETTER)
    assert (train.user_text, train.answers) == (f"Which is a gas?\nA. air\nB. ice\n{LETTER}", ("A",))
    test = only(tmp_path / "test.json", SCIENCE_TEST, known=LETTER)
    assert (test.question, test.instruction, test.answers) == ("Which?\nA. a\nB. b", LETTER, ("B",))


def test_a_list_of_answers_is_five_references(tmp_path: Path) -> None:
    assert len(only(tmp_path / "test.json", FLICKR_TEST).answers) == 5
    assert only(tmp_path / "train.json", FLICKR_TRAIN, training=True).id == "0"


def test_a_row_of_pope_is_answered_by_its_label(tmp_path: Path) -> None:
    sample = only(tmp_path / "coco_pope_random.jsonl", POPE_TEST)
    assert (sample.id, sample.question, sample.answers) == ("1", "Is there a dog?", ("no",))
