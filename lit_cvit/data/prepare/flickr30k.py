"""Flickr30k with Karpathy's split: five captions an image, each a training record; a test record an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Raw, Row, Rows, Split, checked, entries, of_splits

_PATH = "Flickr30k/dataset_flickr30k.json"
_FIELDS = {"filename": str, "split": str, "sentences": list}
_RAW = (
    Raw(
        _PATH,
        "captions and Karpathy's split",
        "caption_datasets.zip at https://cs.stanford.edu/people/karpathy/deepimagesent/",
    ),
    Raw(
        "Flickr30k/flickr30k-images/",
        "images",
        "flickr30k-images.tar.gz at https://shannon.cs.illinois.edu/DenotationGraph/ (by a form)",
    ),
)


def _images(raw: Path, splits: tuple[str, ...]) -> Iterator[tuple[str, list[Row]]]:
    """Give file name and sentences of each image of some splits."""
    listed = entries(raw / _PATH, _FIELDS, "images")
    for index, entry in of_splits(listed, lambda each: each[1]["split"], splits, raw / _PATH):
        place = f"{raw / _PATH}, images[{index}].sentences"
        sentences = [
            checked(each, {"raw": str, "sentid": int}, f"{place}[{number}]")
            for number, each in enumerate(entry["sentences"])
        ]
        yield entry["filename"], sentences


def _train_rows(raw: Path) -> Rows:
    for name, sentences in _images(raw, ("train",)):
        for sentence in sentences:
            yield {
                "id": str(sentence["sentid"]),
                "image": f"flickr30k-images/{name}",
                "question": "",
                "answers": [sentence["raw"]],
            }


def _test_rows(raw: Path, splits: tuple[str, ...]) -> Rows:
    for name, sentences in _images(raw, splits):
        yield {
            "id": Path(name).stem,
            "image": f"flickr30k-images/{name}",
            "question": "",
            "answers": [sentence["raw"] for sentence in sentences],
        }


CONVERTER = Converter(
    task="Flickr30k",
    data_set="Flickr30k",
    images="Flickr30k",
    splits={
        "cvit": {
            "train": Split(_train_rows, _RAW, 145000),
            "test": Split(
                lambda raw: _test_rows(raw, ("val",)),
                _RAW,
                1014,
                note="Karpathy's val, which has 1014 images",
            ),
        },
        "ucit": {
            "train": Split(
                _train_rows, _RAW, 40000, draw=40000, note="which captions the authors drew is not published"
            ),
            "test": Split(
                lambda raw: _test_rows(raw, ("val", "test")),
                _RAW,
                3000,
                note="Karpathy's val and test; they have 2014 images, and which 3000 the authors took is not "
                "published",
            ),
        },
    },
)
