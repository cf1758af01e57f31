"""The conversation format and the image preparation of LLaVA-1.5 against recorded reference outputs."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_cvit.backbones.encode import SampleEncoder
from lit_cvit.backbones.framing import pad_to_square
from lit_cvit.backbones.llava import Llava
from lit_cvit.data.tasks import Sample

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["id"]: case for case in json.loads((GOLDEN / "prompts_masks.json").read_text())["cases"]}
IMAGES = np.load(GOLDEN / "image_pad_crop.npz")
MERGE_FILE = np.load(GOLDEN / "prompts_collate_merge.npz")
MERGED_NAMES = MERGE_FILE["names"].tolist()
MERGED = {
    name: torch.from_numpy(MERGE_FILE[name]) for name in MERGE_FILE if name not in ("names", "truncate_to")
}


class Picture:
    """An image of the golden file."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def open(self) -> Image.Image:
        return Image.fromarray(IMAGES[f"image_{self.number}"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SampleEncoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(GOLDEN / "tiny_llama_tokenizer.json", folder / "tokenizer.json")
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "unk_token": "<unk>", "pad_token": "<unk>"})
    )
    # The model type decides which tokenizer class transformers takes; llava keeps tokenizer.json as it is.
    (folder / "config.json").write_text('{"model_type": "llava"}')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return encoder_of(tokenizer)


def encoder_of(tokenizer: Any, *, num_image_tokens: int = 1) -> SampleEncoder:
    return SampleEncoder(
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}
        ),
        chat=Llava("unused").chat_format,
        num_image_tokens=num_image_tokens,
        image_aspect="pad",
        max_length=512,
    )


def sample_of(case: dict[str, Any]) -> Sample:
    turns = [turn["value"] for turn in case["conversations"]]
    turns = turns[case["conversations"][0]["from"] == "gpt" :]
    *history, (text, answer) = zip(turns[::2], turns[1::2], strict=True)
    return Sample(
        id=case["id"],
        task="golden",
        question="",
        instruction="",
        answers=(answer,),
        image=Picture() if case["has_image"] else None,
        history=tuple(history),
        text=text,
    )


@pytest.mark.parametrize("name", [name for name in CASES if name != "empty_answer"])
@pytest.mark.compat
def test_ids_and_labels_equal_the_reference(encoder: SampleEncoder, name: str) -> None:
    case = CASES[name]
    batch = encoder.encode([sample_of(case)], with_answers=True)
    assert batch.answer_mask is not None
    ids = batch.inputs["input_ids"][0]
    ids = ids.masked_fill(ids == encoder.image_id, -200)
    assert ids.tolist() == case["input_ids"]
    labels = ids.masked_fill(~batch.answer_mask[0], -100).tolist()
    if name == "text_with_role_marker":
        # The reference loses this sample (it splits at ' ASSISTANT: '); its answer is two tokens and the end.
        assert case["labels"] == [-100] * len(ids)
        assert labels == [*case["labels"][:-3], *ids[-3:].tolist()]
    else:
        assert labels == case["labels"]


@pytest.mark.parametrize("name", [name for name in CASES if "two_rounds" not in name])
def test_the_generation_prompt_equals_the_reference(encoder: SampleEncoder, name: str) -> None:
    case = CASES[name]
    assert encoder.prompt(sample_of(case)) == case["eval_prompt_first_turn"]
    ids = encoder.encode([sample_of(case)], with_answers=False).inputs["input_ids"][0]
    assert ids.masked_fill(ids == encoder.image_id, -200).tolist() == case["eval_input_ids"]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.compat
def test_images_are_padded_and_prepared_as_in_the_reference(encoder: SampleEncoder, number: int) -> None:
    padded = pad_to_square(Picture(number).open(), encoder.image_processor.image_mean)
    assert np.array_equal(np.asarray(padded), IMAGES[f"padded_{number}"])
    sample = Sample("s", "t", "q", "", ("a",), Picture(number))
    aspects: dict[Literal["pad", "crop"], str] = {"pad": "pad", "crop": "centercrop"}
    for aspect, key in aspects.items():
        own = copy.copy(encoder)
        own.image_aspect = aspect
        pixels = own.encode([sample], with_answers=False).inputs["pixel_values"][0].numpy()
        # Two grey levels: the reference resized with another version of transformers.
        np.testing.assert_allclose(pixels, IMAGES[f"pixels_{key}_{number}"], atol=0.03)


class Recorded(nn.Module):
    """Stands for the projector: gives the image features of the golden file."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, _: Tensor) -> Tensor:
        return self.features


def merging_model(image_id: int, features: Tensor) -> LlavaModel:
    """A LLaVA of width 4 with the golden file's token embeddings and image features."""
    vision = CLIPVisionConfig(
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=20,
        patch_size=10,
    )
    text = LlamaConfig(
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=image_id + 1,
    )
    model = LlavaModel(
        LlavaConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_index=image_id,
            vision_feature_layer=-1,
        )
    )
    model.multi_modal_projector = Recorded(features)
    embeddings = model.get_input_embeddings().get_parameter("weight")
    embeddings.data[MERGED["used_token_ids"]] = MERGED["used_token_embeddings"]
    return model


def test_a_mixed_batch_and_its_merged_embeddings_equal_the_reference(encoder: SampleEncoder) -> None:
    wide = encoder_of(encoder.tokenizer, num_image_tokens=MERGED["image_features"].shape[1])
    batch = wide.encode([sample_of(CASES[name]) for name in MERGED_NAMES], with_answers=True)
    assert batch.answer_mask is not None
    assert batch.image_rows.tolist() == [0, 2, 3]
    counted = batch.inputs["attention_mask"].bool()
    assert torch.equal(counted, MERGED["right_attention_mask"].bool())
    labels = batch.inputs["input_ids"].masked_fill(~batch.answer_mask, -100)
    assert torch.equal(labels, MERGED["right_labels"])
    model = merging_model(wide.image_id, MERGED["image_features"][batch.image_rows])
    seen: list[Tensor] = []
    model.language_model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["inputs_embeds"].detach()), with_kwargs=True
    )
    with torch.no_grad():
        model(**batch.inputs)
    # The reference leaves zeros at padding; here the mask takes it out.
    torch.testing.assert_close(seen[0][counted], MERGED["right_embeds"][counted], rtol=0, atol=1e-6)
