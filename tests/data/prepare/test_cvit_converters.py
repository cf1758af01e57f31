"""Every converter of CVIT on made-up downloads in its owner's schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_kit import CVIT, FIVE, TEN, book, gqa_question, prepared, textvqa_entry, touch, write

from lit_cvit.data.prepare import converters_of
from lit_cvit.data.prepare.locating import NO_IMAGE
from lit_cvit.data.prepare.writing import NO_ANSWER

HUMANS = ["red"] * 6 + ["blue", "blue", "green", "blue"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_cvit_has_its_ten_tasks() -> None:
    assert {converter.task for converter in converters_of("cvit")} == set(CVIT)


def test_published_counts_are_those_of_smoloras_table_8() -> None:
    # Design facts: Table 8 of arXiv 2411.13949; Places365 as ten shots of 365 classes.
    found = {
        converter.task: tuple(split.published for split in converter.splits["cvit"].values())
        for converter in converters_of("cvit")
    }
    assert found == {
        "ScienceQA": (12726, 4241),
        "TextVQA": (34602, 5000),
        "Flickr30k": (145000, 1014),
        "ImageNet": (117715, 5050),
        "GQA": (72140, 12578),
        "VQAv2": (82783, 53588),
        "VizWiz": (4319,),
        "TextCaps": (15830 // 5,),
        "OCR-VQA": (99926,),
        "Places365": (3650, 36500),
    }


def test_scienceqa_lays_out_context_question_and_options_and_keeps_text_only_rows(
    raw: Path, out: Path
) -> None:
    CVIT["ScienceQA"](raw)
    rows, manifest = prepared(raw, out, "ScienceQA")
    assert rows["train"] == [
        {
            "id": "1",
            "image": "train/1/image.png",
            "question": "Context: Cork is light.\nWhich one floats?\nA. a cork\nB. a nail",
            "answers": ["B"],
            "choices": ["a cork", "a nail"],
        },
        {
            "id": "2",
            "question": "Which one floats?\nA. a cork\nB. a nail",
            "answers": ["A"],
            "choices": ["a cork", "a nail"],
        },
    ]
    assert [(row["id"], row["answers"]) for row in rows["test"]] == [("5", ["C"])]
    assert manifest["splits"]["train"]["dropped"] == {"its answer is none of its choices": 1}
    assert manifest["image_root"] == "../../raw/ScienceQA/images"


def test_scienceqa_names_a_problem_that_the_split_has_and_the_file_has_not(raw: Path, out: Path) -> None:
    CVIT["ScienceQA"](raw)
    write(raw / "ScienceQA/pid_splits.json", {"train": ["1", "99"], "test": ["5"]})
    with pytest.raises(
        ValueError, match=r"problems\.json: 1 problems of split 'train' are missing, such as '99'"
    ):
        prepared(raw, out, "ScienceQA")


def test_textvqa_trains_on_the_most_frequent_answer_and_tests_on_all_ten(raw: Path, out: Path) -> None:
    CVIT["TextVQA"](raw)
    rows, _ = prepared(raw, out, "TextVQA")
    assert rows["train"][1] == {
        "id": "1",
        "image": "train_images/train0001.jpg",
        "question": "what is on sign 1?",
        "answers": ["red"],
    }
    assert rows["test"][0] == {
        "id": "34602",
        "image": "train_images/val872a.jpg",
        "question": "what is on sign 34602?",
        "answers": HUMANS,
    }


def test_textvqa_without_an_answer_is_dropped_and_counted(raw: Path, out: Path) -> None:
    CVIT["TextVQA"](raw)
    data = [
        textvqa_entry(0, "train", answers=[]),
        textvqa_entry(1, "train"),
        textvqa_entry(2, "train", answers=[""]),
    ]
    write(raw / "TextVQA/TextVQA_0.5.1_train.json", {"data": data})
    rows, manifest = prepared(raw, out, "TextVQA")
    assert [row["id"] for row in rows["train"]] == ["1"]
    assert manifest["splits"]["train"]["dropped"] == {NO_ANSWER: 2}


def test_textcaps_is_one_record_an_image_with_all_its_captions(raw: Path, out: Path) -> None:
    CVIT["TextCaps"](raw)
    rows, manifest = prepared(raw, out, "TextCaps")
    assert rows == {
        "test": [
            {"id": f"cap{image}", "image": f"train_images/cap{image}.jpg", "question": "", "answers": FIVE}
            for image in range(2)
        ]
    }
    assert manifest["image_root"] == "../../raw/TextVQA"


def test_flickr30k_trains_on_every_caption_and_tests_on_karpathys_val(raw: Path, out: Path) -> None:
    CVIT["Flickr30k"](raw)
    rows, _ = prepared(raw, out, "Flickr30k")
    ids = [*range(5), *range(10, 15)]
    assert [(row["id"], row["answers"]) for row in rows["train"]] == [
        (str(id_), [caption]) for id_, caption in zip(ids, 2 * FIVE, strict=True)
    ]
    assert rows["test"] == [
        {"id": "1001", "image": "flickr30k-images/1001.jpg", "question": "", "answers": FIVE}
    ]


def test_ucit_tests_flickr30k_on_val_and_test(raw: Path, out: Path) -> None:
    CVIT["Flickr30k"](raw)
    rows, _ = prepared(raw, out, "Flickr30k", "ucit")
    assert [row["id"] for row in rows["test"]] == ["1001", "1003"]


def test_gqa_keeps_one_question_of_each_training_image_and_all_of_testdev(raw: Path, out: Path) -> None:
    CVIT["GQA"](raw)
    rows, manifest = prepared(raw, out, "GQA")
    assert sorted(row["image"] for row in rows["train"]) == [f"images/n{number}.jpg" for number in range(3)]
    assert rows["test"][0] == {
        "id": "20",
        "image": "images/n0.jpg",
        "question": "What is in n0?",
        "answers": ["bag"],
    }
    assert len(rows["test"]) == 4
    train = manifest["splits"]["train"]
    assert (train["records"], train["found"], train["published"]) == (3, 9, 72140)
    assert train["draw"] == "1 of each image, by a hash of the id, as theirs is not published"


def test_a_draw_does_not_depend_on_the_order_of_the_raw_file(raw: Path, out: Path, tmp_path: Path) -> None:
    CVIT["GQA"](raw)
    rows, _ = prepared(raw, out, "GQA")
    train = {f"0{number}": gqa_question(f"n{number % 3}", answer=f"bag {number}") for number in range(9)}
    write(raw / "GQA/train_balanced_questions.json", dict(reversed(train.items())))
    again, _ = prepared(raw, tmp_path / "again", "GQA")
    assert again["train"] == rows["train"][::-1]


def test_vqav2_joins_questions_and_answers_by_id(raw: Path, out: Path) -> None:
    CVIT["VQAv2"](raw)
    rows, manifest = prepared(raw, out, "VQAv2")
    assert [row["image"][-10:] for row in sorted(rows["train"], key=lambda row: row["image"])] == [
        "262148.jpg",
        "262149.jpg",
    ]
    assert all(row["answers"] == ["red"] for row in rows["train"])
    assert rows["test"][-1] == {
        "id": "262148000",
        "image": "val2014/COCO_val2014_000000262148.jpg",
        "question": "What colour is 0?",
        "answers": HUMANS,
    }
    assert manifest["image_root"] == "../../raw/COCO2014"


def test_vqav2_counts_questions_without_answers_and_answers_without_questions(raw: Path, out: Path) -> None:
    CVIT["VQAv2"](raw)
    path = raw / "VQAv2/v2_OpenEnded_mscoco_val2014_questions.json"
    other = {"image_id": 1, "question": "Which?", "question_id": 5}
    known = {"image_id": 262148, "question": "What?", "question_id": 262148000}
    write(path, {"questions": [other, known]})
    _, manifest = prepared(raw, out, "VQAv2")
    assert manifest["splits"]["test"]["dropped"] == {
        "answers to no question": 5,
        "question without answers": 1,
    }


def test_vizwiz_is_tested_on_val_and_in_coin_trained_on(raw: Path, out: Path, tmp_path: Path) -> None:
    CVIT["VizWiz"](raw)
    rows, _ = prepared(raw, out, "VizWiz")
    assert list(rows) == ["test"]
    assert rows["test"][1] == {
        "id": "VizWiz_val_00000001",
        "image": "val/VizWiz_val_00000001.jpg",
        "question": "What is this?",
        "answers": HUMANS,
    }
    rows, _ = prepared(raw, tmp_path / "coin", "VizWiz", "coin")
    assert [row["answers"] for row in rows["train"]] == [["red"], ["red"]]


def test_ocr_vqa_drops_questions_about_covers_that_are_not_there(raw: Path, out: Path) -> None:
    CVIT["OCR-VQA"](raw)
    rows, manifest = prepared(raw, out, "OCR-VQA", "coin")
    assert rows["test"][1] == {
        "id": "0003_1",
        "image": "images/0003.jpg",
        "question": "What is the title of this book?",
        "answers": ["A Title"],
    }
    assert [row["id"] for row in rows["test"]] == ["0003_0", "0003_1", "0003_2"]
    assert manifest["splits"]["test"]["dropped"] == {
        NO_IMAGE: 3,
        "book with unequal numbers of questions and answers": 1,
    }
    assert sorted(row["id"].partition("_")[0] for row in rows["train"]) == ["0001", "000X"]


def test_a_cover_has_the_suffix_of_its_address_or_is_a_copy_as_jpg(raw: Path, out: Path) -> None:
    address = "http://example.com/images/I/1.gif"
    books = {"0001": book(3, imageURL=address), "0002": book(3, imageURL=address)}
    write(raw / "OCR-VQA/dataset.json", books)
    touch(raw / "OCR-VQA/images/0001.gif", raw / "OCR-VQA/images/0002.jpg")
    rows, manifest = prepared(raw, out, "OCR-VQA")
    assert [row["image"] for row in rows["test"]] == 3 * ["images/0001.gif"] + 3 * ["images/0002.jpg"]
    assert manifest["splits"]["test"]["dropped"] == {}


def test_a_cover_that_came_later_is_taken_up(raw: Path, out: Path) -> None:
    CVIT["OCR-VQA"](raw)
    prepared(raw, out, "OCR-VQA")
    touch(raw / "OCR-VQA/images/0004.jpg")
    rows, _ = prepared(raw, out, "OCR-VQA")
    assert len(rows["test"]) == 6


def test_places365_has_ten_shots_of_each_class_and_all_of_val(raw: Path, out: Path) -> None:
    CVIT["Places365"](raw)
    rows, _ = prepared(raw, out, "Places365")
    labels = [row["answers"][0] for row in rows["train"]]
    assert labels == 10 * ["airfield"] + 10 * ["field wild"] + 10 * ["bow window indoor"]
    assert rows["train"][0]["image"] == f"data_256/{rows['train'][0]['id']}.jpg"
    assert rows["test"][1] == {
        "id": "Places365_val_00000001",
        "image": "val_256/Places365_val_00000001.jpg",
        "question": "",
        "answers": ["field wild"],
    }


@pytest.mark.parametrize(
    ("task", "file", "content", "message"),
    [
        (
            "TextVQA",
            "TextVQA/TextVQA_0.5.1_val.json",
            {"data": [{"question": "a?"}]},
            r"val\.json, data\[0\]: field 'question_id' must be a whole number, got only 'question'",
        ),
        (
            "GQA",
            "GQA/testdev_balanced_questions.json",
            {"7": {"question": "a?", "imageId": "n0"}},
            r"\[7\]: field 'answer' must be a string",
        ),
        (
            "VizWiz",
            "VizWiz/val.json",
            [{"image": "a.jpg", "question": "a?", "answers": [{}]}],
            r"val\.json, \[0\]\.answers\[0\]: field 'answer' must be a string",
        ),
        (
            "Places365",
            "Places365/places365_val.txt",
            "a.jpg\n",
            r"places365_val\.txt, line 1: got 'a\.jpg', must be a path and a class number",
        ),
        ("Places365", "Places365/places365_val.txt", "a.jpg 9\n", r"line 1: class 9 is not in"),
        ("OCR-VQA", "OCR-VQA/dataset.json", '{"1": {', r"dataset\.json: not the JSON file it should be"),
        (
            "TextCaps",
            "TextCaps/TextCaps_0.1_val.json",
            {"info": {}},
            r"val\.json: not the JSON file it should be: No field 'data'",
        ),
        (
            "Flickr30k",
            "Flickr30k/dataset_flickr30k.json",
            {"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": 3}]}]},
            r"images\[0\]\.sentences\[0\]: field 'raw' must be a string, got 3",
        ),
        (
            "ImageNet",
            "ImageNet/LOC_synset_mapping.txt",
            "tench\n",
            r"mapping\.txt, line 1: got 'tench', must be as",
        ),
    ],
)
def test_a_raw_file_of_another_form_is_named_with_place_and_field(
    raw: Path, out: Path, task: str, file: str, content: Any, message: str
) -> None:
    CVIT[task](raw)
    write(raw / file, content)
    with pytest.raises(ValueError, match=message):
        prepared(raw, out, task)
    assert not (out / task / "manifest.json").exists()


def test_ten_answers_stay_ten(raw: Path, out: Path) -> None:
    CVIT["VQAv2"](raw)
    rows, _ = prepared(raw, out, "VQAv2")
    assert all(sorted(row["answers"]) == sorted(TEN) for row in rows["test"])
