"""ImageNet-R: what becomes of a small copy of the owner's folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from owners_kit import prepared, put_images

from lit_cvit.data.prepare.imagenet_r import CONVERTER, NOT_AN_IMAGE, UNNAMED

README = """ImageNet-R(endition)

Its classes:

n01443537 goldfish
n02088094 afghan_hound
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "ImageNet-R" / "imagenet-r"
    for name in ("n01443537", "n02088094", "n07873807"):
        put_images(folder / name, [f"art_{number}.jpg" for number in range(40)])
    put_images(folder / "n01443537", [f"list_{number}.txt" for number in range(40)])
    (folder / "README.txt").write_text(README, encoding="utf-8")
    return tmp_path / "raw"


def test_every_image_is_in_one_split_under_its_class_in_words(raw: Path) -> None:
    report, records = prepared(CONVERTER, "ucit", raw)
    train, test = ({row["image"] for row in records[split]} for split in ("train", "test"))
    assert not train & test
    assert len(train | test) == 80
    assert 3 <= len(test) <= 30
    assert {row["answers"][0] for row in records["train"]} == {"goldfish", "afghan hound"}
    row = next(row for row in records["train"] if row["image"].startswith("n02088094/"))
    assert row == {"id": row["image"], "image": row["image"], "question": "", "answers": ["afghan hound"]}
    for reason in (UNNAMED, NOT_AN_IMAGE):
        assert sum(split["dropped"].get(reason, 0) for split in report.values()) == 40
    assert (report["train"]["published"], report["test"]["published"]) == (23_998, 3_000)


def test_another_readme_is_named(raw: Path) -> None:
    (raw / "ImageNet-R" / "imagenet-r" / "README.txt").write_text("none here\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.txt: no line names a class"):
        prepared(CONVERTER, "ucit", raw)
