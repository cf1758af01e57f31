"""A-GEM: the projection, the rows and the gradient it is made with, and where in a step it happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stream_kit import (
    QUICK,
    differing,
    fit,
    log_rows,
    quick_data,
    require_equal_resume,
    small_method,
    snapshot,
)
from torch import Tensor
from turned_agem import TurnedAGEM

from callbacks import Replay
from lit_cvit.adapters import routing
from lit_cvit.data.memory import cycled, memory_rows
from lit_cvit.data.sampling import mix
from lit_cvit.methods import AGEM, SeqLoRA
from lit_cvit.methods.agem import project
from lit_cvit.run import RunFolder
from lit_cvit.testing import Row
from lit_cvit.testing.kit import Made, require_like, run_and_read

AMOUNT = 6
Gradient = dict[str, Tensor]


def as_vector(parts: Any) -> np.ndarray:
    return np.concatenate([part.detach().double().numpy().ravel() for part in parts])


def eq_11(g: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Written out from the paper."""
    return g if g @ r >= 0 else g - (g @ r) / (r @ r) * r


# -- the projection ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_only_a_gradient_against_the_memory_is_changed_and_loses_that_part(sign: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,), (2, 2, 2))
    memory = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [
        sign * each + 0.5 * torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in memory
    ]
    g, r = as_vector(gradients), as_vector(memory)
    conflict = project(gradients, memory)
    assert bool(conflict) == (sign < 0) == (g @ r < 0)
    np.testing.assert_allclose(as_vector(gradients), eq_11(g, r), rtol=1e-5, atol=1e-6)
    if conflict:
        assert abs(as_vector(gradients) @ r) < 1e-4 * np.linalg.norm(g) * np.linalg.norm(r)
    else:
        assert np.array_equal(as_vector(gradients), g)


def test_a_memory_without_any_gradient_changes_nothing() -> None:
    gradients = [torch.ones(3)]
    assert not project(gradients, [torch.zeros(3)])
    assert gradients[0].tolist() == [1, 1, 1]


# -- in training ---------------------------------------------------------------------------------------------


class Watching(AGEM):
    """Keeps the gradient of each step before and after, and computes the memory's from the rows by itself."""

    def on_gradients(self, step: int) -> None:
        before = self.gradient()
        memory = self.memory_gradient(step) if self.memory_losses is not None else {}
        super().on_gradients(step)
        self.steps = [*getattr(self, "steps", []), (before, memory, self.gradient())]

    def gradient(self) -> Gradient:
        return {n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None}

    def memory_gradient(self, step: int) -> Gradient:
        """In a single pass over the rows that a step of the second stage takes."""
        assert self.stage is not None
        task = self.stage.seen[0]
        assert task.train is not None
        memory = memory_rows(len(task.train), AMOUNT, seed=0, task=task.name)
        chosen = cycled(AMOUNT, QUICK, step=step, seed=mix("replay", 0, self.stage.number))
        batch = self.backbone.encode([task.train.sample(memory[n]) for n in chosen], with_answers=True)
        named = {name: p for name, p in self.named_parameters() if p.requires_grad}
        with torch.enable_grad(), routing(self.context(batch)):
            found = self.backbone.loss(batch)
            grads = torch.autograd.grad(found.loss_sum / found.num_tokens, list(named.values()))
        return dict(zip(named, grads, strict=True))


class WatchingTurned(Watching, TurnedAGEM):
    """The same under the memory's gradient turned round."""

    def memory_gradient(self, step: int) -> Gradient:
        return {name: -grad for name, grad in super().memory_gradient(step).items()}


FAMILIES = (Watching, WatchingTurned)


WHOLE = {"train": "full", "rate": 1e-3}


def watched(
    root: Path, folder: Path, family: type[Watching], settings: dict[str, Any] | None = None, **data: Any
) -> tuple[Any, list[Any]]:
    method = small_method(folder, family, **(settings or {}))
    callbacks = [Replay(form="gradient", amount=AMOUNT)]
    run = fit(root, method, quick_data(**data), callbacks=callbacks).run
    return method, log_rows(run)


PARTS = {"batch_size": 1, "global_batch_size": QUICK}


