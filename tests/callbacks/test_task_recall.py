"""TaskRecall: the gates that are stored and the term that holds them; the method matrix has its resume."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from prog_kit import begun, dynamic, hashed_texts  # noqa: F401
from stream_kit import (
    NUM_SHORT,
    STREAM,
    fit,
    log_rows,
    short_data,
    small_data,
    small_method,
)

from callbacks import TaskRecall
from lit_cvit.data.memory import cycled, memory_rows
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Sample
from lit_cvit.methods import ContinualMethod, ProgLoRADynamic, ProgLoRAStatic, SeqLoRA
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer


def texts_of(method: ProgLoRADynamic, task: Any, rows: list[int]) -> torch.Tensor:
    """Max-pooled token embeddings of the users' texts, one at a time."""
    table, tokenizer = method.backbone.model.get_input_embeddings().weight, method.backbone.tokenizer
    texts = [task.train.sample(row).user_text for row in rows]
    return torch.stack([table[tokenizer(t, add_special_tokens=False)["input_ids"]].amax(0) for t in texts])


class Watch(StageCallback):
    """Gates at every stage's end, and the term of every step by a plain computation."""

    def __init__(self, recall: TaskRecall) -> None:
        super().__init__()
        self.recall = recall
        self.ends: dict[str, torch.Tensor] = {}
        self.values: list[float] = []
        self.numbers: dict[int, list[int]] = {}

    def on_stage_end(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        assert isinstance(method, ProgLoRADynamic)
        rows = memory_rows(NUM_SHORT, self.recall.amount, seed=0, task=stage.task.name)
        with torch.no_grad():
            self.ends[stage.task.name] = method.gates(texts_of(method, stage.task, rows))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        stage = pl_module.stage
        if stage.number == 1:
            return
        now, before = [], []
        self.numbers[stage.number] = []
        for task in stage.seen[:-1]:
            number = min(self.recall.amount, NUM_SHORT)
            if self.recall.sizes == "similarity":
                number = round((1 - pl_module.similarities()[task.name]) * self.recall.amount)
            number = min(number, NUM_SHORT)
            self.numbers[stage.number].append(number)
            rows = memory_rows(NUM_SHORT, self.recall.amount, seed=0, task=task.name)[:number]
            with torch.no_grad():
                now.append(pl_module.gates(texts_of(pl_module, task, rows)))
            before += self.ends[task.name][:number].tolist()
        apart = [self.divergence(b, a) for b, a in zip(before, torch.cat(now).tolist(), strict=True)]
        if self.recall.batch_size:
            seed = mix("recall", 0, stage.number)
            apart = [
                apart[row] for row in cycled(len(apart), self.recall.batch_size, step=batch_idx, seed=seed)
            ]
        total = sum(apart) if self.recall.reduction == "sum" else sum(apart) / len(apart)
        self.values.append(self.recall.weight * total)

    def divergence(self, stored: list[float], now: list[float]) -> float:
        return sum(p * math.log(p / q) for p, q in zip(stored, now, strict=False) if p)


@pytest.mark.parametrize(
    "settings",
    [
        {"sizes": "random", "amount": 200},
        {"amount": 16, "weight": 5.0},
        {"sizes": "random", "amount": 6, "batch_size": 5},
        {"sizes": "random", "amount": 6, "reduction": "sum"},
    ],
)
def test_the_term_is_the_divergence_of_equation_8_from_the_gates_at_each_tasks_end(
    llava_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    recall = TaskRecall(**settings)
    watch = Watch(recall)
    method = dynamic(llava_folder, key_std=0.3)
    trainer = fit(tmp_path, method, short_data(), callbacks=[recall, watch])
    rows = log_rows(trainer.run)
    assert ["loss/recall" in row for row in rows] == [False, False, True, True, True, True]
    assert [row["loss/recall"] for row in rows[2:]] == pytest.approx(watch.values, rel=1e-3, abs=1e-5)
    assert watch.values[0] > 0.1
    # What is stored is what was so at the task's end, and it is never renewed.
    assert {task: gates.shape[1] for task, gates in recall.gates.items()} == dict(
        zip(STREAM, (1, 2, 3), strict=True)
    )
    for task, gates in watch.ends.items():
        torch.testing.assert_close(recall.gates[task], gates, atol=1e-6, rtol=1e-5)
    if recall.sizes == "similarity":
        assert 0 < watch.numbers[2][0] < 16


def test_right_after_its_task_nothing_diverges_and_a_new_key_parts_them(llava_folder: Path) -> None:
    method = begun(dynamic(llava_folder, key_std=0.3), 2)
    task = small_data(tasks=STREAM).stream[1]
    features = texts_of(method, task, [0, 3, 5])
    with torch.no_grad():
        stored = method.gates(features)
        assert method.gate_divergence(features, stored).tolist() == pytest.approx([0.0] * 3, abs=1e-6)
        method.begin_stage(small_data(tasks=STREAM).stages(seed=0)[2])
        now = method.gates(features)
        expected = [-math.log(1 - float(gate[2])) for gate in now]
        # The projector and the old keys are as they were, so the old weights only shrink together.
        assert method.gate_divergence(features, stored).tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0


def test_the_method_chooses_the_direction(llava_folder: Path) -> None:
    found = {}
    for direction in ("forward", "reverse"):
        method = begun(dynamic(llava_folder, key_std=0.3, kl_direction=direction), 2)
        features = texts_of(method, small_data(tasks=STREAM).stream[0], [0])
        with torch.no_grad():
            (value,) = method.gate_divergence(features, torch.tensor([[1.0]])).tolist()
            gate = method.gates(features)[0].tolist()
        found[direction] = (value, gate)
    value, gate = found["forward"]
    assert value == pytest.approx(-math.log(gate[0]), rel=1e-4)
    value, gate = found["reverse"]
    expected = gate[0] * math.log(gate[0]) + gate[1] * (math.log(gate[1]) - math.log(1e-8))
    assert value == pytest.approx(expected, rel=1e-4)


class NoImage:
    """An image that must not be opened."""

    def open(self) -> Any:
        raise AssertionError("an image was opened")


def test_recall_runs_neither_the_language_model_nor_opens_images(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = begun(dynamic(llava_folder), 1)
    stages = small_data(tasks=STREAM).stages(seed=0)
    source = stages[0].task.train
    assert source is not None

    class Unopened:
        def __len__(self) -> int:
            return len(source)

        def sample(self, index: int, epoch: int = 0) -> Any:
            return dataclasses.replace(source.sample(index, epoch), image=NoImage())

        def digest(self) -> str:
            return ""

    task = dataclasses.replace(stages[0].task, train=Unopened())
    trainer = ContinualTrainer(accelerator="cpu")
    trainer._data = small_data(tasks=STREAM)
    recall = TaskRecall(sizes="random", amount=8)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(method.backbone.model), "forward", forbidden)
    recall.on_stage_end(trainer, method, dataclasses.replace(stages[0], task=task))
    monkeypatch.undo()
    method.begin_stage(stages[1])
    monkeypatch.setattr(type(method.backbone.model), "forward", forbidden)
    recall.on_stage_start(trainer, method, dataclasses.replace(stages[1], seen=(task, stages[1].task)))
    assert recall._features.shape == (8, 64)
    assert recall._targets.tolist() == [[1.0, 0.0]] * 8


def test_accumulation_changes_nothing_also_in_a_short_last_step(llava_folder: Path, tmp_path: Path) -> None:
    logs = []
    for name, changes in (("whole", {}), ("parts", {"batch_size": 8, "global_batch_size": 16})):
        callbacks: list[Callback] = [TaskRecall(sizes="random", amount=6)]
        method = dynamic(llava_folder)
        logs.append(log_rows(fit(tmp_path / name, method, short_data(**changes), callbacks=callbacks).run))
    values = [[row["loss/recall"] for row in rows if "loss/recall" in row] for rows in logs]
    assert len(values[0]) == 4
    assert values[1] == pytest.approx(values[0], rel=5e-3)


def test_recall_keeps_old_gates_nearer_than_without_it(llava_folder: Path, tmp_path: Path) -> None:
    apart = {}
    for weight in (20.0, 1e-6):
        method = dynamic(llava_folder, rate=1e-3)
        recall = TaskRecall(sizes="random", amount=20, weight=weight)
        rows = log_rows(fit(tmp_path / str(weight), method, short_data(epochs=3), callbacks=[recall]).run)
        apart[weight] = [row["loss/recall"] / weight for row in rows if "loss/recall" in row]
    assert apart[20.0][0] == pytest.approx(apart[1e-6][0], rel=1e-4)
    assert apart[20.0][-1] < 0.75 * apart[1e-6][-1]


def test_the_state_is_plain_and_comes_back() -> None:
    recall, again = TaskRecall(), TaskRecall()
    recall.rows, recall.gates = {"GQA": [4, 2]}, {"GQA": torch.tensor([[0.25, 0.75], [1.0, 0.0]])}
    buffer = io.BytesIO()
    torch.save(recall.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert again.rows == recall.rows
    assert again.gates["GQA"].tolist() == [[0.25, 0.75], [1.0, 0.0]]


class ByLength(ContinualMethod):
    """Gates a block per task by the length of a text: a method of its own, with a divergence of its own."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.slopes = torch.nn.ParameterList()

    def plan_stage(self, stage: Stage) -> dict[str, Any]:
        return {"new_blocks": [self.rank], "freeze_blocks": True, "new_projector": self.is_new}

    def apply_plan(self, plan: dict[str, Any]) -> None:
        self.slopes.append(torch.nn.Parameter(torch.tensor(0.5 * self.num_gates)))

    def extra_tensors(self) -> dict[str, torch.Tensor]:
        return {f"slopes.{number}": slope for number, slope in enumerate(self.slopes)}

    def sample_facts(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"gate": self.gates(self.gate_features(batch.samples))} if len(self.slopes) else {}

    @property
    def num_gates(self) -> int:
        return len(self.slopes)

    def gate_features(self, samples: Sequence[Sample]) -> torch.Tensor:
        return torch.tensor([[len(sample.user_text) / 100] for sample in samples])

    def gates(self, features: torch.Tensor) -> torch.Tensor:
        return (features * torch.stack(list(self.slopes))).softmax(1)

    def gate_divergence(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (self.gates(features) - targets).square().sum(1)


def test_any_method_that_gates_its_blocks_by_sample_is_recalled(llava_folder: Path, tmp_path: Path) -> None:
    recall = TaskRecall(sizes="random", amount=6, weight=3.0)
    method = small_method(llava_folder, ByLength)
    assert isinstance(method, ByLength)
    run = fit(tmp_path, method, short_data(), callbacks=[recall]).run
    assert [tuple(recall.gates[task].shape) for task in STREAM] == [(6, 1), (6, 2), (6, 3)]
    rows = log_rows(run)
    assert ["loss/recall" in row for row in rows] == [False, False, True, True, True, True]
    # A first block has the gate 1, so its slope is 0 still; the second one begins with 0.5.
    source = short_data().stream[0].train
    assert source is not None
    texts = [source.sample(row).user_text for row in memory_rows(NUM_SHORT, 6, seed=0, task=STREAM[0])]
    second = [1 - 1 / (1 + math.exp(0.5 * len(text) / 100)) for text in texts]
    expected = 3.0 * sum(2 * share**2 for share in second) / 6
    assert rows[2]["loss/recall"] == pytest.approx(expected, rel=1e-5)
    assert rows[3]["loss/recall"] < rows[2]["loss/recall"]


@pytest.mark.parametrize("family", [SeqLoRA, ProgLoRAStatic])
def test_a_method_without_gates_by_sample_is_refused_with_what_is_needed(
    llava_folder: Path, tmp_path: Path, family: Any
) -> None:
    settings = {"recall": "none"} if family is ProgLoRAStatic else {}
    needed = f"num_gates, gate_features, gates and gate_divergence. {family.__name__} offers none"
    with pytest.raises(ValueError, match=needed):
        fit(tmp_path, small_method(llava_folder, family, **settings), callbacks=[TaskRecall()])


def test_sizes_by_similarity_need_a_method_that_measures_it(llava_folder: Path, tmp_path: Path) -> None:
    method = dynamic(llava_folder, text_encoder=None)
    needed = "TaskRecall.sizes 'similarity' needs the similarity of tasks"
    with pytest.raises(ValueError, match=needed):
        fit(tmp_path, method, callbacks=[TaskRecall()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": "fixed"}, "TaskRecall.sizes must be one of random, similarity; got 'fixed'"),
        ({"reduction": "max"}, "TaskRecall.reduction must be one of mean, sum; got 'max'"),
        ({"amount": 0}, "TaskRecall.amount must be at least 1, got 0"),
        ({"batch_size": 0}, "TaskRecall.batch_size must be at least 1, or null; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskRecall(**settings)
