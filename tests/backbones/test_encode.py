"""Prompts, masks, padding and lengths."""

from __future__ import annotations

import copy
import pickle
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lit_cvit.backbones import encode
from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.backbones.encode import _most_tokens
from lit_cvit.backbones.framing import open_images
from lit_cvit.backbones.llava import Llava
from lit_cvit.backbones.tiny import Tiny
from lit_cvit.data.tasks import Sample, SampleError


def texts(backbone: Llava, ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
    return [backbone.tokenizer.decode(row[stored]) for row, stored in zip(ids, mask, strict=True)]


def test_answer_mask_marks_every_answer_and_its_end_and_nothing_else(
    llava: Llava, samples: list[Sample]
) -> None:
    batch = llava.encode(samples, with_answers=True)
    assert batch.answer_mask is not None
    assert texts(llava, batch.inputs["input_ids"], batch.answer_mask) == [
        " red</s>",
        " Mars is one.</s>",
        " a caf\u00e9\nand a sign</s>",
        " a ball</s> blue and white</s> round</s>",
        " Mars</s> Venus</s>",
    ]


@pytest.mark.parametrize("with_answers", [True, False])
def test_prompt_mask_leaves_out_answers_and_padding(
    llava: Llava, samples: list[Sample], with_answers: bool
) -> None:
    batch = llava.encode(samples, with_answers=with_answers)
    prompts = texts(llava, batch.inputs["input_ids"], batch.prompt_mask)
    assert prompts[3] == (
        f"<s>{Llava.system_prompt} USER: {'<image>' * 16}\nWhat is this? ASSISTANT:"
        "USER: What colour? ASSISTANT:USER: And its shape? ASSISTANT:"
    )
    assert prompts[4] == (
        f"<s>{Llava.system_prompt} USER: Name a planet. ASSISTANT:USER: Another? ASSISTANT:"
    )


def test_training_pads_right_and_generation_pads_left(llava: Llava, samples: list[Sample]) -> None:
    for with_answers, side in ((True, 0), (False, -1)):
        mask = llava.encode(samples, with_answers=with_answers).inputs["attention_mask"]
        assert mask[:, side].tolist() == [1] * 5
        assert (mask.diff(dim=1) != 0).sum(dim=1).tolist() == [int(n < mask.shape[1]) for n in mask.sum(1)]


def test_a_generation_prompt_is_the_start_of_the_training_tokens(llava: Llava, samples: list[Sample]) -> None:
    for sample in samples:
        train = llava.encode([sample], with_answers=True).inputs["input_ids"][0]
        prompt = llava.encode([sample], with_answers=False).inputs["input_ids"][0]
        assert torch.equal(train[: len(prompt)], prompt)


def test_lengths_are_those_of_the_batches_and_open_no_image(llava: Llava, samples: list[Sample]) -> None:
    batch = llava.encode(samples, with_answers=True)
    assert batch.answer_mask is not None
    prompts = llava.encode(samples, with_answers=False)

    class Unreadable:
        def open(self) -> Image.Image:
            raise AssertionError("opened")

    blind = [replace(s, image=Unreadable() if s.image else None) for s in samples]
    assert llava.encoder.answer_tokens(blind) == batch.answer_mask.sum(1).tolist()
    assert [llava.prompt_length(s) for s in blind] == prompts.inputs["attention_mask"].sum(1).tolist()


def test_a_split_is_measured_as_its_samples_are(
    llava: Llava, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = llava.encode(samples, with_answers=False).inputs["attention_mask"].sum(1).tolist()
    monkeypatch.setattr(encode, "_CHUNK", 2)
    assert llava.encoder.prompt_lengths(iter(samples)) == lengths
    assert llava.encoder.prompt_lengths([]) == []


def test_a_split_with_a_sample_that_is_too_long_is_refused(
    llava_folder: Path, llava: Llava, samples: list[Sample]
) -> None:
    lengths = llava.encoder.prompt_lengths(samples)
    encoder = Llava(str(llava_folder), max_length=max(lengths) - 1).encoder
    longest = samples[lengths.index(max(lengths))]
    with pytest.raises(SampleError, match=f"'{longest.id}' of task .* has {max(lengths)} tokens"):
        encoder.prompt_lengths(samples)


def test_the_digest_of_an_encoder_is_that_of_all_that_decides_a_length(
    llava_folder: Path, llava: Llava, tmp_path: Path
) -> None:
    digest, again = llava.encoder.digest(), Llava(str(llava_folder)).encoder
    # A tokenizer remembers how it was called last.
    again.tokenizer("a text", truncation=True, max_length=2, padding="max_length")
    assert again.digest() == digest
    assert pickle.loads(pickle.dumps(again)).digest() == digest
    others = [
        Llava(str(llava_folder), max_length=100),
        Llava(str(build_llava_folder(tmp_path / "words", texts=["one two one two"]))),
        Llava(str(build_llava_folder(tmp_path / "patches", patch_size=16))),
        Tiny(str(llava_folder)),
    ]
    assert len({digest, *(other.encoder.digest() for other in others)}) == 5


def test_image_rows_name_the_samples_of_the_images(llava: Llava, samples: list[Sample]) -> None:
    batch = llava.encode(samples, with_answers=False, indices=[7, 5, 3, 1, 0])
    assert batch.image_rows.tolist() == [0, 2, 3]
    assert batch.inputs["pixel_values"].shape == (3, 3, 32, 32)
    assert batch.indices == [7, 5, 3, 1, 0]


def test_a_text_only_batch_has_no_pixels(llava: Llava, samples: list[Sample]) -> None:
    batch = llava.encode([samples[1], samples[4]], with_answers=True)
    assert sorted(batch.inputs) == ["attention_mask", "input_ids"]
    assert batch.image_rows.tolist() == []
    assert batch.indices == [-1, -1]


def test_an_image_token_in_the_users_text_is_dropped(llava: Llava, samples: list[Sample]) -> None:
    sample = replace(samples[0], text="<image>\nCompare <image> here")
    assert llava.prompt(sample) == f"{Llava.system_prompt} USER: <image>\nCompare  here ASSISTANT:"
    assert llava.prompt(replace(sample, image=None)) == (
        f"{Llava.system_prompt} USER: Compare  here ASSISTANT:"
    )


def test_tiny_has_its_own_roles_and_no_system_prompt(llava_folder: Path, samples: list[Sample]) -> None:
    assert Tiny(str(llava_folder)).prompt(samples[4]) == (
        "User: Name a planet. Assistant: Mars</s>User: Another? Assistant:"
    )


def test_a_sample_that_is_too_long_is_named_with_its_length(
    llava_folder: Path, llava: Llava, samples: list[Sample]
) -> None:
    length = llava.encode([samples[2]], with_answers=True).inputs["input_ids"].shape[1]
    assert len(Llava(str(llava_folder), max_length=length).encode([samples[2]], with_answers=True)) == 1
    short = Llava(str(llava_folder), max_length=length - 1)
    with pytest.raises(
        ValueError, match=rf"'tall' of task 'Caption' has {length} tokens.*max_length {length - 1}"
    ):
        short.encode([samples[2]], with_answers=True)


def test_a_check_refuses_what_is_too_long_and_opens_no_image(
    llava_folder: Path, llava: Llava, samples: list[Sample]
) -> None:
    class Unreadable:
        def open(self) -> Image.Image:
            raise AssertionError("opened")

    for sample in samples:
        blind = replace(sample, image=Unreadable() if sample.image else None)
        for with_answers in (True, False):
            length = llava.encode([sample], with_answers=with_answers).inputs["input_ids"].shape[1]
            Llava(str(llava_folder), max_length=length).encoder.check(blind, with_answers=with_answers)
            with pytest.raises(SampleError) as caught:
                Llava(str(llava_folder), max_length=length - 1).encoder.check(
                    blind, with_answers=with_answers
                )
            assert (caught.value.cause, caught.value.words) == (
                "too long",
                f"has {length} tokens, more than the backbone's max_length {length - 1}; shorten the record "
                "or leave it out, or raise model.backbone.max_length",
            )


def test_a_check_tokenises_only_what_may_be_too_long_by_its_bytes(
    llava: Llava, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = copy.copy(llava.encoder)
    monkeypatch.setattr(encoder, "tokenizer", None)
    for sample in samples:
        encoder.check(sample, with_answers=True)


@pytest.mark.parametrize("text", ["\u0958" * 9, "caf\u00e9 \U0001f600 \u4e2d\u6587", "a b  c\n\td"])
def test_no_text_has_more_tokens_than_its_bound(llava: Llava, text: str) -> None:
    tokens = llava.tokenizer(unicodedata.normalize("NFC", text))["input_ids"]
    assert len(tokens) <= _most_tokens(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers": ("Ve</s> nus",)}, "'talk' of task 'Chat' has '</s>' in an answer, a special token"),
        ({"answers": ("<pad>",)}, "'talk' of task 'Chat' has '<pad>' in an answer"),
        ({"history": (("hi", "<s>"),)}, "'talk' of task 'Chat' has '<s>' in an answer"),
        ({"answers": ()}, "'talk' of task 'Chat' has an empty answer"),
        ({"answers": ("",)}, "'talk' of task 'Chat' has an empty answer"),
        ({"history": (("hi", ""),)}, "'talk' of task 'Chat' has an empty answer"),
        ({"answers": ("an <image>",)}, "'talk' of task 'Chat' has '<image>' in an answer"),
    ],
)
def test_an_answer_that_cannot_be_learned_is_an_error(
    llava: Llava, samples: list[Sample], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        llava.encode([samples[0], replace(samples[4], **change)], with_answers=True)
    with pytest.raises(SampleError, match=words):
        llava.encoder.check(replace(samples[4], **change), with_answers=True)


def test_the_encoder_pickles_without_the_model(llava: Llava, samples: list[Sample]) -> None:
    stored = pickle.dumps(llava.encoder)
    assert len(stored) < 200_000 < sum(p.numel() * p.element_size() for p in llava.parameters())
    ours = llava.encode(samples, with_answers=True)
    theirs = pickle.loads(stored).encode(samples, with_answers=True)
    assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in ours.inputs)


def test_encoding_needs_no_weights(llava_folder: Path, samples: list[Sample]) -> None:
    backbone = Llava(str(llava_folder))
    assert len(backbone.encode(samples, with_answers=True)) == 5
    with pytest.raises(RuntimeError, match=r"Llava\.load\(\) must run"):
        _ = backbone.model


def test_indices_must_match_the_samples(llava: Llava, samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="5 samples but 2 indices"):
        llava.encode(samples, with_answers=True, indices=[1, 2])
    with pytest.raises(ValueError, match="at least one sample"):
        llava.encode([], with_answers=True)


BLUE = (0, 0, 255)


class Wide:
    """A blue picture of 4 x 2."""

    def open(self) -> Image.Image:
        return Image.new("RGB", (4, 2), BLUE)


def test_images_are_opened_as_the_processor_is_to_see_them(samples: list[Sample]) -> None:
    wide = replace(samples[0], image=Wide())
    text = replace(samples[0], image=None)
    padded = open_images([wide, text], aspect="pad", mean=(1.0, 0.0, 0.0), centred=False)
    assert [image.size for image in padded] == [(4, 4)]
    assert [padded[0].getpixel((0, row)) for row in (0, 1, 2, 3)] == [(255, 0, 0), BLUE, BLUE, (255, 0, 0)]
    assert [
        image.size for image in open_images([text, wide], aspect="crop", mean=(1.0, 0.0, 0.0), centred=True)
    ] == [(4, 2)]
    with pytest.raises(ValueError, match="image_aspect must be 'pad' or 'crop', got 'stretch'"):
        open_images([wide], aspect="stretch", mean=(1.0, 0.0, 0.0), centred=True)  # type: ignore[arg-type]
