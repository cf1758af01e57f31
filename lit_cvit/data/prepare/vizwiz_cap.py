"""VizWiz-cap of UCIT: captions of pictures taken by people who are blind (Gurari et al., arXiv 2002.08565).

UCIT trains on 40,000 of the 117,155 captions of the training images, and tests on 3,000 of the validation
images with all five captions of each; captions of the test images are not public. The owner marks captions as
precanned ("Quality issues are too severe ...") or rejected; UCIT's files have them too, and so does this.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path, PurePosixPath

from lit_cvit.data.prepare.base import Converter, Dropped, Fields, Raw, Row, Rows, Split, entries
from lit_cvit.data.prepare.vizwiz import check_split

NO_CAPTION = "empty caption"
NO_IMAGE = "caption of an image that is not listed"
UNCAPTIONED = "image without a caption"
_IMAGE: Fields = {"id": int, "file_name": str}
_ANNOTATION: Fields = {"id": int, "image_id": int, "caption": str}


def _annotations(split: str) -> Raw:
    return Raw(
        f"VizWiz-cap/annotations/{split}.json",
        "captions",
        "annotations.zip at https://vizwiz.org/tasks-and-datasets/image-captioning/",
    )


def _images(raw: Path, split: str) -> dict[int, str]:
    path, images = raw / _annotations(split).path, {}
    for position, image in entries(path, _IMAGE, "images"):
        check_split(image, "file_name", split, f"{path}, images[{position}]")
        images[image["id"]] = image["file_name"]
    return images


def _captions(raw: Path) -> Rows:
    """One row a caption of the training images."""
    images = _images(raw, "train")
    for _, captioned in entries(raw / _annotations("train").path, _ANNOTATION, "annotations"):
        name, caption = images.get(captioned["image_id"]), captioned["caption"].strip()
        if name is None:
            yield Dropped(NO_IMAGE)
        elif not caption:
            yield Dropped(NO_CAPTION)
        else:
            yield _row(f"{PurePosixPath(name).stem}_{captioned['id']}", f"train/{name}", [caption])


def _captioned(raw: Path) -> Rows:
    """One row a validation image, with all its captions."""
    captioned: defaultdict[int, list[str]] = defaultdict(list)
    for _, each in entries(raw / _annotations("val").path, _ANNOTATION, "annotations"):
        if caption := each["caption"].strip():
            captioned[each["image_id"]].append(caption)
        else:
            yield Dropped(NO_CAPTION)
    images = _images(raw, "val")
    yield from (Dropped(NO_IMAGE) for id_ in captioned if id_ not in images)
    for id_, name in images.items():
        if captioned[id_]:
            yield _row(PurePosixPath(name).stem, f"val/{name}", captioned[id_])
        else:
            yield Dropped(UNCAPTIONED)


def _row(id_: str, image: str, captions: list[str]) -> Row:
    return {"id": id_, "image": image, "question": "", "answers": captions}


def _raw(split: str) -> tuple[Raw, Raw]:
    source = f"{split}.zip at https://vizwiz.org/tasks-and-datasets/image-captioning/"
    return _annotations(split), Raw(f"VizWiz/{split}/", "images", source)


_split = partial(Split, note="UCIT's draw is not published")

CONVERTER = Converter(
    task="VizWiz-cap",
    data_set="VizWiz-Captions",
    images="VizWiz",
    splits={
        "ucit": {
            "train": _split(_captions, _raw("train"), published=40_000, draw=40_000),
            "test": _split(_captioned, _raw("val"), published=3_000, draw=3_000),
        }
    },
)
