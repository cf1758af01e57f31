"""image_digest: other images under the same names are other data, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lit_cvit.data.benchmarks.cvit_mini import cvit_mini
from lit_cvit.data.image_digest import image_digest
from lit_cvit.data.records.source import RecordSource


def source(folder: Path, *, root: str = "images", rows: int = 40, colour: str = "red") -> RecordSource:
    """A split with an image for each row but the first, which is text alone."""
    (folder / root).mkdir(parents=True)
    lines = ['{"id": "0", "question": "q", "answers": ["a"]}']
    for row in range(1, rows):
        Image.new("RGB", (4 + row, 4), colour).save(folder / root / f"{row}.png")
        lines.append(f'{{"id": "{row}", "image": "{row}.png", "question": "q", "answers": ["a"]}}')
    (folder / f"{root}.jsonl").write_text("\n".join(lines))
    return RecordSource(folder / f"{root}.jsonl", task="t", image_root=folder / root)


def test_equal_images_have_one_digest_wherever_they_lie(tmp_path: Path) -> None:
    one, other = source(tmp_path / "one"), source(tmp_path / "two", root="pictures")
    assert image_digest(one)["digest"] == image_digest(other)["digest"]
    assert image_digest(one)["root"] == str(tmp_path / "one" / "images")


def test_other_images_have_another_digest(tmp_path: Path) -> None:
    one, other = source(tmp_path / "one"), source(tmp_path / "two", colour="blue")
    assert image_digest(one)["digest"] != image_digest(other)["digest"]


def test_of_a_large_split_sixteen_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, read = source(tmp_path), list[int]()
    sample = RecordSource.sample
    monkeypatch.setattr(RecordSource, "sample", lambda self, row: read.append(row) or sample(self, row))
    image_digest(split)
    assert read == [row * 40 // 16 for row in range(16)]


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    split = source(tmp_path, rows=3)
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"2\.png.*no such file"):
        image_digest(split)


def test_drawn_images_and_texts_alone_have_none(tmp_path: Path) -> None:
    assert image_digest(cvit_mini(num_train=16, num_test=4).stream[0].test) == {}
    assert image_digest(source(tmp_path, rows=1)) == {}