@pytest.mark.parametrize("data", [{}, PARTS], ids=["whole", "accumulated"])
@pytest.mark.parametrize("settings", [{}, WHOLE], ids=["adapters", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_accumulated_gradient_is_projected_on_that_of_the_steps_memory_rows(
    llava_folder: Path,
    tmp_path: Path,
    family: type[Watching],
    settings: dict[str, Any],
    data: dict[str, int],
) -> None:
    method, rows = watched(tmp_path, llava_folder, family, settings, **data)
    assert ["agem/conflict" in row for row in rows] == [False, False, True, True]
    for number, (before, memory, after) in enumerate(method.steps):
        g, got = as_vector(before.values()), as_vector(after.values())
        if number < 2:
            assert np.array_equal(got, g)
            continue
        r = as_vector(memory[name] for name in before)
        assert rows[number]["agem/conflict"] == float(g @ r < 0)
        np.testing.assert_allclose(got, eq_11(g, r), rtol=1e-3, atol=1e-5 * np.abs(g).max())
    if family is WatchingTurned:
        assert 1.0 in [row["agem/conflict"] for row in rows[2:]]


def test_the_projected_gradient_is_what_the_optimizer_steps_with(llava_folder: Path, tmp_path: Path) -> None:
    """Where nothing disagrees it trains as SeqLoRA does, bit for bit; else otherwise."""
    plain = small_method(llava_folder, SeqLoRA)
    fit(tmp_path / "plain", plain, quick_data(), callbacks=[])
    found = {}
    for family in FAMILIES:
        method, rows = watched(tmp_path / family.__name__, llava_folder, family)
        changed = bool(differing(snapshot(method), snapshot(plain)))
        assert changed == any(row.get("agem/conflict") for row in rows)
        found[family] = changed
    assert found[WatchingTurned]


class AsRanks(AGEM):
    """Adds up the losses on the memory as ranks would have them, for each number of ranks."""

    def on_gradients(self, step: int) -> None:
        if self.memory_losses is None:
            return
        sums = []
        for ranks in (1, 2, 3):
            losses: list[float] = []
            for rank in range(ranks):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(type(self.trainer), "world_size", ranks)
                    patch.setattr(type(self.trainer), "global_rank", rank)
                    losses += [float(loss.detach()) for loss in self.memory_losses(step)]
            sums.append(sum(losses))
        self.sums = [*getattr(self, "sums", []), sums]


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_ranks_share_the_rows_of_a_step_also_where_one_has_none(
    llava_folder: Path, tmp_path: Path, rows: int
) -> None:
    method: Any = small_method(llava_folder, AsRanks)
    fit(tmp_path, method, callbacks=[Replay(form="gradient", amount=8, batch_size=rows)])
    assert len(method.sums) == 2
    for one, two, three in method.sums:
        assert (two, three) == (pytest.approx(one, rel=1e-5), pytest.approx(one, rel=1e-5))


@pytest.mark.processes
def test_two_ranks_project_as_one(llava_folder: Path, tmp_path: Path) -> None:
    memory = {"class_path": "Replay", "init_args": {"form": "gradient"}}
    made = Made(Row("turned_agem.TurnedAGEM", callbacks=[memory]), tmp_path, llava_folder)
    single = run_and_read(made.job("single", scored=False))[0]
    assert differing(made.ranks[0]["tensors"], made.ranks[1]["tensors"]) == []
    require_like(made.ranks[0], single)
    rows = [log_rows(RunFolder.open(each["path"])) for each in (single, made.ranks[0])]
    conflicts = [[row["agem/conflict"] for row in own[2:]] for own in rows]
    assert conflicts[0] == conflicts[1]
    assert 1.0 in conflicts[0]


@pytest.mark.processes
def test_a_run_killed_inside_a_later_stage_ends_bit_identical(llava_folder: Path, tmp_path: Path) -> None:
    require_equal_resume(
        tmp_path,
        lambda: small_method(llava_folder, AGEM, dropout=0.1),
        lambda: Replay(form="gradient", keep="reservoir", amount=8, batch_size=5),
        kill_at=5,
    )


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "form", "message"),
    [
        (AGEM, "rows", "Replay.form 'rows': AGEM needs form 'gradient'"),
        (AGEM, "term", "Replay.form 'term': AGEM needs form 'gradient'"),
        (SeqLoRA, "gradient", r"Replay.form 'gradient': SeqLoRA needs another form, or .* \(AGEM\)"),
    ],
)
def test_a_memory_in_another_form_is_refused(
    llava_folder: Path, tmp_path: Path, family: Any, form: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, small_method(llava_folder, family), callbacks=[Replay(form=form)])


def test_it_needs_a_memory_and_says_that_it_reads_old_data(llava_folder: Path, tmp_path: Path) -> None:
    method = small_method(llava_folder, AGEM)
    assert method.access.words() == "old data"
    with pytest.raises(ValueError, match="AGEM as configured needs the callback Replay"):
        fit(tmp_path, method, callbacks=[])
