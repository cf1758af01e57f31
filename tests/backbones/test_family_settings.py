"""Settings and files of single families: limits of resolution, hub layouts, refusals; no weights are read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from family_kit import FAMILIES, Noise, tokenizer

from lit_cvit.backbones import InternVL, LlavaNext, LlavaOnevision, Qwen2VL, Qwen3VL
from lit_cvit.data.images import FileImage
from lit_cvit.data.tasks import Sample, SampleError

SAMPLE = Sample("one", "VQA", "Q", "", ("A",), Noise(0, 640, 480))


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    FAMILIES[request.param].build(tmp_path)
    return tmp_path


# Settings as the hub folders of these models have them.
QWEN2 = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2}
HUB: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"image_processor_type": "Qwen2VLImageProcessor", "merge_size": 2, **QWEN2},
    "qwen3_vl": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
    },
    "internvl": {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "crop_to_patches": False,
        "size": {"height": 32, "width": 32},
    },
    "llava_onevision": {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": {"height": 32, "width": 32},
    },
}


@pytest.mark.parametrize("folder", HUB, indirect=True)
def test_image_processors_of_hub_folders_are_read_without_torchvision(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["folder"]
    (folder / "preprocessor_config.json").write_text(json.dumps(HUB[name]))
    found = FAMILIES[name].backbone(str(folder)).processor.image_processor
    assert type(found).__name__ == f"{str(HUB[name]['image_processor_type']).removesuffix('Fast')}Pil"
    side = HUB[name].get("patch_size", HUB[name].get("size", {}).get("height"))
    assert side == (found.patch_size if "patch_size" in HUB[name] else found.size["height"])


@pytest.mark.parametrize("folder", ["qwen2_vl"], indirect=True)
def test_max_pixels_limits_what_an_image_takes(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(HUB["qwen2_vl"]))
    # 640 x 480 pixels are 23 x 17 squares of 28 x 28.
    assert Qwen2VL(str(folder)).num_image_tokens(640, 480) == 391
    assert 1200 < Qwen2VL(str(folder)).num_image_tokens(4000, 3000) <= 1280
    assert Qwen2VL(str(folder), max_pixels=100 * 28 * 28).num_image_tokens(4000, 3000) <= 100
    with pytest.raises(ValueError, match="max_pixels must be at least 3136.*got 1000"):
        _ = Qwen2VL(str(folder), max_pixels=1000).num_image_tokens


@pytest.mark.parametrize("folder", ["qwen3_vl"], indirect=True)
def test_qwen3_vl_shows_32_pixels_a_side_in_a_position(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(HUB["qwen3_vl"]))
    assert Qwen3VL(str(folder)).num_image_tokens(640, 480) == 20 * 15


@pytest.mark.parametrize("folder", ["internvl"], indirect=True)
@pytest.mark.parametrize(("max_tiles", "tiles"), [(1, 1), (2, 2 + 1), (4, 2 + 1), (8, 8 + 1)])
def test_max_tiles_limits_what_an_image_takes(folder: Path, max_tiles: int, tiles: int) -> None:
    # Twice as wide as high: 1, 2 x 1 or 4 x 2 tiles of 4 positions, and a thumbnail beside several.
    assert InternVL(str(folder), max_tiles=max_tiles).num_image_tokens(640, 320) == 4 * tiles


@pytest.mark.parametrize("folder", ["qwen2_vl"], indirect=True)
def test_an_image_that_cannot_be_scaled_is_named_with_its_sample(folder: Path) -> None:
    narrow = replace(SAMPLE, image=Noise(0, 402, 2))
    with pytest.raises(ValueError, match="sample 'one' of task 'VQA' has an image of 402 x 2 pixels"):
        Qwen2VL(str(folder), max_pixels=9216).encode([narrow], with_answers=True)


@pytest.mark.parametrize("folder", ["qwen2_vl", "internvl"], indirect=True)
def test_a_sample_that_is_too_long_with_its_image_is_named(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    family = FAMILIES[request.node.callspec.params["folder"]]
    short: Any = family.backbone(str(folder), **{**family.settings, "max_length": 40})
    with pytest.raises(ValueError, match="'one' of task 'VQA' has .* tokens.*max_length 40"):
        short.encode([SAMPLE], with_answers=True)


@pytest.mark.parametrize("folder", ["llava_onevision"], indirect=True)
def test_another_way_to_limit_tiles_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vision_aspect_ratio": "square"}))
    with pytest.raises(ValueError, match="vision_aspect_ratio must be anyres_max_N, got 'square'"):
        LlavaOnevision(str(folder)).encode([SAMPLE], with_answers=True)


@pytest.mark.parametrize(
    ("decoder", "special", "message"),
    [
        (
            "qwen2",
            ("</s>",),
            "its decoder is of type 'qwen2'; backbone LlavaNext has the prompts of Vicuna",
        ),
        ("llama", ("</s>", "<|im_start|>"), "its decoder is one that speaks ChatML"),
        ("llama", ("<|eot_id|>",), "its decoder is one whose tokenizer lacks </s>;"),
    ],
)
def test_a_llava_next_whose_decoder_has_an_unknown_prompt_is_refused(
    decoder: str, special: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokenizer(special, end=special[0], pad=special[0])
    config = SimpleNamespace(text_config=SimpleNamespace(model_type=decoder))
    monkeypatch.setattr(LlavaNext, "config", config)
    monkeypatch.setattr(LlavaNext, "tokenizer", tokens)
    with pytest.raises(ValueError, match=re.escape(message)):
        _ = LlavaNext("some/model").chat_format


@pytest.mark.parametrize("folder", ["llava_next"], indirect=True)
def test_the_backbone_of_another_family_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="Qwen2VL takes models of type qwen2_vl, qwen2_5_vl;.*'llava_next'"):
        Qwen2VL(str(folder)).load()


SIZES = [(side, other) for side in (28, 60, 336, 700, 4000) for other in (28, 336, 672, 1344, 4000)]


@pytest.mark.parametrize(
    "folder", ["qwen2_vl", "qwen3_vl", "internvl", "llava_next", "llava_onevision"], indirect=True
)
def test_no_image_takes_more_positions_than_the_most(folder: Path, request: pytest.FixtureRequest) -> None:
    family = FAMILIES[request.node.callspec.params["folder"]]
    backbone: Any = family.backbone(str(folder), **family.settings)
    tokens = backbone.num_image_tokens
    largest = max(tokens(*size) for size in SIZES)
    assert largest <= tokens.most <= 1.5 * largest + 200


@pytest.mark.parametrize("folder", ["qwen2_vl", "internvl", "llava_next"], indirect=True)
def test_a_check_reads_an_images_header_where_its_size_decides(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    family = FAMILIES[request.node.callspec.params["folder"]]
    assert SAMPLE.image is not None
    SAMPLE.image.open().save(tmp_path / "shown.png")
    sample = replace(SAMPLE, image=FileImage(tmp_path, "shown.png"))
    backbone: Any = family.backbone(str(folder), **family.settings)
    length = backbone.encode([sample], with_answers=True).inputs["input_ids"].shape[1]
    for limit in (length, length - 1):
        limited: Any = family.backbone(str(folder), **{**family.settings, "max_length": limit})
        if limit == length:
            limited.encoder.check(sample, with_answers=True)
        else:
            with pytest.raises(SampleError, match=f"has {length} tokens"):
                limited.encoder.check(sample, with_answers=True)
