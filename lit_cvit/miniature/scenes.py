"""Drawn scenes: what the miniature benchmarks show and what the `tiny` backbone is pre-trained on.

A scene is a plain value; its pixels are a pure function of it, computed with integer masks in numpy, so
they do not depend on the rasteriser of an imaging library. An image has 48 x 48 pixels and nine places of
16 x 16, each holding a shape or a glyph.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_cvit.miniature.glyphs import GLYPHS, glyph_mask

SIZE = 48
CELL = 16
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 50, 45),
    "green": (60, 205, 70),
    "blue": (70, 110, 255),
    "yellow": (250, 225, 50),
    "purple": (185, 75, 220),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "moon")
FILLS = ("solid", "striped", "dotted", "hollow")
PATTERNS = ("plain", "lined", "spotted", "checked", "wavy", "barred")
TINTS: dict[str, tuple[int, int, int]] = {
    "grey": (62, 62, 62),
    "navy": (20, 32, 92),
    "moss": (18, 74, 34),
    "brown": (88, 52, 22),
}
_SHAPE_SIZE = 14


@dataclass(frozen=True)
class Thing:
    """A shape or a glyph at one of the nine places; `fill` is a shape's alone."""

    name: str
    colour: str
    place: int
    fill: str = "solid"
    shift: tuple[int, int] = (1, 1)

    @property
    def is_glyph(self) -> bool:
        """Whether this is a letter or digit."""
        return self.name in GLYPHS


@dataclass(frozen=True)
class Scene:
    """Things on a background. `noise` seeds the pixel noise; `quality` below 1 degrades the picture."""

    things: tuple[Thing, ...]
    pattern: str = "plain"
    tint: str = "grey"
    noise: int = 0
    quality: float = 1.0

    def digest(self) -> int:
        """A stable 64-bit digest of what is shown; noise, shifts and quality aside.

        Train and test scenes are separated by it, so that they can never show the same content, nor one of
        them the other's content degraded.
        """
        things = sorted((t.name, t.colour, t.place, t.fill) for t in self.things)
        # The quality once stood last; its default stays in the text, so that sharp scenes keep their splits.
        text = repr((things, self.pattern, self.tint, 1.0))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@functools.cache
def shape_mask(shape: str) -> NDArray[np.bool_]:
    """Return the (14, 14) mask of a shape.

    Raises:
        ValueError: no such shape.
    """
    centre = (_SHAPE_SIZE - 1) / 2
    y, x = (np.mgrid[0:_SHAPE_SIZE, 0:_SHAPE_SIZE] - centre) / (_SHAPE_SIZE / 2)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    match shape:
        case "circle":
            return radius <= 0.9
        case "square":
            return (abs(x) <= 0.8) & (abs(y) <= 0.8)
        case "triangle":
            return (y <= 0.85) & (abs(x) <= (y + 0.95) * 0.52)
        case "star":
            return radius <= 0.7 + 0.3 * np.cos(5 * (angle + np.pi / 2))
        case "cross":
            return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 0.95)
        case "diamond":
            return abs(x) * 1.3 + abs(y) <= 0.98
        case "heart":
            lobes = np.hypot(abs(x) - 0.45, y + 0.35) <= 0.52
            return lobes | ((y >= -0.35) & (abs(x) <= (0.95 - y) * 0.72))
        case "moon":
            return (radius <= 0.95) & (np.hypot(x - 0.5, y) > 0.72)
    raise ValueError(f"no shape {shape!r}; drawn: {', '.join(SHAPES)}")


@functools.cache
def _fill_strength(shape: str, fill: str) -> NDArray[np.float32]:
    """(14, 14) opacity of a filled shape: 1 full colour, 0.3 shade, 0 background."""
    mask = shape_mask(shape)
    rows, columns = np.mgrid[0:_SHAPE_SIZE, 0:_SHAPE_SIZE]
    match fill:
        case "solid":
            bright = np.ones_like(mask)
        case "striped":
            bright = rows % 4 < 2
        case "dotted":
            bright = ~((rows % 4 < 2) & (columns % 4 < 2))
        case "hollow":
            inner = mask.copy()
            for axis in (0, 1):
                for step in (-2, 2):
                    inner &= np.roll(mask, step, axis=axis)
            return (mask & ~inner).astype(np.float32)
        case _:
            raise ValueError(f"no fill {fill!r}; drawn: {', '.join(FILLS)}")
    return (mask * np.where(bright, 1.0, 0.3)).astype(np.float32)


