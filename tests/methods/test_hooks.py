"""What the base makes of the hooks that a method overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import fit, small_data, small_method
from torch import Tensor

from lit_cvit.data.tasks import Batch
from lit_cvit.methods import SeqLoRA, ZeroShot
from lit_cvit.stream.stage_callback import StageCallback

PLAIN, SILENT = "decoder.0.mlp.up_proj", "decoder.1.mlp.up_proj"


class Observing(SeqLoRA):
    """Counts the samples it observes and gives one bank a gate of its own."""

    observed = 0

    def observe(self, batch: Batch) -> None:
        assert not torch.is_grad_enabled()
        self.observed += len(batch)
        self.step_at_first = min(getattr(self, "step_at_first", 10**6), self.trainer.global_step)

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        return {"gate": torch.ones(1)}

    def bank_gates(self, batch: Batch) -> dict[str, Tensor]:
        return {SILENT: torch.zeros(1)}


@pytest.fixture(scope="module")
def observing(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Observing:
    method = small_method(llava_folder, Observing)
    assert isinstance(method, Observing)
    fit(tmp_path_factory.mktemp("runs"), method, small_data(tasks=["GQA"], epochs=2), callbacks=[])
    return method


def test_every_training_batch_is_observed_once_before_its_step(observing: Observing) -> None:
    assert (observing.observed, observing.step_at_first) == (2 * 32, 0)


def test_a_gate_of_a_bank_comes_before_the_gate_of_all(observing: Observing) -> None:
    context = observing.context(observing.backbone.encode([_sample()], with_answers=True))
    assert context.gate_for(PLAIN).tolist() == [1.0]  # type: ignore[union-attr]
    assert context.gate_for(SILENT).tolist() == [0.0]  # type: ignore[union-attr]


def test_a_bank_whose_gate_is_0_learns_nothing_while_the_others_do(observing: Observing) -> None:
    moved = {name: bool(bank.up().any()) for name, bank in observing.banks.items()}
    assert moved.pop(SILENT) is False
    assert set(moved.values()) == {True}


def _sample() -> Any:
    return small_data().benchmark.stream[0].test.sample(0)


@pytest.mark.parametrize(("old", "new"), [("knows", "access"), ("know_tasks", "set_tasks")])
def test_a_method_that_overrides_an_old_hook_gets_the_new_name(old: str, new: str) -> None:
    with pytest.raises(TypeError, match=rf"\.Mine overrides '{old}', which is called '{new}' now"):
        type("Mine", (ZeroShot,), {old: lambda self: None})


def test_a_callback_that_overrides_an_old_hook_gets_the_new_name() -> None:
    with pytest.raises(TypeError, match=r"\.Mine overrides 'lets_know', which is called 'grants' now"):
        type("Mine", (StageCallback,), {"lets_know": property(lambda self: ())})


def test_a_callback_without_settings_takes_none() -> None:
    class Plain(StageCallback):
        pass

    with pytest.raises(TypeError, match="unexpected keyword argument 'every'"):
        Plain(every=2)  # type: ignore[call-arg]
