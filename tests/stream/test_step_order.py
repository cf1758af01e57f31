"""The order of an optimizer step: hooks of the method and of callbacks, clipping, log row and checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import BATCH, fit, log_rows, small_data, small_method

from lit_cvit.data.stage import Stage
from lit_cvit.methods import ContinualMethod, SeqLoRA
from lit_cvit.methods.adapter_set import AdapterSet
from lit_cvit.run import RunFolder
from lit_cvit.stream.checkpoints import RunCheckpointIO
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer

Events = list[tuple[str, int]]
HALVED: dict[str, Any] = {"batch_size": BATCH // 2, "global_batch_size": BATCH}


class Traced(SeqLoRA):
    """Writes down its hooks, and what the optimizer and the clipping do in between."""

    def trace(self, events: Events) -> ContinualMethod:
        self.events = events
        return self

    def on_gradients(self, step: int) -> None:
        self.events.append(("on_gradients", step))

    def configure_gradient_clipping(self, *args: Any, **settings: Any) -> None:
        self.events.append(("clip", self.trainer.global_step))
        super().configure_gradient_clipping(*args, **settings)

    def configure_optimizers(self) -> Any:
        found = super().configure_optimizers()
        optimizer = found["optimizer"]
        optimizer.register_step_post_hook(
            lambda *_: self.events.append(("optimizer", self.trainer.global_step))
        )
        return found

    def on_update(self, step: int) -> None:
        self.events.append(("on_update", step))


class Watch(StageCallback):
    """Writes down the hooks of a callback."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.events.append(("micro-batch", trainer.global_step))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.events.append(("callback gradients", trainer.global_step))

    def on_step_end(self, trainer: Any, method: ContinualMethod, step: int) -> None:
        self.events.append(("on_step_end", step))


@pytest.mark.parametrize(("changes", "accumulate"), [({}, 1), (HALVED, 2)])
def test_a_step_runs_in_the_documented_order(
    llava_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    accumulate: int,
) -> None:
    events: Events = []
    log, save = RunFolder.log, RunCheckpointIO.save_checkpoint

    def logged(run: RunFolder, values: Any) -> None:
        events.append(("log row", values["step"]))
        log(run, values)

    def saved(io: RunCheckpointIO, checkpoint: dict[str, Any], *args: Any, **settings: Any) -> None:
        events.append(("checkpoint", checkpoint["global_step"] - 1))
        save(io, checkpoint, *args, **settings)

    def held(adapters: AdapterSet, largest: Any) -> None:
        events.append(("hold", method.trainer.global_step))

    monkeypatch.setattr(AdapterSet, "hold_unrouted", held)
    monkeypatch.setattr(RunFolder, "log", logged)
    monkeypatch.setattr(RunCheckpointIO, "save_checkpoint", saved)
    method = small_method(llava_folder, Traced)
    assert isinstance(method, Traced)
    data = small_data(tasks=["GQA"], **changes)
    fit(tmp_path, method.trace(events), data, callbacks=[Watch(events)], checkpoint_every_n_steps=1)
    names = ["micro-batch"] * accumulate
    names += [
        "on_gradients",
        "callback gradients",
        "hold",
        "clip",
        "optimizer",
        "on_update",
        "on_step_end",
        "log row",
    ]
    # After an epoch's last step there is no checkpoint.
    assert events == [*((name, 0) for name in (*names, "checkpoint")), *((name, 1) for name in names)]


class Replaces(SeqLoRA):
    """Puts numbers of its own in place of the gradients of a step, and of what the optimizer made of them."""

    def on_gradients(self, step: int) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(step + 1.0)

    def on_update(self, step: int) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.fill_(step + 0.5)


class Found(StageCallback):
    """The gradients that the callbacks' hook finds, and the parameters at the end of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[set[float]] = []
        self.parameters: list[set[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.gradients.append({float(value) for grad in grads for value in (grad.min(), grad.max())})

    def on_step_end(self, trainer: Any, method: ContinualMethod, step: int) -> None:
        trained = [p.detach() for p in method.parameters() if p.requires_grad]
        self.parameters.append({float(value) for each in trained for value in (each.min(), each.max())})


def test_what_the_method_leaves_of_gradients_and_update_is_what_counts(
    llava_folder: Path, tmp_path: Path
) -> None:
    found = Found()
    fit(tmp_path, small_method(llava_folder, Replaces), small_data(**HALVED), callbacks=[found])
    assert found.gradients == [{1.0}, {2.0}, {3.0}, {4.0}]
    assert found.parameters == [{0.5}, {1.5}, {2.5}, {3.5}]


class CountsSteps(StageCallback):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, int]] = []
        self.stage = 0

    def on_stage_start(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        self.stage = stage.number

    def on_step_end(self, trainer: Any, method: ContinualMethod, step: int) -> None:
        self.steps.append((self.stage, step))


def test_steps_are_counted_through_the_stream_also_where_an_epochs_last_one_is_short(
    llava_folder: Path, tmp_path: Path
) -> None:
    """20 rows an epoch in steps of 16: two micro-batches of 8, then one of 4."""
    counts, data = CountsSteps(), small_data(settings={"num_train": 20}, epochs=2, **HALVED)
    trainer = fit(tmp_path, small_method(llava_folder), data, callbacks=[counts])
    assert counts.steps == [(1, step) for step in range(4)] + [(2, step) for step in range(4, 8)]
    assert [row["step"] for row in log_rows(trainer.run)] == list(range(8))
