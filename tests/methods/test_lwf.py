"""LwF: the term's value, what it reaches, and who the teacher is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from stream_kit import Gradients, differing, fit, log_rows, quick_data, small_method, snapshot

from lit_cvit.adapters import routing
from lit_cvit.memory_plan import plan_memory
from lit_cvit.methods import ContinualMethod, LwF, SeqLoRA
from lit_cvit.methods.lwf import distillation
from lit_cvit.run import RunFolder
from lit_cvit.stream.preflight import introduce


def written_out(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T^2 sum_n KL(teacher^(1/T) || student^(1/T)), as probabilities raised to 1/T and made to sum to 1."""

    def softened(logits: np.ndarray) -> np.ndarray:
        p = np.exp(logits - logits.max(1, keepdims=True))
        p = (p / p.sum(1, keepdims=True)) ** (1 / temperature)
        return p / p.sum(1, keepdims=True)

    p, q = softened(teacher.astype(np.float64)), softened(student.astype(np.float64))
    return float(temperature**2 * (p * (np.log(p) - np.log(q))).sum())


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- the term ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("positions", [1, 64, 150])
def test_the_term_is_the_divergence_of_the_softened_predictions(temperature: float, positions: int) -> None:
    head, states, taught = drawn(11, 6, seed=0), drawn(positions, 6, seed=1), drawn(positions, 6, seed=2)
    got = distillation(states, taught, lambda h: h @ head.T, temperature)
    expected = written_out((states @ head.T).numpy(), (taught @ head.T).numpy(), temperature)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_T_times_the_difference_of_the_softened_predictions() -> None:
    """The derivative by a logit is T^2 * (q - p) / T; the T^2 keeps its size as T grows."""
    logits, taught = drawn(100, 7, seed=1).requires_grad_(), drawn(100, 7, seed=2)
    distillation(logits, taught, lambda h: h, 3.0).backward()
    expected = 3.0 * ((logits.detach() / 3).softmax(-1) - (taught / 3).softmax(-1))
    torch.testing.assert_close(logits.grad, expected, atol=1e-6, rtol=1e-5)


def test_no_logits_are_held_for_the_backward_pass() -> None:
    head, states = drawn(1000, 6, seed=0).requires_grad_(), drawn(150, 6, seed=1).requires_grad_()
    held: list[tuple[int, ...]] = []

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        loss = distillation(states, drawn(150, 6, seed=2), lambda h: h @ head.T, 2.0)
    assert [shape for shape in held if 1000 in shape] == []
    loss.backward()
    assert states.grad is not None
    assert head.grad is not None


def test_a_batch_without_answers_adds_nothing_and_still_has_a_graph() -> None:
    states = drawn(0, 6, seed=1).requires_grad_()
    loss = distillation(states, drawn(0, 6, seed=2), lambda h: h, 2.0)
    assert (float(loss.detach()), loss.requires_grad) == (0.0, True)


# -- in training ---------------------------------------------------------------------------------------------


class Expected(Callback):
    """The term of every step from the second stage on, from the stored teacher and the live student."""

    def __init__(self, folder: Path, temperature: float) -> None:
        super().__init__()
        self.folder, self.temperature = folder, temperature
        self.values: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        number = pl_module.stage.number
        if number == 1:
            return
        teacher = small_method(self.folder, SeqLoRA)
        teacher.prepare()
        teacher.follow_plan(trainer.run.record.stage(1).plan)
        teacher.load_tensors(trainer.run.load_stage(number - 1).tensors)
        found = [logits(each, batch) for each in (pl_module, teacher)]
        self.values.append(written_out(*found, self.temperature) / len(found[0]))


def logits(method: ContinualMethod, batch: Any) -> np.ndarray:
    with torch.no_grad(), routing(method.context(batch)):
        return method.backbone.answer_logits(batch).logits.numpy()


def learned(
    root: Path, folder: Path, family: Any = LwF, **settings: Any
) -> tuple[ContinualMethod, RunFolder]:
    data, callbacks = settings.pop("data", {}), settings.pop("callbacks", [])
    method = small_method(folder, family, **settings)
    return method, fit(root, method, quick_data(**data), callbacks=callbacks).run


