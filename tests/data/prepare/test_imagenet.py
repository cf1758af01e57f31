"""ImageNet: which classes are taken, and what becomes of its folders, val in one folder or in many."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from raw_kit import CVIT, prepared, write

from lit_cvit.data.prepare.base import Request
from lit_cvit.data.prepare.running import prepare


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    CVIT["ImageNet"](folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_imagenet_draws_100_classes_the_same_in_both_splits(raw: Path, out: Path) -> None:
    rows, manifest = prepared(raw, out, "ImageNet")
    labels = {split: {row["answers"][0] for row in rows[split]} for split in rows}
    assert len(labels["train"]) == 100
    assert labels["train"] == labels["test"]
    assert len(rows["train"]) == 200
    # Fixed by the hash of the class: a change would silently make another benchmark.
    left_out = {f"thing {number}" for number in range(103)} - labels["train"]
    assert left_out == {"thing 3", "thing 35", "thing 90"}
    assert "not published" in manifest["splits"]["train"]["note"]


def test_imagenet_takes_the_classes_of_a_list(raw: Path, out: Path) -> None:
    write(raw / "ImageNet/classes.txt", "n00000004\nn00000002\n")
    rows, _ = prepared(raw, out, "ImageNet")
    assert rows["test"] == [
        {
            "id": f"ILSVRC2012_val_{number:08d}",
            "image": f"val/n{number:08d}/ILSVRC2012_val_{number:08d}.JPEG",
            "question": "",
            "answers": [f"thing {number}"],
        }
        for number in (4, 2)
    ]
    assert len(rows["train"]) == 4


def test_imagenet_lists_the_classes_that_it_takes_and_says_where(raw: Path, out: Path) -> None:
    [outcome] = prepare(Request("cvit", raw, out), tasks=["ImageNet"], workers=1)
    assert outcome.lines()[-1] == f"ImageNet classes: 100, listed in {out}/ImageNet/classes.txt"
    listed = (out / "ImageNet/classes.txt").read_text().split()
    assert len(listed) == 100
    assert {"n00000003", "n00000035", "n00000090"}.isdisjoint(listed)
    write(raw / "ImageNet/classes.txt", "n00000004\nn00000002\n")
    [outcome] = prepare(Request("cvit", raw, out), tasks=["ImageNet"], workers=1)
    assert outcome.lines()[-1] == f"ImageNet classes: 2, listed in {out}/ImageNet/classes.txt"
    assert (out / "ImageNet/classes.txt").read_text() == "n00000004\nn00000002\n"
    [again] = prepare(Request("cvit", raw, out), tasks=["ImageNet"], workers=1)
    assert again.was_there


def test_imagenet_prepared_without_its_list_is_made_again(raw: Path, out: Path) -> None:
    prepared(raw, out, "ImageNet")
    (out / "ImageNet/classes.txt").unlink()
    prepared(raw, out, "ImageNet")
    assert len((out / "ImageNet/classes.txt").read_text().split()) == 100


def test_imagenet_lists_its_classes_also_where_their_folders_are_missing(raw: Path, out: Path) -> None:
    shutil.rmtree(raw / "ImageNet/train/n00000001")
    with pytest.raises(ValueError, match=r"all to take stand in ImageNet/classes\.txt under --out"):
        prepared(raw, out, "ImageNet")
    assert len((out / "ImageNet/classes.txt").read_text().split()) == 100


def test_imagenet_lists_its_classes_also_where_there_is_no_image_yet(raw: Path, out: Path) -> None:
    shutil.rmtree(raw / "ImageNet/train")
    with pytest.raises(
        ValueError,
        match=r"ImageNet/train/: missing(?s:.*)\nOf the folders of ImageNet, only .*/classes\.txt lists is",
    ):
        prepare(Request("cvit", raw, out), tasks=["ImageNet"], workers=1)
    [listed] = (out / "ImageNet").iterdir()
    assert len(listed.read_text().split()) == 100


def test_imagenets_names_may_end_in_blank_lines(raw: Path, out: Path) -> None:
    rows, _ = prepared(raw, out, "ImageNet")
    names = raw / "ImageNet/LOC_synset_mapping.txt"
    names.write_text(names.read_text() + "\n\n")
    again, _ = prepared(raw, out.with_name("again"), "ImageNet")
    assert again == rows


def test_imagenet_names_a_class_of_the_list_that_it_has_not(raw: Path, out: Path) -> None:
    write(raw / "ImageNet/classes.txt", "n00000004\nn99999999\n")
    with pytest.raises(ValueError, match=r"classes\.txt: unknown class 'n99999999'"):
        prepared(raw, out, "ImageNet")


def one_folder_of_val(raw: Path) -> Path:
    """Lay out val as the owner's archive does, without folders; returns the list of its classes."""
    lines = ["ImageId,PredictionString\n"]
    for number in reversed(range(103)):
        name = f"ILSVRC2012_val_{number:08d}"
        folder = raw / f"ImageNet/val/n{number:08d}"
        (folder / f"{name}.JPEG").rename(raw / f"ImageNet/val/{name}.JPEG")
        folder.rmdir()
        lines.append(f"{name},n{number:08d} 1 2 3 4 n{number:08d} 5 6 7 8 \n")
    return write(raw / "ImageNet/LOC_val_solution.csv", "".join(lines))


def test_imagenet_val_in_one_folder_gives_the_records_of_val_in_folders_of_classes(
    raw: Path, out: Path, tmp_path: Path
) -> None:
    rows, _ = prepared(raw, out, "ImageNet")
    one_folder_of_val(raw)
    again, _ = prepared(raw, tmp_path / "again", "ImageNet")
    assert again["test"] == [{**row, "image": f"val/{row['id']}.JPEG"} for row in rows["test"]]
    assert again["train"] == rows["train"]


def test_imagenet_val_in_one_folder_needs_the_list_of_its_classes(raw: Path, out: Path) -> None:
    one_folder_of_val(raw).unlink()
    with pytest.raises(ValueError, match=r"val: it has no folders of classes .*LOC_val_solution\.csv"):
        prepared(raw, out, "ImageNet")
    write(raw / "ImageNet/LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00000001,tench\n")
    with pytest.raises(ValueError, match=r"solution\.csv, line 2: got 'ILSVRC2012_val_00000001,tench'"):
        prepared(raw, out, "ImageNet")


def test_imagenet_names_all_classes_to_take_whose_folders_are_missing(raw: Path, out: Path) -> None:
    write(raw / "ImageNet/classes.txt", "n00000004\nn00000002\nn00000005\n")
    for class_ in ("n00000002", "n00000005"):
        shutil.rmtree(raw / "ImageNet/train" / class_)
    with pytest.raises(
        ValueError, match=r"train: no folders of 2 of the 3 classes .*: n00000002, n00000005$"
    ):
        prepared(raw, out, "ImageNet")
