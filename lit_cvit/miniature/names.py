"""What things are called, by looks that do not suggest it: the classes of the tasks that name things.

`tiny` has met the names in clauses and behind an article (`instruct.py`), as a real model has met those of
ImageNet.
"""

from __future__ import annotations

# By shape and fill: ImageNet of `cvit-mini` and `coin-mini`.
OBJECT_CLASSES: dict[tuple[str, str], str] = {
    ("circle", "striped"): "beetle",
    ("circle", "dotted"): "button",
    ("square", "hollow"): "window",
    ("square", "striped"): "carpet",
    ("triangle", "solid"): "helmet",
    ("star", "solid"): "lantern",
    ("cross", "dotted"): "ladder",
    ("diamond", "hollow"): "kettle",
    ("heart", "striped"): "pillow",
    ("moon", "solid"): "anchor",
}
# By shape, whatever its colour and fill: ImageNet-R of `ucit-mini`.
RENDITION_CLASSES = {
    "circle": "lemon",
    "square": "mirror",
    "triangle": "rocket",
    "star": "zebra",
    "cross": "hammer",
    "diamond": "feather",
    "heart": "rabbit",
    "moon": "violin",
}
# By pattern and tint of the ground: Places365 of `cvit-mini`.
PLACE_CLASSES: dict[tuple[str, str], str] = {
    ("wavy", "navy"): "harbour",
    ("spotted", "moss"): "meadow",
    ("plain", "brown"): "desert",
    ("checked", "grey"): "kitchen",
    ("barred", "moss"): "forest",
    ("lined", "brown"): "stadium",
    ("plain", "navy"): "airport",
    ("barred", "grey"): "office",
}
