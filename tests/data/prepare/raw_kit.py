"""Made-up downloads in the schema of each owner, a few entries of each; no text of theirs is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_cvit.data.prepare import converters_of
from lit_cvit.data.prepare.base import Request
from lit_cvit.data.prepare.writing import prepare_task

TEN = ["red", "blue", "red", "red", "blue", "green", "red", "red", "red", "blue"]
"""Ten human answers, `red` the most frequent."""
FIVE = [f"A dog does thing {number}." for number in range(5)]


def write(path: Path, content: object) -> Path:
    """Write JSON, or text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prepared(
    raw: Path, out: Path, task: str, benchmark: str = "cvit", **settings: Any
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Prepare one task; returns the rows of its splits and its manifest."""
    [converter] = converters_of(benchmark, [task])
    manifest, _ = prepare_task(converter, Request(benchmark, raw, out, **settings), lambda number: None)
    return {name: rows_of(out / task / f"{name}.jsonl") for name in manifest["splits"]}, manifest


def science_problem(split: str, **changes: Any) -> dict[str, Any]:
    return {
        "question": "Which one floats?",
        "choices": ["a cork", "a nail"],
        "answer": 0,
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade3",
        "subject": "natural science",
        "topic": "physics",
        "category": "Materials",
        "skill": "Tell what floats",
        "lecture": "",
        "solution": "",
        "split": split,
        **changes,
    }


def scienceqa(raw: Path) -> None:
    problems = {
        "1": science_problem("train", image="image.png", hint="Cork is light.", answer=1),
        "2": science_problem("train"),
        "3": science_problem("train", answer=7),
        "4": science_problem("val"),
        "5": science_problem("test", image="image.png", choices=["one", "two", "three"], answer=2),
    }
    write(raw / "ScienceQA/problems.json", problems)
    splits = {"train": ["1", "2", "3"], "val": ["4"], "test": ["5"], "trainval": ["1", "2", "3", "4"]}
    write(raw / "ScienceQA/pid_splits.json", splits)
    touch(raw / "ScienceQA/images/train/1/image.png", raw / "ScienceQA/images/test/5/image.png")


def textvqa_entry(number: int, split: str, **changes: Any) -> dict[str, Any]:
    return {
        "question": f"what is on sign {number}?",
        "image_id": f"{split}{number:04x}",
        "image_classes": ["Sign"],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": 4,
        "image_height": 4,
        "answers": TEN,
        "question_tokens": ["what", "is"],
        "question_id": number,
        "set_name": split,
        **changes,
    }


def textvqa(raw: Path) -> None:
    for split, first in (("train", 0), ("val", 34602)):
        data = [textvqa_entry(first + number, split) for number in range(3)]
        header = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
        write(raw / f"TextVQA/TextVQA_0.5.1_{split}.json", {**header, "data": data})
        touch(*(raw / f"TextVQA/train_images/{entry['image_id']}.jpg" for entry in data))


def textcaps(raw: Path) -> None:
    data = [
        {
            "caption_str": caption,
            "caption_id": 10 * image + number,
            "image_id": f"cap{image}",
            "set_name": "val",
            "image_name": f"cap{image}",
            "image_path": f"train/cap{image}.jpg",
            "reference_strs": FIVE,
        }
        for number, caption in enumerate(FIVE)
        for image in range(2)
    ]
    write(raw / "TextCaps/TextCaps_0.1_val.json", {"dataset_type": "val", "info": {}, "data": data})
    touch(*(raw / f"TextVQA/train_images/cap{image}.jpg" for image in range(2)))


def flickr30k(raw: Path) -> None:
    images = []
    for image, split in enumerate(["train", "val", "train", "test"]):
        ids = [5 * image + number for number in range(5)]
        sentences = [
            {"tokens": caption.lower().split(), "raw": caption, "imgid": image, "sentid": id_}
            for id_, caption in zip(ids, FIVE, strict=True)
        ]
        name = f"{1000 + image}.jpg"
        entry = {"sentids": ids, "imgid": image, "sentences": sentences, "split": split, "filename": name}
        images.append(entry)
        touch(raw / "Flickr30k/flickr30k-images" / name)
    write(raw / "Flickr30k/dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})


def imagenet(raw: Path, num_classes: int = 103) -> None:
    classes = [f"n{number:08d}" for number in range(num_classes)]
    lines = [f"{class_} thing {number}, other name" for number, class_ in enumerate(classes)]
    write(raw / "ImageNet/LOC_synset_mapping.txt", "\n".join(lines) + "\n")
    for number, class_ in enumerate(classes):
        touch(
            raw / f"ImageNet/train/{class_}/{class_}_7.JPEG", raw / f"ImageNet/train/{class_}/{class_}_9.JPEG"
        )
        touch(raw / f"ImageNet/val/{class_}/ILSVRC2012_val_{number:08d}.JPEG")


def gqa_question(image: str, **changes: Any) -> dict[str, Any]:
    return {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "bag (1)"}],
        "entailed": [],
        "equivalent": [],
        "question": f"What is in {image}?",
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": None, "local": "x"},
        "answer": "bag",
        "semanticStr": "select: bag (1)",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": "a", "semantic": "obj", "structural": "query"},
        "fullAnswer": "It is a bag.",
        **changes,
    }


def gqa(raw: Path) -> None:
    train = {f"0{number}": gqa_question(f"n{number % 3}", answer=f"bag {number}") for number in range(9)}
    write(raw / "GQA/train_balanced_questions.json", train)
    test = {f"2{number}": gqa_question("n0") for number in range(4)}
    write(raw / "GQA/testdev_balanced_questions.json", test)
    touch(*(raw / f"GQA/images/n{number}.jpg" for number in range(3)))


def vqav2(raw: Path) -> None:
    for split in ("train", "val"):
        ids = [262148000 + number for number in range(6)]
        questions = [
            {"image_id": 262148 + id_ % 2, "question": f"What colour is {id_ % 10}?", "question_id": id_}
            for id_ in ids
        ]
        annotations = [
            {
                "question_type": "what colour",
                "multiple_choice_answer": "red",
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                    for number, answer in enumerate(TEN, 1)
                ],
                "image_id": 262148 + id_ % 2,
                "answer_type": "other",
                "question_id": id_,
            }
            for id_ in reversed(ids)
        ]
        header = {"info": {}, "data_type": "mscoco", "data_subtype": f"{split}2014", "license": {}}
        path = raw / f"VQAv2/v2_OpenEnded_mscoco_{split}2014_questions.json"
        write(path, {**header, "task_type": "Open-Ended", "questions": questions})
        path = raw / f"VQAv2/v2_mscoco_{split}2014_annotations.json"
        write(path, {**header, "annotations": annotations})
        for image in (262148, 262149):
            touch(raw / f"COCO2014/{split}2014/COCO_{split}2014_{image:012d}.jpg")


def vizwiz(raw: Path) -> None:
    for split in ("train", "val"):
        entries = [
            {
                "image": f"VizWiz_{split}_{number:08d}.jpg",
                "question": "What is this?",
                "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in TEN],
                "answer_type": "other",
                "answerable": 1,
            }
            for number in range(2)
        ]
        write(raw / f"VizWiz/{split}.json", entries)
        touch(*(raw / f"VizWiz/{split}/{entry['image']}" for entry in entries))


def book(split: int, **changes: Any) -> dict[str, Any]:
    return {
        "imageURL": "http://example.com/images/I/1.jpg",
        "questions": ["Who wrote this book?", "What is the title of this book?", "Is it a cookbook?"],
        "answers": ["A. Writer", "A Title", "No"],
        "title": "A Title",
        "authorName": "A. Writer",
        "genre": "Travel",
        "split": split,
        **changes,
    }


def ocr_vqa(raw: Path) -> None:
    books = {"0001": book(1), "000X": book(1), "0002": book(2), "0003": book(3), "0004": book(3)}
    books["0005"] = book(3, answers=["only one"])
    write(raw / "OCR-VQA/dataset.json", books)
    touch(*(raw / f"OCR-VQA/images/{name}.jpg" for name in ("0001", "000X", "0003")))


def places365(raw: Path) -> None:
    classes = ["/a/airfield", "/f/field/wild", "/b/bow_window/indoor"]
    lines = [f"{path} {number}\n" for number, path in enumerate(classes)]
    write(raw / "Places365/categories_places365.txt", "".join(lines))
    images = [(f"{path}/{shot:08d}.jpg", number) for number, path in enumerate(classes) for shot in range(25)]
    write(
        raw / "Places365/places365_train_standard.txt",
        "".join(f"{path} {number}\n" for path, number in images),
    )
    touch(*(raw / f"Places365/data_256{path}" for path, _ in images))
    val = [(f"Places365_val_{number:08d}.jpg", number % 3) for number in range(6)]
    write(raw / "Places365/places365_val.txt", "".join(f"{path} {number}\n" for path, number in val))
    touch(*(raw / f"Places365/val_256/{path}" for path, _ in val))


CVIT: dict[str, Callable[[Path], None]] = {
    "ScienceQA": scienceqa,
    "TextVQA": textvqa,
    "Flickr30k": flickr30k,
    "ImageNet": imagenet,
    "GQA": gqa,
    "VQAv2": vqav2,
    "VizWiz": vizwiz,
    "TextCaps": textcaps,
    "OCR-VQA": ocr_vqa,
    "Places365": places365,
}
"""Writes the downloads of each task of CVIT."""
