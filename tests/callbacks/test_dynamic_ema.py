"""DynamicEMA: the average against the published code and plain transcriptions, and what a run keeps of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from stream_kit import QUICK, KillAt, Killed, differing, fit, log_rows, quick_data, small_method, snapshot
from torch import Tensor, nn

from callbacks import DynamicEMA
from lit_cvit.data.stage import Stage
from lit_cvit.methods import ContinualMethod, SeqLoRA, SMoLoRA
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer

GOLDEN = Path(__file__).parents[1] / "golden"
STEPS = 4


# -- the average, step by step -------------------------------------------------------------------------------


class Toy(ContinualMethod):
    """Named tensors that train, and what is logged."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        L.LightningModule.__init__(self)
        self.held = nn.ParameterList(nn.Parameter(tensor.clone()) for tensor in tensors.values())
        self.names = list(tensors)
        self.logged: dict[str, float] = {}

    def tensors(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in zip(self.names, self.held, strict=True)}

    def log(self, name: str, value: Any, **_: Any) -> None:
        self.logged[name] = float(value)


Step = dict[str, Tensor | None]


class Drive:
    """Takes a callback through one stage of given parameters and gradients."""

    def __init__(self, callback: DynamicEMA, start: dict[str, Tensor], *, new: bool = False) -> None:
        self.callback, self.toy = callback, Toy(start)
        plan = {"new_blocks": [4] if new else [], "new_projector": False}
        record = SimpleNamespace(stage=lambda number: SimpleNamespace(plan=plan))
        self.trainer: Any = SimpleNamespace(global_step=0, run=SimpleNamespace(record=record))
        self.stage: Any = SimpleNamespace(number=2)
        callback.on_stage_start(self.trainer, self.toy, self.stage)

    def start(self) -> None:
        self.callback.on_train_start(self.trainer, self.toy)

    def step(self, grads: Step, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One optimizer step that ends at `values`; returns the averages and what was logged."""
        for name, parameter in zip(self.toy.names, self.toy.held, strict=True):
            grad = grads[name]
            parameter.grad = None if grad is None else grad.to(parameter.dtype, copy=True)
        optimizer: Any = None
        self.callback.on_before_optimizer_step(self.trainer, self.toy, optimizer)
        for name, parameter in zip(self.toy.names, self.toy.held, strict=True):
            # A clipped gradient must not reach the average.
            if parameter.grad is not None:
                parameter.grad.mul_(1e-3)
            parameter.data.copy_(values[name])
        self.toy.logged.clear()
        self.trainer.global_step += 1
        self.callback.on_step_end(self.trainer, self.toy, self.trainer.global_step - 1)
        state = self.callback.state_dict()
        return {name: value.clone() for name, value in state["average"].items()}, dict(self.toy.logged)


@pytest.mark.parametrize("name", ["given", "adamw", "edge"])
def test_the_official_average_is_that_of_the_published_code(name: str) -> None:
    case = np.load(GOLDEN / f"lcia_ema_{name}.npz", allow_pickle=False)
    # One tensor per group of the log, so that the logged beta is the tensor's.
    names = [f"decoder.{index}.A" for index in range(len(case["tensor_names"]))]
    start = {n: torch.from_numpy(case[f"theta_init_{i}"]) for i, n in enumerate(names)}
    drive = Drive(DynamicEMA(theta0="after_first_step"), start)
    drive.start()
    dynamic = 0
    for t in range(len(case["branch"])):
        grads: Step = {
            n: None if case[f"grad_is_none_{i}"][t] else torch.from_numpy(case[f"grad_{i}"][t])
            for i, n in enumerate(names)
        }
        values = {n: torch.from_numpy(case[f"theta_{i}"][t]) for i, n in enumerate(names)}
        averages, logged = drive.step(grads, values)
        for i, n in enumerate(names):
            torch.testing.assert_close(
                averages[n], torch.from_numpy(case[f"ema_{i}"][t]), atol=1e-6, rtol=1e-5
            )
            beta = logged[f"ema/beta/decoder.{i}"]
            assert beta == pytest.approx(float(case["beta"][t, i]), rel=1e-4)
            assert (beta == pytest.approx(0.99, abs=1e-12)) is (int(case["branch"][t, i]) != 0)
        used = int((case["branch"][t] == 0).sum())
        assert logged["ema/dynamic"] == used / len(names)
        dynamic += used
    method: Any = drive.toy
    drive.callback.on_stage_end(drive.trainer, method, drive.stage)
    for i, parameter in enumerate(drive.toy.held):
        torch.testing.assert_close(
            parameter.data, torch.from_numpy(case[f"final_param_{i}"]), atol=1e-6, rtol=1e-5
        )
    assert drive.callback.state_dict() == {"dynamic_share": {"2": dynamic / case["branch"].size}}


def published(v: Sequence[Tensor], star: Sequence[Tensor], old: Any, g: Any, g_old: Any) -> float:
    a = sum(float((x - s).abs().sum()) for x, s in zip(v, star, strict=True))
    b = sum(float(x.abs().sum()) for x in g)
    c = sum(float((x - y).abs().sum()) for x, y in zip(g, g_old, strict=True))
    # A block at rest neither moves nor has a gradient.
    return 2 * (1 + b) / (a * c) if a * c else math.inf


def equation_45(v: Sequence[Tensor], star: Sequence[Tensor], old: Any, g: Any, g_old: Any) -> float:
    top = sum(float(((x - s) * (y + 1)).abs().sum()) for x, s, y in zip(old, star, g, strict=True))
    way = [(x - s) * (y - z) for x, s, y, z in zip(v, star, g, g_old, strict=True)]
    return top / sum(float(x.abs().sum()) for x in way)


PATH = (
    "decoder.0.mlp.up_proj.blocks.0.A",
    "decoder.0.mlp.up_proj.blocks.0.B",
    "projector.copies.1.linear.bias",
)


def walk(count: int) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The start of a path of parameters in float64, and its steps with gradients."""
    generator = torch.Generator().manual_seed(3)
    shapes = dict(zip(PATH, [(4, 10), (12, 4), (9,)], strict=True))

    def draw(size: float) -> dict[str, Tensor]:
        return {n: torch.randn(s, generator=generator).double() * size for n, s in shapes.items()}

    value, path = draw(1.0), []
    path.append(({}, value))
    for _ in range(count):
        value = {n: value[n] + moved for n, moved in draw(0.3).items()}
        path.append((draw(1.0), value))
    return path


@pytest.mark.parametrize("theta0", ["group", "after_first_step"])
@pytest.mark.parametrize("beta_per", ["tensor", "layer"])
@pytest.mark.parametrize(("beta", "formula"), [("official", published), ("paper", equation_45), (0.9, None)])
def test_the_average_is_a_plain_transcription_of_its_formula(
    beta: Any, formula: Callable[..., float] | None, beta_per: Any, theta0: Any
) -> None:
    path = walk(12)
    layers = [PATH[:2], PATH[2:]] if beta_per == "layer" else [PATH[:1], PATH[1:2], PATH[2:]]
    star = dict(path[0 if theta0 == "group" else 1][1])
    drive = Drive(DynamicEMA(beta, beta_per=beta_per, theta0=theta0, fallback=0.97), path[0][1])
    drive.start()
    used = 0
    for t in range(1, len(path)):
        (grad, value), (grad_old, old) = path[t], path[t - 1]
        for layer in layers:
            share = 1 - beta if formula is None else 0.0
            if formula is not None and t > 1:
                columns = [[each[n] for n in layer] for each in (value, star, old, grad, grad_old)]
                share = formula(*columns)
            in_range = 0 < share < 1
            used += in_range * len(layer)
            for n in layer:
                stored = 1 - share if in_range else 0.97
                star[n] = stored * star[n] + (1 - stored) * value[n]
        averages, logged = drive.step(grad, value)
        for n in PATH:
            assert averages[n].dtype == torch.float32
            torch.testing.assert_close(averages[n], star[n].float(), atol=1e-5, rtol=1e-4)
        assert ("ema/dynamic" in logged) is (formula is not None)
        assert logged.keys() >= {"ema/beta/decoder.0", "ema/beta/projector"}
    # Both branches are walked.
    assert formula is None or 0 < used < 12 * len(PATH)


def test_a_tensor_that_never_moves_keeps_its_bits() -> None:
    path = walk(4)
    start = {name: tensor.float() for name, tensor in path[0][1].items()}
    drive = Drive(DynamicEMA(0.7), start)
    drive.start()
    for grad, value in path[1:]:
        averages, _ = drive.step(grad, {**value, PATH[0]: start[PATH[0]]})
    assert torch.equal(averages[PATH[0]], start[PATH[0]])
    assert not torch.equal(averages[PATH[1]], start[PATH[1]])


def test_the_average_of_16_bit_parameters_is_kept_in_32() -> None:
    start = {"projector.A": torch.ones(3, dtype=torch.bfloat16)}
    drive = Drive(DynamicEMA(0.999), start)
    drive.start()
    for _ in range(10):
        averages, _ = drive.step({"projector.A": None}, {"projector.A": torch.full((3,), 2.0)})
    # In bfloat16 every one of these steps would be rounded away.
    torch.testing.assert_close(averages["projector.A"], torch.full((3,), 2 - 0.999**10))


def test_inside_a_stage_the_average_is_evaluated_and_training_goes_on_untouched() -> None:
    path = walk(2)
    drive = Drive(DynamicEMA(0.5), path[0][1])
    drive.start()
    drive.step(*path[1])
    averages, _ = drive.step(*path[2])
    with drive.callback.averaged(drive.toy):
        inside = {name: tensor.clone() for name, tensor in drive.toy.tensors().items()}
    assert all(torch.equal(inside[name].float(), averages[name]) for name in PATH)
    assert all(torch.equal(drive.toy.tensors()[name], path[2][1][name]) for name in PATH)


def test_a_stage_with_new_parameters_is_averaged_only_where_that_is_asked_for() -> None:
    start = walk(1)[0][1]
    assert not Drive(DynamicEMA(), start, new=True).callback.active
    assert Drive(DynamicEMA(), start).callback.active
    assert Drive(DynamicEMA(ema_when="always"), start, new=True).callback.active


def test_averages_of_other_parameters_are_not_taken_from_a_checkpoint() -> None:
    drive = Drive(DynamicEMA(), walk(1)[0][1])
    drive.callback.load_state_dict({"average": {"decoder.9.A": torch.zeros(2)}, "previous": {}})
    with pytest.raises(RuntimeError, match="are not of what trains in this stage"):
        drive.start()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"beta": "fast"},
            "DynamicEMA.beta must be one of official, paper, or a number that is at least 0 .*; got",
        ),
        ({"beta": 1.0}, "DynamicEMA.beta .* got 1.0"),
        ({"beta": True}, "DynamicEMA.beta .* got True"),
        ({"beta_per": "model"}, "DynamicEMA.beta_per must be one of tensor, layer; got 'model'"),
        ({"theta0": "zero"}, "DynamicEMA.theta0 must be one of group, after_first_step; got 'zero'"),
        ({"ema_when": "never"}, "DynamicEMA.ema_when must be one of reused, always; got 'never'"),
        ({"fallback": 1.5}, "DynamicEMA.fallback must be at least 0 and less than 1, got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicEMA(**settings)


# -- in a run ------------------------------------------------------------------------------------------------


class Watch(StageCallback):
    """The parameters around every stage's steps, and their gradients, by the names they are saved under."""

    def __init__(self) -> None:
        super().__init__()
        self.theta: list[list[dict[str, Tensor]]] = []
        self.grads: list[list[dict[str, Tensor]]] = []

    def on_stage_start(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        self.theta.append([snapshot(method)])
        self.grads.append([])

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        names = {tensor.data_ptr(): name for name, tensor in pl_module.tensors().items()}
        self.grads[-1].append(
            {names[p.data_ptr()]: p.grad.clone() for p in pl_module.parameters() if p.grad is not None}
        )

    def on_step_end(self, trainer: Any, method: ContinualMethod, step: int) -> None:
        self.theta[-1].append(snapshot(method))


def data(**changes: Any) -> Any:
    return quick_data(settings={"num_train": QUICK * STEPS}, **changes)


def expected(theta: list[dict[str, Tensor]], grads: list[dict[str, Tensor]], name: str) -> Tensor:
    """theta* of a tensor after a stage, by the published formula."""
    star = theta[0][name]
    for t in range(1, len(theta)):
        share = 0.01
        if t > 1:
            now, before = grads[t - 1][name], grads[t - 2][name]
            found = published([theta[t][name]], [star], None, [now], [before])
            share = found if 0 < found < 1 else 0.01
        star = (1 - share) * star + share * theta[t][name]
    return star


@pytest.mark.parametrize("family", [SeqLoRA, SMoLoRA])
def test_a_stage_that_trains_on_keeps_the_average_and_the_first_one_what_it_trained(
    family: type[ContinualMethod], llava_folder: Path, tmp_path: Path
) -> None:
    watch = Watch()
    # Accumulated over two micro-batches, so the gradient is that of the step.
    halves = data(batch_size=QUICK // 2, global_batch_size=QUICK)
    method = small_method(llava_folder, family, rate=2e-2)
    run = fit(tmp_path, method, halves, callbacks=[watch, DynamicEMA()]).run
    assert [len(theta) for theta in watch.theta] == [STEPS + 1, STEPS + 1]
    first, second = (run.load_stage(number).tensors for number in (1, 2))
    assert differing(first, watch.theta[0][-1]) == []
    assert differing(first, watch.theta[1][0]) == []
    trained = set(watch.grads[1][0])
    for name, tensor in second.items():
        if name not in trained:
            assert torch.equal(tensor, first[name]), name
            continue
        torch.testing.assert_close(
            tensor, expected(watch.theta[1], watch.grads[1], name), atol=1e-6, rtol=1e-5
        )
    moved = [name for name in trained if not torch.equal(watch.theta[1][-1][name], first[name])]
    assert len(moved) > 10
    assert not any(torch.equal(second[name], watch.theta[1][-1][name]) for name in moved)
    assert differing(second, snapshot(method)) == []


def test_the_log_has_betas_and_the_dynamic_share_of_averaged_stages_alone(
    llava_folder: Path, tmp_path: Path
) -> None:
    run = fit(tmp_path, small_method(llava_folder), data(), callbacks=[DynamicEMA()]).run
    rows = log_rows(run)
    assert [any(key.startswith("ema/") for key in row) for row in rows] == [False] * STEPS + [True] * STEPS
    keys = {key for key in rows[-1] if key.startswith("ema/")}
    layers = {f"ema/beta/decoder.{index}" for index in range(len(keys) - 2)}
    assert keys == {"ema/dynamic", "ema/beta/projector"} | layers
    assert len(layers) > 1
    assert rows[STEPS]["ema/dynamic"] == 0.0
    assert rows[STEPS]["ema/beta/projector"] == pytest.approx(0.99)
    extra = run.load_stage(2).extra["callbacks"]
    (stored,) = (state for key, state in extra.items() if key.startswith("DynamicEMA"))
    share = sum(row["ema/dynamic"] for row in rows[STEPS:]) / STEPS
    assert stored == {"dynamic_share": {"2": pytest.approx(share)}}
    assert json.loads(json.dumps(stored["dynamic_share"])) == stored["dynamic_share"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"beta": "paper", "theta0": "after_first_step", "beta_per": "layer"}, {"beta": 0.9}],
    ids=["official", "paper", "constant"],
)
def test_a_run_killed_inside_an_averaged_stage_ends_bit_identical(
    settings: dict[str, Any], llava_folder: Path, tmp_path: Path
) -> None:
    def ended(root: Path, *more: Callback, **how: Any) -> ContinualTrainer:
        callbacks = [DynamicEMA(ema_when="always", **settings), *more]
        method = small_method(llava_folder, rate=2e-2)
        return fit(root, method, data(tasks=["GQA"]), callbacks=callbacks, checkpoint_every_n_steps=1, **how)

    whole = ended(tmp_path / "whole")
    with pytest.raises(Killed):
        ended(tmp_path / "killed", KillAt(STEPS - 1))
    again = ended(tmp_path / "killed", ckpt_path="last")
    assert len(list((tmp_path / "killed").iterdir())) == 1
    assert differing(whole.run.load_stage(1).tensors, again.run.load_stage(1).tensors) == []
    assert log_rows(again.run) == log_rows(whole.run)
    assert state_files_of(again) == state_files_of(whole)


def state_files_of(trainer: ContinualTrainer) -> dict[str, bytes]:
    root = trainer.run.path
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("stages/*/method.*")}
