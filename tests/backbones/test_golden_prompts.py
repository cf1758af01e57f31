"""The conversation format and the image preparation of LLaVA-1.5 against recorded reference outputs."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_cvit.backbones.encode import SampleEncoder, pad_to_square
from lit_cvit.backbones.llava import Llava
from lit_cvit.data.tasks import Sample

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["id"]: case for case in json.loads((GOLDEN / "prompts_masks.json").read_text())["cases"]}
IMAGES = np.load(GOLDEN / "image_pad_crop.npz")


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
    return SampleEncoder(
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}
        ),
        chat=Llava("unused").chat_format,
        num_image_tokens=1,
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
