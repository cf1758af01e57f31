"""What Qwen-VL and InternVL write around an object and its box is learned, read and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from family_kit import FAMILIES

from lit_cvit.backbones import Backbone, InternVL, Llava, Qwen2VL
from lit_cvit.data.tasks import Sample, SampleError
from lit_cvit.metrics.boxes import read_box
from lit_cvit.metrics.following import follows_box
from lit_cvit.metrics.scoring import scorer

QWEN = "<|object_ref_start|>dog 2<|object_ref_end|><|box_start|>(10,20),(500,640)<|box_end|>"
INTERN = "<ref>the dog</ref><box>[[10, 20, 500, 640]]</box>"
MARKS = {"qwen2_vl": (Qwen2VL.answer_tokens, QWEN), "internvl": (InternVL.answer_tokens, INTERN)}


def with_marks(name: str, folder: Path) -> Backbone:
    """A family's small model whose tokenizer has the family's marks, as the published ones have."""
    family = FAMILIES[name]
    family.build(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    tokens.add_tokens(list(MARKS[name][0]), special_tokens=True)
    tokens.save_pretrained(folder)
    kind = transformers.AutoModelForImageTextToText
    model = kind.from_pretrained(folder)
    model.resize_token_embeddings(len(tokens), mean_resizing=False)
    model.save_pretrained(folder)
    settings: dict[str, Any] = family.settings
    return family.backbone(str(folder), **settings)


@pytest.mark.parametrize("name", MARKS)
def test_marks_are_learned_as_single_tokens_and_come_back_from_generated_ones(
    name: str, tmp_path: Path
) -> None:
    backbone, (marks, answer) = with_marks(name, tmp_path), MARKS[name]
    sample = Sample("s", "T", "Where?", "", (answer,))
    backbone.encoder.check(sample, with_answers=True)
    batch = backbone.encode([sample], with_answers=True)
    assert batch.answer_mask is not None
    learned = batch.inputs["input_ids"][batch.answer_mask]
    known = backbone.tokenizer.get_vocab()
    assert {known[mark] for mark in marks if mark in answer} <= {*learned.tolist()}
    assert backbone.encoder.decode(learned[None]) == [answer]
    padded = torch.cat([learned, torch.tensor([backbone.encoder.pad_id, backbone.encoder.image_id])])
    assert backbone.encoder.decode(padded[None]) == [answer]


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize("control", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "image"])
def test_control_tokens_and_placeholders_stay_refused(name: str, control: str, tmp_path: Path) -> None:
    backbone = with_marks(name, tmp_path)
    token = backbone.chat_format.image_token if control == "image" else control
    answers = [f"{MARKS[name][1]} {token}"]
    if name == "qwen2_vl" and control == "image":
        answers += [f"a {mark}" for mark in ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")]
    for answer in answers:
        with pytest.raises(SampleError, match="special token of the backbone; remove it"):
            backbone.encoder.check(Sample("s", "T", "Where?", "", (answer,)), with_answers=True)


def test_a_family_that_writes_no_marks_takes_none_that_its_tokenizer_has(tmp_path: Path) -> None:
    FAMILIES["llava"].build(tmp_path)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokens.add_tokens(["<|box_start|>"], special_tokens=True)
    tokens.save_pretrained(tmp_path)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path)
    model.resize_token_embeddings(len(tokens), mean_resizing=False)
    model.save_pretrained(tmp_path)
    sample = Sample("s", "T", "Where?", "", ("<|box_start|>(1,2),(3,4)",))
    with pytest.raises(SampleError, match=r"'<\|box_start\|>' in an answer"):
        Llava(str(tmp_path)).encoder.check(sample, with_answers=True)


@pytest.mark.parametrize(
    "answer", [QWEN, INTERN, "<|box_start|>(10,20),(500,640)<|box_end|>", "[10, 20, 500, 640]"]
)
def test_the_box_between_the_marks_is_scored(answer: str) -> None:
    assert read_box(answer) == (10, 20, 500, 640)
    sample = Sample("s", "T", "Where?", "", (QWEN,))
    scorer("grounding_iou").check(sample)
    assert scorer("grounding_iou")([answer], [sample]) == [1.0]


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        # Two boxes are none; without the second mark, all numbers count.
        ("<|box_start|>(1,2),(3,4)<|box_end|><|box_start|>(1,2),(3,4)<|box_end|>", None),
        ("<|box_start|>(1,2),(3,4)", (1, 2, 3, 4)),
        ("dog 2 <|box_start|>(1,2),(3,4)", None),
        ("<box></box>", None),
    ],
)
def test_marks_that_hold_no_single_box_hold_none(answer: str, box: tuple[int, ...] | None) -> None:
    assert read_box(answer) == box


@pytest.mark.parametrize(
    ("answer", "follows"),
    [
        ("<|box_start|>(10,20),(500,640)<|box_end|>", True),
        ("<box>[[10, 20, 500, 640]]</box>", True),
        ("<box>[10, 20, 500, 640]</box>", True),
        ("<|box_start|>10 20 500 640<|box_end|>", False),
        ("<|box_start|>(10,20),(500,640)<|box_end|>.", False),
        ("(10,20),(500,640)", False),
    ],
)
def test_a_marked_box_keeps_to_the_format(answer: str, follows: bool) -> None:
    assert follows_box(answer) is follows
