"""HiDe's settings: which are refused, which change nothing, and what is declared and counted."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_kit import build_clip_folder
from PIL import Image
from stream_kit import fit, small_data, small_method

from lit_cvit.adapters import routing
from lit_cvit.backbones.framing import pad_to_square
from lit_cvit.encoders import ClipImageEncoder, ClipTextEncoder
from lit_cvit.methods import HiDe, ZeroShot

HIDDEN, SENTENCE = 64, 384
STAGES = small_data(tasks=["ScienceQA", "GQA", "VQAv2"]).stages(seed=0)


def begun(folder: Path, stages: int = 1, **settings: Any) -> HiDe:
    """A method at the start of a stage, not trained."""
    method = small_method(folder, HiDe, **settings)
    assert isinstance(method, HiDe)
    method.prepare()
    for stage in STAGES[:stages]:
        method.begin_stage(stage)
    return method


def test_auto_keeps_in_the_run_what_the_report_decided(llava_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "cka.json"
    report.write_text(json.dumps({"cka": [[[1, v], [v, 1]] for v in (0.9, 0.2, 0.8)]}))
    settings = {"expand": "auto", "fuse": "auto", "cka_report": str(report)}
    method = begun(llava_folder, **settings)
    report.unlink()
    plan = method.begin_stage(STAGES[1])
    assert plan["expand"] == [1, 2]
    other = small_method(llava_folder, HiDe, **settings)
    assert isinstance(other, HiDe)
    other.prepare()
    other.follow_plan(plan)
    assert list(method.roles.values()) == list(other.roles.values()) == ["fuse", "expand", "expand"]
    with pytest.raises(ValueError, match="is not a file"):
        begun(llava_folder, **settings)


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({}, {"low": 3, "top": 3}),
        ({"fusion": "product_of_sums"}, {"low": 1, "top": 3}),
        ({"expand": [], "fuse": "below_top", "fusion": "product_of_sums"}, {"low": 1, "top": 0}),
        ({"expand": "all"}, {"low": 3, "top": 3}),
    ],
)
def test_loaded_parameters_are_counted_by_role(
    llava_folder: Path, settings: dict[str, Any], blocks: dict[str, int]
) -> None:
    layer, projector = 32 * 3 * (HIDDEN + 2 * HIDDEN), 32 * 2 * 2 * HIDDEN
    anchors = 0 if settings.get("expand") == [] else 3 * (HIDDEN + SENTENCE + 2)
    counts = begun(llava_folder, stages=3, **settings).parameter_counts()
    assert counts["trainable"] == 3 * layer + projector
    assert counts["stored"] == 3 * (3 * layer + projector) + anchors
    assert counts["loaded"] == blocks["low"] * (2 * layer + projector) + blocks["top"] * layer + anchors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "mean"}, "model.fusion must be one of sum_of_products, product_of_sums; got 'mean'"),
        ({"anchors": "none"}, "model.anchors must be one of both, image, text; got 'none'"),
        ({"temperature": 0.0}, "model.temperature must be more than 0, got 0.0"),
        ({"image_weight": -0.1}, "model.image_weight must be at least 0, got -0.1"),
        (
            {"image_weight": 0.0, "text_weight": 0.0},
            "image_weight and model.text_weight must not both be 0",
        ),
        ({"expand": "bottom"}, "model.expand must be a list, .*, or one of top, below_top, all, auto; got"),
        ({"expand": [], "fuse": []}, "needs a layer that uses its blocks"),
        ({"expand": "auto"}, "set model.cka_report to its JSON file"),
        ({"fuse": "auto"}, "set model.cka_report to its JSON file"),
    ],
)
def test_settings_that_make_no_method_are_refused(
    llava_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_method(llava_folder, HiDe, **settings)


def test_what_does_not_fit_backbone_or_stream_is_refused_before_training(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match="the decoder has no layer 31; allowed are 0 to 2"):
        begun(llava_folder, expand=[31])
    with pytest.raises(ValueError, match="epsilon has 1 values, but stage 2 needs one too"):
        begun(llava_folder, stages=2, epsilon=[1.0])
    with pytest.raises(ValueError, match="image encoder 'no/such-clip' is not on this machine"):
        begun(llava_folder, image_encoder="no/such-clip")


NO_EXPAND, NO_FUSE = "without an expanded layer (expand: [])", "without a fused layer"


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({}, []),
        (
            {"expand": [], "temperature": 1.0, "anchors": "text"},
            [("anchors", NO_EXPAND), ("temperature", NO_EXPAND)],
        ),
        ({"anchors": "image", "text_encoder": "a/b"}, [("text_encoder", "with anchors: image")]),
        ({"anchors": "text", "text_encoder": "a/b"}, []),
        ({"fuse": [], "fusion": "product_of_sums"}, [("fusion", f"{NO_FUSE} (fuse: [])")]),
        ({"expand": "all", "epsilon": 0.5}, [("epsilon", f"{NO_FUSE} (expand: all)")]),
        ({"cka_report": "x"}, [("cka_report", "where neither expand nor fuse is 'auto'")]),
        ({"cka_report": "x", "fuse": "auto", "epsilon": 0.5, "temperature": 1.0}, []),
    ],
)
def test_a_setting_without_effect_is_named(
    llava_folder: Path, settings: dict[str, Any], reported: list[tuple[str, str]]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small_method(llava_folder, HiDe, **settings)
    assert [str(each.message) for each in caught] == [
        f"model.{name} has no effect {why}" for name, why in reported
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "encoder sentence-transformers/all-MiniLM-L6-v2"),
        ({"anchors": "image"}, "nothing beyond the prompt and image"),
        ({"expand": []}, "nothing beyond the prompt and image"),
        ({"image_encoder": "a/clip", "text_encoder": "a/clip"}, "encoder a/clip"),
    ],
)
def test_it_declares_its_encoders_alone(llava_folder: Path, settings: dict[str, Any], words: str) -> None:
    assert small_method(llava_folder, HiDe, **settings).access.words() == words


def test_without_a_stage_it_is_the_backbone(llava_folder: Path) -> None:
    source = small_data().benchmark.stream[0].test
    logits = []
    for family in (HiDe, ZeroShot):
        method = small_method(llava_folder, family).eval()
        method.prepare()
        batch = method.backbone.encode([source.sample(index) for index in range(2)], with_answers=True)
        with torch.no_grad(), routing(method.context(batch)):
            logits.append(method.backbone.answer_logits(batch).logits)
    assert torch.equal(*logits)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A wide image, left half red."""

    def open(self) -> Image.Image:
        image = Image.new("RGB", (32, 16), "white")
        image.paste((255, 0, 0), (0, 0, 16, 16))
        return image