@functools.cache
def _background(pattern: str, tint: str) -> NDArray[np.float32]:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    match pattern:
        case "plain":
            bright = np.zeros((SIZE, SIZE), dtype=bool)
        case "lined":
            bright = rows % 6 < 2
        case "barred":
            bright = columns % 6 < 2
        case "spotted":
            bright = (rows % 6 < 2) & (columns % 6 < 2)
        case "checked":
            bright = (rows // 4 + columns // 4) % 2 == 0
        case "wavy":
            bright = (rows + np.round(2.5 * np.sin(columns * np.pi / 6)).astype(int)) % 8 < 3
        case _:
            raise ValueError(f"no pattern {pattern!r}; drawn: {', '.join(PATTERNS)}")
    base = np.array(TINTS[tint], dtype=np.float32)
    image: NDArray[np.float32] = base * np.where(bright, 1.7, 1.0)[..., None].astype(np.float32)
    return image


def _corner(thing: Thing) -> tuple[int, int]:
    """Row and column of the image where a thing begins."""
    row, column = divmod(thing.place, 3)
    return row * CELL + thing.shift[0], column * CELL + thing.shift[1] + 2 * thing.is_glyph


def _strength(name: str, fill: str) -> NDArray[np.float32]:
    """Opacity of a sign, or of a shape with its fill."""
    return glyph_mask(name).astype(np.float32) if name in GLYPHS else _fill_strength(name, fill)


@functools.cache
def _painted(name: str, fill: str, colour: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a thing puts on a picture, and the weights of what it leaves of it."""
    strength = _strength(name, fill)
    weight = (strength > 0).astype(np.float32)[..., None]
    return weight * strength[..., None] * np.array(COLOURS[colour], np.float32), 1 - weight


def thing_box(thing: Thing) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of what is drawn of a thing, in parts of the image's side, 0 to 1."""
    strength, (top, left) = _strength(thing.name, thing.fill), _corner(thing)
    rows, columns = (np.flatnonzero(strength.any(axis=axis)) for axis in (1, 0))
    edges = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    x1, y1, x2, y2 = (int(edge) / SIZE for edge in edges)
    return x1, y1, x2, y2


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Return the (48, 48, 3) pixels of a scene.

    Raises:
        ValueError: a name or a place in the scene is none that is drawn.
    """
    if scene.tint not in TINTS:
        raise ValueError(f"no tint {scene.tint!r}; drawn: {', '.join(TINTS)}")
    image = _background(scene.pattern, scene.tint).copy()
    for thing in scene.things:
        if thing.colour not in COLOURS:
            raise ValueError(f"no colour {thing.colour!r}; drawn: {', '.join(COLOURS)}")
        if not 0 <= thing.place < len(PLACES):
            raise ValueError(f"no place {thing.place}; places are 0..{len(PLACES) - 1}")
        top, left = _corner(thing)
        paint, rest = _painted(thing.name, thing.fill, thing.colour)
        height, width = rest.shape[:2]
        area = image[top : top + height, left : left + width]
        area *= rest
        area += paint
    generator = np.random.default_rng(scene.noise)
    if scene.quality < 1:
        image = image * scene.quality + 70 * (1 - scene.quality)
    image += generator.normal(0, 6 + 20 * (1 - scene.quality), image.shape).astype(np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class DrawnImage:
    """An image source that draws its scene when a batch is built."""

    scene: Scene

    def open(self) -> Image.Image:
        """Return the drawn RGB image."""
        return Image.fromarray(draw(self.scene))


def random_shift(generator: np.random.Generator) -> tuple[int, int]:
    """A shift of up to one pixel each way, so that no thing is ever at quite the same pixels."""
    row, column = generator.integers(0, 3, size=2)
    return int(row), int(column)


def random_look(
    generator: np.random.Generator, patterns: Sequence[str] = PATTERNS, tints: Sequence[str] = tuple(TINTS)
) -> dict[str, object]:
    """Background and noise of a scene, uniformly drawn."""
    return {
        "pattern": str(generator.choice(patterns)),
        "tint": str(generator.choice(tints)),
        "noise": int(generator.integers(0, 2**31)),
    }
