"""Image positions, tiles and position ids: transformers' own processors and models, and published sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from family_kit import FAMILIES, PATCH, Noise
from PIL import Image
from torch import Tensor

from lit_cvit.backbones import Backbone
from lit_cvit.backbones.llava_next import TileGrid
from lit_cvit.data.tasks import Sample

SIZES = ((40, 30), (20, 60), (90, 80), (31, 95), (300, 280), (64, 32))
QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


@pytest.fixture
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    family = FAMILIES[request.param]
    family.build(tmp_path)
    settings: dict[str, Any] = family.settings
    return family.backbone(str(tmp_path), **settings)


@pytest.mark.parametrize("backbone", ["llava_next", "llava_next_mistral"], indirect=True)
def test_ids_and_pixels_are_those_of_transformers_own_processor(backbone: Backbone) -> None:
    # The processors of the other families cannot do without torchvision.
    processor = transformers.LlavaNextProcessor(
        backbone.processor.image_processor,
        backbone.tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    for width, height in SIZES:
        sample = Sample("one", "VQA", "Q", "", ("A",), Noise(1, width, height))
        theirs = processor(
            images=[Noise(1, width, height).open()], text=[backbone.prompt(sample)], return_tensors="pt"
        )
        ours = backbone.encode([sample], with_answers=False).inputs
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
        assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


# Sizes as in the configs of llava-hf/llava-v1.6-vicuna-7b-hf and llava-onevision-qwen2-7b-ov-hf, which are
# also the defaults of transformers' LlavaNextConfig and LlavaOnevisionConfig.
NEXT = TileGrid(((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)), tile=336, patches=24)
SIDES = range(384, 2305, 384)
ONEVISION = TileGrid(tuple((h, w) for h in SIDES for w in SIDES), tile=384, patches=27, max_tiles=9)


@pytest.mark.parametrize(
    ("grid", "size", "positions"),
    [
        # The whole in 24 x 24, and 36 lines of 48 and a line's end: 2 x 2 tiles without their padding.
        (NEXT, (640, 480), 24 * 24 + 36 * 49),
        (NEXT, (672, 672), 24 * 24 + 48 * 49),
        (NEXT, (1008, 336), 24 * 24 + 24 * 73),
        (NEXT, (336, 1008), 24 * 24 + 72 * 25),
        (ONEVISION, (384, 384), 27 * 27 + 27 * 28),
        (ONEVISION, (640, 480), 2929),
        (ONEVISION, (1151, 1398), 8765),
    ],
)
def test_published_resolutions_take_their_published_positions(
    grid: TileGrid, size: tuple[int, int], positions: int
) -> None:
    assert grid(*size) == positions


def test_resolutions_are_height_and_width() -> None:
    # One line of three tiles of 4 x 4 patches: a wide image fills it, a high one takes two columns.
    grid = TileGrid(((32, 96),), tile=32, patches=4)
    assert grid(96, 32) == 16 + 4 * 13
    assert grid(32, 96) == 16 + 4 * 3


class HalfWhite:
    """Twice as wide as high: white on the left, black on the right."""

    def open(self) -> Image.Image:
        pixels = np.zeros((32, 64, 3), np.uint8)
        pixels[:, :32] = 255
        return Image.fromarray(pixels)


@pytest.mark.parametrize("backbone", ["internvl"], indirect=True)
def test_internvls_tiles_go_line_by_line_and_the_thumbnail_is_last(backbone: Backbone) -> None:
    sample = Sample("one", "VQA", "Q", "", ("A",), HalfWhite())
    pixels = backbone.encode([sample], with_answers=False).inputs["pixel_values"]
    left, right, thumbnail = pixels.mean(dim=(1, 2, 3)).tolist()
    assert right < thumbnail < left
    assert thumbnail == pytest.approx((left + right) / 2, abs=1e-2)


@pytest.mark.parametrize("backbone", QWEN, indirect=True)
def test_an_image_takes_as_many_steps_as_its_longer_side(backbone: Backbone) -> None:
    # 64 x 32 pixels are 2 lines of 4 positions.
    sample = Sample("one", "VQA", "Q", "", ("A",), Noise(0, 64, 32))
    batch = backbone.load().encode([sample], with_answers=True)
    places = (batch.inputs["input_ids"][0] == backbone.encoder.image_id).nonzero()[:, 0]
    first = int(places[0])
    assert places.tolist() == list(range(first, first + 8))
    found = backbone.positions(backbone._model_inputs(batch))[:, 0]
    assert found[:, :first].tolist() == [list(range(first))] * 3
    expected = [[0] * 8, [0] * 4 + [1] * 4, [0, 1, 2, 3] * 2]
    assert (found[:, places] - first).tolist() == expected
    after = found.shape[1] - first - 8
    assert found[:, first + 8 :].tolist() == [list(range(first + 4, first + 4 + after))] * 3


@pytest.mark.parametrize("backbone", QWEN, indirect=True)
def test_generation_from_padded_rows_counts_positions_as_each_row_alone(backbone: Backbone) -> None:
    samples = [
        Sample("image", "VQA", "Q", "", ("A",), Noise(0)),
        Sample("text", "QA", "Which? " * 30, "", ("A",)),
        Sample("turns", "Chat", "Q2", "", ("A2",), Noise(2, 90, 80), history=(("Q1", "A1"),)),
    ]
    seen: list[Tensor] = []
    backbone.load().language_model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["position_ids"][-3:]), with_kwargs=True
    )

    def generate(chosen: list[Sample]) -> list[Tensor]:
        seen.clear()
        backbone.generate(backbone.encode(chosen, with_answers=False), max_new_tokens=3)
        return list(seen)

    batch = backbone.encode(samples, with_answers=False)
    real = batch.inputs["attention_mask"].bool()
    ours = backbone.positions(backbone._model_inputs(batch))
    together = generate(samples)
    for row, sample in enumerate(samples):
        prompt, *steps = generate([sample])
        assert torch.equal(together[0][:, row, real[row]], prompt[:, 0])
        assert torch.equal(ours[:, row, real[row]], prompt[:, 0])
        for shared, alone in zip(together[1:], steps, strict=False):
            assert torch.equal(shared[:, row], alone[:, 0])