def test_a_step_is_held_to_what_the_last_stage_has_stored(llava_folder: Path, tmp_path: Path) -> None:
    """In the first stage there is no term, and in a stage's first step nothing has changed."""
    expected = Expected(llava_folder, 3.0)
    data = {"tasks": ["ScienceQA", "GQA", "VQAv2"]}
    settings = {"distill_weight": 0.5, "distill_temperature": 3.0, "data": data, "callbacks": [expected]}
    rows = log_rows(learned(tmp_path, llava_folder, **settings)[1])
    assert ["loss/lwf" in row for row in rows] == [False, False, True, True, True, True]
    got = [row["loss/lwf"] for row in rows[2:]]
    assert got == pytest.approx([0.5 * value for value in expected.values], rel=1e-4, abs=1e-9)
    assert got[0] == got[2] == pytest.approx(0, abs=1e-9)
    assert min(got[1], got[3]) > 1e-6


def test_lambda_moves_the_update_and_0_is_seq_lora(llava_folder: Path, tmp_path: Path) -> None:
    plain = snapshot(learned(tmp_path / "plain", llava_folder, SeqLoRA)[0])
    without, run = learned(tmp_path / "without", llava_folder, distill_weight=0.0)
    held = snapshot(learned(tmp_path / "held", llava_folder, distill_weight=10.0)[0])
    assert differing(snapshot(without), plain) == []
    assert differing(held, plain)
    assert "loss/lwf" not in log_rows(run)[-1]


def test_the_term_is_in_the_gradient_of_the_step_and_accumulation_does_not_change_it(
    llava_folder: Path, tmp_path: Path
) -> None:
    """The second step of the second stage is the first in which student and teacher differ."""
    steps = {}
    for name, weight, changes in (
        ("none", 0.0, {}),
        ("whole", 5.0, {}),
        ("parts", 5.0, {"batch_size": 1, "global_batch_size": 4}),
    ):
        seen = Gradients()
        settings = {"distill_weight": weight, "data": changes, "callbacks": [seen], "rate": 1e-2}
        learned(tmp_path / name, llava_folder, **settings)
        steps[name] = seen.steps
    for before in range(3):
        for name, gradient in steps["whole"][before].items():
            torch.testing.assert_close(steps["none"][before][name], gradient, atol=1e-7, rtol=1e-4)
    apart = {
        name: float((gradient - steps["none"][3][name]).norm())
        for name, gradient in steps["whole"][3].items()
    }
    assert min(apart.values()) > 0
    for name, gradient in steps["whole"][3].items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(steps["parts"][3][name], gradient, atol=0.02 * size, rtol=0.02)


def test_a_projector_that_a_stage_starts_anew_is_held_to_the_one_before(
    llava_folder: Path, tmp_path: Path
) -> None:
    settings = {"projector": "full", "projector_carry": "reinit_random"}
    rows = log_rows(learned(tmp_path, llava_folder, **settings)[1])
    assert rows[2]["loss/lwf"] > 1e-6


def test_the_memory_plan_counts_the_teacher(llava_folder: Path, tmp_path: Path) -> None:
    class Counting(LwF):
        def loss_terms(self, batch: Any, outputs: Any) -> Any:
            if self._teacher is not None:
                copies = [copied for _, _, copied in self._teacher._copies]
                self.copied = sum(each.numel() * each.element_size() for each in copies)
            return super().loss_terms(batch, outputs)

    method, data = small_method(llava_folder, Counting, projector="full"), quick_data()
    introduce(method, data)
    plan = plan_memory(method, data, data.stages(seed=0), precision="32-true")
    fit(tmp_path, method, quick_data(), callbacks=[])
    assert plan.row("training", "method's copies").size == method.copied  # type: ignore[attr-defined]
    assert small_method(llava_folder, LwF, distill_weight=0.0).training_copies == 0
