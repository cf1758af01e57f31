"""DirLoRA: what a task learned stays exactly as it was, and what was never learned stays the backbone's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from stream_kit import STREAM, fit, quick_data, small_method

from lit_cvit.adapters import routing
from lit_cvit.methods import ContinualMethod, DirLoRA, ZeroShot
from lit_cvit.report import run_summary
from lit_cvit.run import RunFolder


class Learned(NamedTuple):
    run: RunFolder
    method: ContinualMethod


@pytest.fixture(scope="module", params=["lora", "full"])
def learned(
    request: pytest.FixtureRequest, llava_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Learned:
    method = small_method(llava_folder, DirLoRA, projector=request.param)
    return Learned(fit(tmp_path_factory.mktemp("dir"), method, quick_data(tasks=STREAM)).run, method)


def test_predictions_of_a_task_are_identical_after_every_later_stage(learned: Learned) -> None:
    for number, task in enumerate(STREAM, start=1):
        own = learned.run.predictions_path(number, task).read_bytes()
        assert len(own.splitlines()) == 5
        for later in range(number + 1, len(STREAM) + 1):
            assert learned.run.predictions_path(later, task).read_bytes() == own


def test_backward_transfer_is_exactly_zero(learned: Learned) -> None:
    assert run_summary(learned.run.matrix())["BWT"] == 0.0


def test_older_tensors_are_kept_bit_for_bit(learned: Learned) -> None:
    first, last = (learned.run.load_stage(number).tensors for number in (1, 3))
    assert [name for name, tensor in first.items() if not torch.equal(last[name], tensor)] == []
    assert len(last) == 3 * len(first)


def test_an_unknown_task_is_answered_by_the_bare_backbone(learned: Learned, llava_folder: Path) -> None:
    unknown = next(task for task in quick_data().benchmark.stream if task.name == "Flickr30k")
    samples = [unknown.test.sample(index) for index in range(3)]
    bare = small_method(llava_folder, ZeroShot)
    bare.prepare()
    batch = bare.backbone.encode(samples, with_answers=True)
    with torch.no_grad():
        with routing(bare.context(batch)):
            expected = bare.backbone.answer_logits(batch).logits
        with routing(learned.method.context(batch)):
            got = learned.method.backbone.answer_logits(batch).logits
    assert torch.equal(got, expected)


def test_each_sample_of_a_mixed_batch_gets_its_own_block(learned: Learned) -> None:
    tasks = {task.name: task.test for task in quick_data().benchmark.stream}
    samples = [tasks[name].sample(0) for name in ("VQAv2", "ImageNet", "ScienceQA", "GQA")]
    facts = learned.method.sample_facts(learned.method.backbone.encode(samples, with_answers=False))
    assert facts["gate"].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert facts["projector"].tolist() == [2, -1, 0, 1]


def test_it_declares_that_it_reads_the_task() -> None:
    assert DirLoRA.access.fget is not None
    assert DirLoRA.access.fget(None).words() == "task id in training, task id at test (oracle)"
