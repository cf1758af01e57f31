"""Raw files of another split, still packed, behind links, or in another place: each is refused by name."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_kit import CVIT, prepared, write

from lit_cvit.__main__ import main
from lit_cvit.data.prepare.base import entries


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def refused(raw: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Prepare tasks of CVIT that cannot be; returns what is said."""

    def run(*tasks: str, options: tuple[str, ...] = ()) -> str:
        argv = ["prepare", "--benchmark", "cvit", "--raw", str(raw), "--out", str(out), "--workers", "1"]
        assert main([*argv, "--tasks", *tasks, *options]) == 1
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("task", "file", "of_train", "message"),
    [
        (
            "TextVQA",
            "TextVQA/TextVQA_0.5.1_val.json",
            "TextVQA/TextVQA_0.5.1_train.json",
            r"0\.5\.1_val\.json: field 'dataset_type' is 'train', must be 'val'; this is the file of another",
        ),
        (
            "VQAv2",
            "VQAv2/v2_mscoco_val2014_annotations.json",
            "VQAv2/v2_mscoco_train2014_annotations.json",
            r"val2014_annotations\.json: field 'data_subtype' is 'train2014', must be 'val2014'",
        ),
        (
            "VQAv2",
            "VQAv2/v2_OpenEnded_mscoco_val2014_questions.json",
            "VQAv2/v2_OpenEnded_mscoco_train2014_questions.json",
            r"val2014_questions\.json: field 'data_subtype' is 'train2014', must be 'val2014'",
        ),
    ],
)
def test_a_training_file_under_the_name_of_the_test_file_is_refused(
    raw: Path, out: Path, task: str, file: str, of_train: str, message: str
) -> None:
    CVIT[task](raw)
    shutil.copy(raw / of_train, raw / file)
    with pytest.raises(ValueError, match=message):
        prepared(raw, out, task, without_images=True)
    assert not (out / task / "manifest.json").exists()


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"kind": "train", "data": [{"x": 1}]}, r"a\.json: field"),
        ({"data": [{"x": 1}], "more": {}, "kind": "train"}, r"a\.json: field"),
        ({"data": [{"x": 1}, {"x": 1, "kind": "train"}]}, r"a\.json, data\[1\]: field"),
    ],
)
def test_a_file_may_say_its_split_before_its_list_behind_it_or_in_an_entry(
    tmp_path: Path, content: object, place: str
) -> None:
    path = write(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=f"{place} 'kind' is 'train', must be 'val'"):
        list(entries(path, {"x": int}, "data", {"kind": "val"}))
    assert len(list(entries(path, {"x": int}, "data", {"kind": "train"}))) >= 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_of_vizwiz_tells_its_split_by_the_names_of_its_images(
    raw: Path, out: Path, split: str
) -> None:
    CVIT["VizWiz"](raw)
    other = {"train": "val", "val": "train"}[split]
    shutil.copy(raw / f"VizWiz/{other}.json", raw / f"VizWiz/{split}.json")
    with pytest.raises(
        ValueError,
        match=rf"{split}\.json, \[0\]: field 'image' is 'VizWiz_{other}_00000000\.jpg', must begin with "
        f"'VizWiz_{split}_'; this is the file of another split",
    ):
        prepared(raw, out, "VizWiz", "coin", without_images=True)


def test_a_file_need_not_say_its_split(raw: Path, out: Path) -> None:
    CVIT["TextCaps"](raw)
    path = raw / "TextCaps/TextCaps_0.1_val.json"
    found = json.loads(path.read_text())
    bare = [{name: value for name, value in each.items() if name != "set_name"} for each in found["data"]]
    write(path, {"data": bare})
    assert len(prepared(raw, out, "TextCaps")[0]["test"]) == 2


def test_a_file_without_the_split_tells_those_that_it_has(raw: Path, out: Path) -> None:
    CVIT["Flickr30k"](raw)
    path = raw / "Flickr30k/dataset_flickr30k.json"
    path.write_text(path.read_text().replace('"val"', '"restval"'))
    with pytest.raises(
        ValueError,
        match=r"flickr30k\.json: it has no entry of split 'val'; splits that it has: 'train' \(2\), "
        r"'restval' \(1\), 'test' \(1\)$",
    ):
        prepared(raw, out, "Flickr30k")


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("Places365", "Places365/places365_val.txt"),
        ("ImageNet", "ImageNet/LOC_synset_mapping.txt"),
        ("GQA", "GQA/train_balanced_questions.json"),
    ],
)
def test_a_file_that_is_still_packed_is_named_with_its_task(
    raw: Path, out: Path, refused: Callable[..., str], task: str, file: str
) -> None:
    CVIT[task](raw)
    (raw / file).write_bytes(gzip.compress((raw / file).read_bytes()))
    message = refused(task)
    assert f"  {file}: still packed (gzip); unpack it\n" in message
    assert f"(for {task})" in message
    with pytest.raises(ValueError, match=rf"{file}: not a text file in UTF-8; it looks packed \(gzip\)"):
        prepared(raw, out, task)


