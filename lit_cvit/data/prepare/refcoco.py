"""Grounding of CoIN: RefCOCO, RefCOCO+ and RefCOCOg, as the `refer` toolbox publishes them.

Referring expressions lie in pickles, which can run any code when they are loaded; these are only read as far
as they hold plain lists, dicts, texts and numbers. Boxes lie beside them, in pixels of the image.

CoIN trains on about 55,000 records and tests on 30,969. The latter are the expressions of the usual test sets
of the three. The former is the number of their training images, 16,994 + 16,992 + 21,899: a record of CoIN
seems to hold all expressions of an image as turns of one conversation. Here one expression of each is drawn.

The three share COCO's images and are split separately: training images of one are test images of another.
"""

from __future__ import annotations

import pickle
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lit_cvit.data.prepare.base import (
    Converter,
    Dropped,
    Fields,
    Raw,
    Row,
    Rows,
    Split,
    chance,
    checked,
    entries,
    of_splits,
)

NOT_DRAWN = "another expression of the image was drawn"
NO_BOX = "its box or image is not in instances.json"
NO_AREA = "box without an area"
NO_EXPRESSION = "empty expression"
_REF: Fields = {"ref_id": int, "ann_id": int, "split": str, "sentences": list}
_SENTENCE: Fields = {"sent_id": int, "sent": str}
_IMAGE: Fields = {"id": int, "file_name": str, "width": int, "height": int}
_ANNOTATION: Fields = {"id": int, "image_id": int, "bbox": list}


@dataclass(frozen=True)
class _Source:
    """One of the three data sets: its folder, the file of its references, and its splits for testing."""

    folder: str
    refs: str
    test: frozenset[str]

    def raw(self) -> tuple[Raw, Raw]:
        archive = f"{self.folder}.zip, see https://github.com/lichengunc/refer/issues/14"
        return (
            Raw(f"RefCOCO/{self.folder}/{self.refs}", f"referring expressions of {self.folder}", archive),
            Raw(f"RefCOCO/{self.folder}/instances.json", f"boxes of {self.folder}", archive),
        )


_SOURCES = (
    _Source("refcoco", "refs(unc).p", frozenset({"testA", "testB"})),
    _Source("refcoco+", "refs(unc).p", frozenset({"testA", "testB"})),
    _Source("refcocog", "refs(umd).p", frozenset({"test"})),
)


class _PlainUnpickler(pickle.Unpickler):
    """Builds lists, dicts, texts and numbers; whatever a pickle would import is refused."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which would run code")


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of lists, dicts, texts and numbers.

    Raises:
        ValueError: the file is damaged or no pickle, or holds anything else; names the file.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8").load()
    except Exception as error:  # damaged pickles raise anything; all of it means the same
        raise ValueError(f"{path}: not a pickle of plain data ({error}); download it again") from error


def box_on_square(box: Sequence[float], width: int, height: int) -> list[float]:
    """Return the edges of a box on the image once it is padded to a square, the image in the middle.

    Args:
        box: Left and top edge, width and height, in pixels of the image.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        Left, top, right and bottom edge as parts of the square's side, to two decimals.
    """
    side = max(width, height)
    left, top = box[0] + (side - width) / 2, box[1] + (side - height) / 2
    edges = (left, top, left + box[2], top + box[3])
    return [round(edge / side, 2) for edge in edges]


def _expressions(raw: Path, source: _Source, splits: frozenset[str]) -> Rows:
    folder = raw / "RefCOCO" / source.folder
    path = folder / source.refs
    refs = read_plain_pickle(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path}: got {reprlib.repr(refs)}; it must be a list of references")
    instances = folder / "instances.json"
    images = {image["id"]: image for _, image in entries(instances, _IMAGE, "images")}
    boxes = {  # without the outlines, which are most of the file
        box["id"]: (images.get(box["image_id"]), box["bbox"])
        for _, box in entries(instances, _ANNOTATION, "annotations")
    }
    listed = (
        (place, checked(entry, _REF, place))
        for place, entry in ((f"{path}, [{position}]", each) for position, each in enumerate(refs))
    )
    for place, ref in of_splits(listed, lambda each: each[1]["split"], splits, path):
        image, box = boxes.get(ref["ann_id"], (None, []))
        for number, sentence in enumerate(ref["sentences"]):
            expression = checked(sentence, _SENTENCE, f"{place}, sentences[{number}]")
            if image is None:
                yield Dropped(NO_BOX)
            elif min(box[2:4]) <= 0:
                yield Dropped(NO_AREA)
            elif not expression["sent"].strip():
                yield Dropped(NO_EXPRESSION)
            else:
                yield _row(
                    f"{source.folder}_{ref['ref_id']}_{expression['sent_id']}", expression["sent"], box, image
                )


def _row(id_: str, expression: str, box: list[float], image: Row) -> Row:
    edges = box_on_square(box, image["width"], image["height"])
    return {
        "id": id_,
        "image": f"train2014/{image['file_name']}",
        "question": expression,
        "answers": [f"[{', '.join(f'{edge:.2f}' for edge in edges)}]"],
        "bbox": edges,
        "size": [image["width"], image["height"]],
    }


def _one_of_each_image(rows: Rows) -> Rows:
    drawn: dict[str, Row] = {}
    for row in rows:
        if isinstance(row, Dropped):
            yield row
            continue
        held = drawn.setdefault(row["image"], row)
        if held is not row:
            drawn[row["image"]] = min(held, row, key=lambda one: chance(one["id"]))
            yield Dropped(NOT_DRAWN)
    yield from drawn.values()


def _train(raw: Path) -> Rows:
    for source in _SOURCES:
        yield from _one_of_each_image(_expressions(raw, source, frozenset({"train"})))


def _test(raw: Path) -> Rows:
    for source in _SOURCES:
        yield from _expressions(raw, source, source.test)


_RAW = (
    *(raw for source in _SOURCES for raw in source.raw()),
    Raw("COCO2014/train2014/", "images", "http://images.cocodataset.org/zips/train2014.zip"),
)

CONVERTER = Converter(
    task="Grounding",
    data_set="RefCOCO, RefCOCO+ and RefCOCOg",
    images="COCO2014",
    splits={
        "coin": {
            "train": Split(
                _train,
                _RAW,
                published=55_885,
                note="CoIN prints 55k; one expression of each image, where CoIN seems to have all of them",
            ),
            "test": Split(_test, _RAW, published=30_969),
        }
    },
)
