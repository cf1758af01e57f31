"""TextCaps 0.1 (arXiv 2003.12462): captions that read the text in a photo; only tested, on `val`."""

from __future__ import annotations

from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Raw, Rows, Split, entries
from lit_cvit.data.prepare.textvqa import IMAGES

_FIELDS = {"image_id": str, "caption_str": str}
_PATH = "TextCaps/TextCaps_0.1_val.json"


def _rows(raw: Path) -> Rows:
    captions: dict[str, list[str]] = {}
    stated = {"dataset_type": "val", "set_name": "val"}
    for _, entry in entries(raw / _PATH, _FIELDS, "data", stated):
        captions.setdefault(entry["image_id"], []).append(entry["caption_str"])
    for image, answers in captions.items():
        yield {"id": image, "image": f"train_images/{image}.jpg", "question": "", "answers": answers}


CONVERTER = Converter(
    task="TextCaps",
    data_set="TextCaps",
    images="TextVQA",
    splits={
        "cvit": {
            "test": Split(
                rows=_rows,
                raw=(Raw(_PATH, "captions, release 0.1", "https://textvqa.org/textcaps/dataset"), IMAGES),
                published=3166,
                note="published as 15830 captions, five of each of 3166 images; here an image is one record "
                "with all its captions as references, which gives the same CIDEr",
            )
        }
    },
)