def test_a_task_whose_images_all_lie_deeper_says_where_it_looked(
    raw: Path, refused: Callable[..., str]
) -> None:
    CVIT["OCR-VQA"](raw)
    images = raw / "OCR-VQA/images"
    (images / "images").mkdir()
    for path in list(images.glob("*.jpg")):
        path.rename(images / "images" / path.name)
    assert (
        "  OCR-VQA: test split: no record is left; dropped 6: image file missing; dropped 1: book with "
        "unequal numbers of questions and answers. Images were looked for under "
        f"{raw}/OCR-VQA, such as images/0003.jpg, images/0004.jpg; unpack them there, or give "
        "--without_images if they lie elsewhere; "
        f"there is {images}/images/0003.jpg: move what is in that folder up\n"
    ) in refused("OCR-VQA")


def test_a_file_in_the_folder_of_its_archive_is_named_with_its_place(
    raw: Path, refused: Callable[..., str]
) -> None:
    CVIT["Flickr30k"](raw)
    (raw / "Flickr30k/flickr30k").mkdir()
    name = "dataset_flickr30k.json"
    (raw / "Flickr30k" / name).rename(raw / "Flickr30k/flickr30k" / name)
    assert (
        f"Flickr30k/{name}: missing; there is Flickr30k/flickr30k/{name}: if it is this, move it\n"
    ) in refused("Flickr30k")


def test_a_folder_of_images_that_is_a_link_elsewhere_is_refused_with_the_remedy(
    raw: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    CVIT["VQAv2"](raw)
    (raw / "COCO2014/train2014").rename(tmp_path / "elsewhere")
    (raw / "COCO2014/train2014").symlink_to(tmp_path / "elsewhere")
    assert (
        f"  COCO2014/train2014/: a link that leads out of {raw}/COCO2014, to {tmp_path}/elsewhere; images "
        f"are only read if they lie under it: move the folder there, or let {raw}/COCO2014 be the link\n"
    ) in refused("VQAv2")


def test_the_folder_of_a_data_set_may_be_a_link(raw: Path, out: Path, tmp_path: Path) -> None:
    CVIT["VQAv2"](raw)
    (raw / "COCO2014").rename(tmp_path / "elsewhere")
    (raw / "COCO2014").symlink_to(tmp_path / "elsewhere")
    assert len(prepared(raw, out, "VQAv2")[0]["test"]) == 6


def test_an_image_that_is_a_link_out_of_its_data_set_is_refused(
    raw: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    CVIT["TextVQA"](raw)
    images = raw / "TextVQA/train_images"
    (images / "train0001.jpg").rename(tmp_path / "far.jpg")
    (images / "train0001.jpg").symlink_to(tmp_path / "far.jpg")
    (images / "train0002.jpg").rename(images / "near.jpg")
    (images / "train0002.jpg").symlink_to("near.jpg")
    assert (
        "  TextVQA: train split: 1 of 3 records name images that are missing or linked from elsewhere "
        f"under {raw}/TextVQA, such as train_images/train0001.jpg; train_images/train0001.jpg is behind a "
        f"link to {tmp_path}/far.jpg; move what it leads to into {raw}/TextVQA, "
        "or let that folder be the link\n"
    ) in refused("TextVQA")


def test_an_option_that_is_a_file_is_named(raw: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    CVIT["GQA"](raw)
    file = write(tmp_path / "out", "")
    assert f"--out: {file} is no folder, so {file}/GQA cannot be in it" in refused("GQA")
    assert f"--out: {file} is no folder, so {file}/new/GQA" in refused(
        "GQA", options=("--out", f"{file}/new")
    )
    assert f"--raw: {file} is a file, it must be a folder" in refused(
        "GQA", options=("--raw", str(file), "--out", str(tmp_path / "new"))
    )


def test_a_folder_without_permission_is_named_with_its_option(
    raw: Path, out: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    CVIT["GQA"](raw)
    monkeypatch.setattr("os.access", lambda path, mode: path != out.parent)
    assert f"--out: no permission to write to {out.parent}\n" in refused("GQA")
    monkeypatch.setattr("os.access", lambda path, mode: path != raw)
    assert f"--raw: no permission to read {raw}\n" in refused("GQA")