@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_clip_encoders_see_the_image_as_the_backbone_does_and_the_users_turn(
    llava_folder: Path, tmp_path: Path, aspect: str
) -> None:
    clip = str(build_clip_folder(tmp_path / "clip"))
    method = begun(llava_folder, image_encoder=clip, text_encoder=clip)
    method.backbone.image_aspect = aspect  # type: ignore[assignment]
    source = STAGES[0].task.test
    wide = dataclasses.replace(source.sample(0), image=Picture())
    samples = [source.sample(4), wide, source.sample(1)]
    assert samples[0].image is None
    found = method.features(method.backbone.encode(samples, with_answers=False))
    assert found["image"].present.tolist() == [False, True, True]
    assert found["text"].present.tolist() == [True, True, True]
    assert not found["image"].values[0].any()
    images = ClipImageEncoder(clip)
    shown = pad_to_square(Picture().open(), images.image_mean) if aspect == "pad" else Picture().open()
    torch.testing.assert_close(found["image"].values[1:2], images.encode([shown]))
    texts = ClipTextEncoder(clip).encode([sample.user_text for sample in samples])
    assert torch.equal(found["text"].values, texts)
    assert method.access.words() == f"encoder {clip}"


def test_clip_anchors_train_and_are_stored(llava_folder: Path, tmp_path: Path) -> None:
    clip = str(build_clip_folder(tmp_path / "clip"))
    method = small_method(llava_folder, HiDe, image_encoder=clip, text_encoder=clip)
    run = fit(tmp_path / "run", method, small_data(tasks=["GQA"]), callbacks=[]).run
    tensors = run.load_stage(1).tensors
    assert tensors["anchors.image.sums"].shape == (1, 8)
    assert tensors["anchors.text.sums"].shape == (1, 16)
    assert tensors["anchors.image.counts"].tolist() == tensors["anchors.text.counts"].tolist() == [32.0]
