"""Drawn scenes: pixels are a pure function of the scene, and everything drawn can be distinguished."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from lit_cvit.miniature.glyphs import GLYPH_ROWS, GLYPHS, glyph_mask
from lit_cvit.miniature.scenes import (
    COLOURS,
    FILLS,
    PATTERNS,
    PLACES,
    SHAPES,
    TINTS,
    DrawnImage,
    Scene,
    Thing,
    draw,
    shape_mask,
)

# Pixels off by more than this are seen as other than noise, whose deviation is 6.
CLEARLY = 60

PLAIN = Scene(
    (
        Thing("circle", "red", 0),
        Thing("moon", "blue", 4, "striped", (0, 2)),
        Thing("heart", "white", 8, "hollow", (2, 0)),
    )
)
SIGNS = Scene(
    (
        Thing("K", "yellow", 3),
        Thing("9", "yellow", 4, shift=(2, 2)),
        Thing("Q", "yellow", 5, shift=(0, 0)),
        Thing("star", "green", 7, "dotted"),
    ),
    "wavy",
    "navy",
    12345,
)
POOR = Scene(
    (
        Thing("triangle", "purple", 1, "dotted"),
        Thing("cross", "green", 2),
        Thing("diamond", "red", 6),
        Thing("square", "white", 5, "striped"),
    ),
    "checked",
    "brown",
    7,
    quality=0.6,
)


def pixels(scene: Scene) -> np.ndarray:
    return draw(scene).astype(int)


def num_clear(one: np.ndarray, other: np.ndarray) -> int:
    """Pixels that clearly differ in some channel."""
    return int((np.abs(one - other).max(axis=-1) > CLEARLY).sum())


@pytest.mark.parametrize(
    ("scene", "golden"),
    [
        (PLAIN, "f184cb50e6f6d75d4e03f1022c752180ae53a6120413738a9bd188dc8c363597"),
        (SIGNS, "28e9821c154b0e61eea5fe2b4c89ab80803bbae67b12b64b82a71f554d867df1"),
        (POOR, "5616d99b83b8917ded437c42706650d8efd55befc25797cb0def037f7f7435ba"),
    ],
    ids=["plain", "signs", "poor"],
)
def test_pixels_of_a_scene_never_change(scene: Scene, golden: str) -> None:
    image = draw(scene)
    assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
    assert hashlib.sha256(image.tobytes()).hexdigest() == golden


def test_digests_never_change_as_they_part_train_from_test() -> None:
    assert [scene.digest() for scene in (PLAIN, SIGNS, POOR)] == [
        6664562751584832001,
        5901225966812202367,
        8821457053475920441,
    ]


def test_drawing_is_independent_of_what_was_drawn_before() -> None:
    alone = draw(SIGNS)
    draw(PLAIN)
    draw(POOR)
    assert np.array_equal(draw(SIGNS), alone)


def test_an_image_source_opens_as_the_drawn_pixels() -> None:
    image = DrawnImage(SIGNS).open()
    assert (image.mode, image.size) == ("RGB", (48, 48))
    assert np.array_equal(np.asarray(image), draw(SIGNS))


def test_digest_ignores_noise_and_shift_and_quality_and_order_of_things() -> None:
    moved = tuple(Thing(t.name, t.colour, t.place, t.fill, (2, 1)) for t in reversed(PLAIN.things))
    assert Scene(moved, noise=99, quality=0.6).digest() == PLAIN.digest()


@pytest.mark.parametrize(
    "other",
    [
        Scene(PLAIN.things[:2]),
        Scene((Thing("circle", "green", 0), *PLAIN.things[1:])),
        Scene((Thing("circle", "red", 1), *PLAIN.things[1:])),
        Scene((Thing("circle", "red", 0, "dotted"), *PLAIN.things[1:])),
        Scene(PLAIN.things, "wavy"),
        Scene(PLAIN.things, tint="navy"),
    ],
    ids=["thing", "colour", "place", "fill", "pattern", "tint"],
)
def test_digest_depends_on_what_is_shown(other: Scene) -> None:
    assert other.digest() != PLAIN.digest()


def test_every_shape_with_every_fill_looks_unlike_any_other() -> None:
    looks = {
        key: pixels(Scene((Thing(key[0], "red", 4, key[1]),))) for key in itertools.product(SHAPES, FILLS)
    }
    close = [(a, b) for a, b in itertools.combinations(looks, 2) if num_clear(looks[a], looks[b]) < 12]
    assert close == []


def test_every_colour_looks_unlike_any_other() -> None:
    looks = {colour: pixels(Scene((Thing("square", colour, 4),))) for colour in COLOURS}
    area = int(shape_mask("square").sum())
    assert area == 144
    for one, other in itertools.combinations(looks, 2):
        assert num_clear(looks[one], looks[other]) == area


def test_every_background_looks_unlike_any_other() -> None:
    looks = {key: pixels(Scene((), *key)) for key in itertools.product(PATTERNS, TINTS)}
    distances = {(a, b): np.abs(looks[a] - looks[b]).mean() for a, b in itertools.combinations(looks, 2)}
    # All have the same noise, so equal backgrounds would be at distance 0.
    assert min(distances.values()) > 3


def test_every_place_has_its_own_pixels() -> None:
    empty = pixels(Scene(()))
    drawn = [np.abs(pixels(Scene((Thing("square", "white", p),))) - empty).max(axis=-1) > 0 for p in range(9)]
    assert sum(mask.astype(int) for mask in drawn).max() == 1
    for place, mask in enumerate(drawn):
        rows, columns = mask.nonzero()
        assert (rows.min() // 16 * 3 + columns.min() // 16) == place
        assert (rows.max() // 16 * 3 + columns.max() // 16) == place


@pytest.mark.parametrize("name", ["square", "W"])
def test_a_shifted_thing_stays_in_its_place(name: str) -> None:
    for shift in itertools.product(range(3), repeat=2):
        changed = np.abs(pixels(Scene((Thing(name, "white", 4, shift=shift),))) - pixels(Scene(()))).max(
            axis=-1
        )
        outside = np.ones((48, 48), dtype=bool)
        outside[16:32, 16:32] = False
        assert not (changed > 0)[outside].any()


def test_lower_quality_has_more_noise_and_less_contrast() -> None:
    sharp, poor = pixels(Scene(())), pixels(Scene((), quality=0.6))
    assert poor.std() > 2 * sharp.std()
    thing = (Thing("square", "white", 4),)
    contrast = [
        pixels(Scene(thing, quality=q))[18:28, 18:28].mean()
        - pixels(Scene((), quality=q))[18:28, 18:28].mean()
        for q in (1.0, 0.6)
    ]
    assert contrast[1] < 0.65 * contrast[0]


def test_there_is_a_bitmap_for_every_capital_and_digit() -> None:
    assert "".join(GLYPHS) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    assert {tuple(map(len, rows.split())) for rows in GLYPH_ROWS.values()} == {(5,) * 7}
    assert {character for rows in GLYPH_ROWS.values() for character in rows} == {"0", "1", " "}


def test_every_two_glyphs_differ_in_at_least_three_bits() -> None:
    for one, other in itertools.combinations(GLYPHS, 2):
        assert (glyph_mask(one, scale=1) != glyph_mask(other, scale=1)).sum() >= 3, (one, other)


def test_a_glyph_is_scaled_without_rounding() -> None:
    small, large = glyph_mask("K", scale=1), glyph_mask("K")
    assert large.shape == (14, 10)
    assert np.array_equal(large[::2, ::2], small)
    assert np.array_equal(large[1::2, 1::2], small)


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (Scene((Thing("blob", "red", 0),)), "no shape 'blob'; drawn: circle, square"),
        (Scene((Thing("a", "red", 0),)), "no shape 'a'"),
        (Scene((Thing("circle", "pink", 0),)), "no colour 'pink'; drawn: red, green"),
        (Scene((Thing("circle", "red", 9),)), "no place 9; places are 0..8"),
        (Scene((Thing("circle", "red", -1),)), "no place -1"),
        (Scene((Thing("circle", "red", 0, "furry"),)), "no fill 'furry'; drawn: solid, striped"),
        (Scene((), "tartan"), "no pattern 'tartan'; drawn: plain, lined"),
        (Scene((), tint="pink"), "no tint 'pink'; drawn: grey, navy"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_drawn(scene: Scene, message: str) -> None:
    with pytest.raises(ValueError, match="no (shape|colour|place|fill|pattern|tint) ") as caught:
        draw(scene)
    assert str(caught.value).startswith(message)


def test_an_unknown_glyph_is_refused() -> None:
    with pytest.raises(ValueError, match="no glyph for '&'; drawn: ABC"):
        glyph_mask("&")


def test_there_are_nine_places() -> None:
    assert len(PLACES) == len(set(PLACES)) == 9
