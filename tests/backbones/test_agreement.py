"""Parts of a model folder that do not belong together are named when the folder is opened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from family_kit import FAMILIES

from lit_cvit.backbones import Backbone, Llava, Tiny

Change = Callable[[dict[str, Any]], None]


def opened(name: str, folder: Path, file: str = "", change: Change | None = None) -> Backbone:
    """A family's small model of which one JSON file was changed."""
    family = FAMILIES[name]
    family.build(folder)
    if change is not None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))
    settings: dict[str, Any] = family.settings
    return family.backbone(str(folder), **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_one_model_agree_on_something_in_every_family(name: str, tmp_path: Path) -> None:
    backbone = opened(name, tmp_path)
    facts = backbone.agreements()
    assert len(facts) >= 2
    assert all(None not in (one, other) and one == other for one, other in facts.values())
    assert backbone.encoder.image_id == backbone.config.image_token_id


def test_the_shipped_model_agrees() -> None:
    assert list(Tiny().agreements().values()) == [(4, 4), ((48, 48), (48, 48)), (8, 8)]


def test_more_tokens_than_embeddings_are_refused_with_both_numbers_and_the_fix(tmp_path: Path) -> None:
    backbone = opened("llava", tmp_path)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = len(tokens)
    tokens.add_tokens(["<loc_1>", "<loc_2>"])
    tokens.save_pretrained(tmp_path)
    message = re.escape(f"tokenizer has {rows + 2} tokens, its model {rows} rows of embeddings")
    for open_it in (lambda: backbone.encoder, backbone.load):
        with pytest.raises(ValueError, match=message) as caught:
            open_it()
        assert "'<loc_1>', '<loc_2>'; resize the embeddings" in str(caught.value)
        assert f"resize_token_embeddings({rows + 2})" in str(caught.value)


def test_spare_embeddings_are_usual(tmp_path: Path) -> None:
    opened("llava", tmp_path)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path)
    rows = model.get_input_embeddings().num_embeddings + 61
    model.resize_token_embeddings(rows)
    model.save_pretrained(tmp_path)
    assert Llava(str(tmp_path)).load().model.get_input_embeddings().num_embeddings == rows
    assert Llava(str(tmp_path)).encoder.image_id == 3


def test_weights_of_another_shape_than_the_config_says_are_named(tmp_path: Path) -> None:
    backbone = opened("llava", tmp_path, "config.json", lambda c: c["text_config"].update(vocab_size=500))
    with pytest.raises(
        ValueError, match=r"do not fit config.json: lm_head.weight has shape \(\d+, 64\).*500"
    ):
        backbone.load()


def side(size: int) -> Change:
    def change(content: dict[str, Any]) -> None:
        images = content.get("image_processor", content)
        images["size"] = {"shortest_edge": size} if "crop_size" in images else {"height": size, "width": size}
        if "crop_size" in images:
            images["crop_size"] = {"height": size, "width": size}

    return change


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        (
            "llava",
            "config.json",
            lambda c: c.update(image_token_index=7),
            "image token '<image>' is 7 in config.json, but 3",
        ),
        (
            "qwen2_5_vl",
            "config.json",
            lambda c: c.update(image_token_id=9),
            "token '<|image_pad|>' is 9 in config.json, but 5",
        ),
        ("internvl", "config.json", lambda c: c.update(image_token_id=9), "is 9 in config.json, but 5"),
        (
            "llava",
            "processor_config.json",
            side(16),
            "size of an image is 32 x 32 in config.json, but 16 x 16",
        ),
        (
            "llava",
            "processor_config.json",
            lambda c: c.update(patch_size=14),
            "side of a patch is 8 in config.json, but 14",
        ),
        ("llava_next", "preprocessor_config.json", side(48), "size of a tile is 32 x 32 .* 48 x 48"),
        ("llava_onevision", "preprocessor_config.json", side(48), "size of a tile is 32 x 32 .* 48 x 48"),
        (
            "llava_next",
            "preprocessor_config.json",
            lambda c: c.update(image_grid_pinpoints=[[32, 64]]),
            r"image_grid_pinpoints is \[\[32, 64\], .* but \[\[32, 64\]\]",
        ),
        ("internvl", "preprocessor_config.json", side(48), "size of a tile is 32 x 32 .* 48 x 48"),
        (
            "qwen2_vl",
            "preprocessor_config.json",
            lambda c: c.update(patch_size=14),
            "side of a patch is 8 in config.json, but 14",
        ),
        (
            "qwen3_vl",
            "preprocessor_config.json",
            lambda c: c.update(merge_size=4),
            "joined patches is 2 .* 4",
        ),
        (
            "qwen3_vl",
            "preprocessor_config.json",
            lambda c: c.update(temporal_patch_size=1),
            "frames of a patch is 2 .* 1",
        ),
    ],
)
def test_config_and_processor_that_differ_are_refused_with_both_values(
    name: str, file: str, change: Change, message: str, tmp_path: Path
) -> None:
    backbone = opened(name, tmp_path, file, change)
    with pytest.raises(ValueError, match=re.sub(r"(?<!\\)\|", r"\|", message)) as caught:
        _ = backbone.encoder
    assert str(tmp_path) in str(caught.value)
    assert "copy the files of one model" in str(caught.value)
