"""Replay: which rows come back, in which form, what they weigh, and that a resume changes nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from prog_kit import hashed_texts, static  # noqa: F401
from stream_kit import (
    NUM_SHORT,
    STREAM,
    fit,
    log_rows,
    require_equal_resume,
    short_data,
    small_method,
)

from callbacks import Replay
from callbacks.stream_progress import header
from lit_cvit.adapters import routing
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.memory import cycled, memory_rows, reservoir_rows
from lit_cvit.data.sampling import mix
from lit_cvit.methods import ProgLoRADynamic, ProgLoRAStatic, SeqLoRA
from lit_cvit.stream.trainer import ContinualTrainer


class Seen(Callback):
    """Task and id of every row of every micro-batch, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, list[list[tuple[str, str]]]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        reported = [(vars(each)["task"], vars(each)["id"]) for each in batch.samples]
        self.rows.setdefault(pl_module.stage.number, []).append(reported)


def names(task: str, rows: list[int]) -> list[tuple[str, str]]:
    return [(task, f"train-{row}") for row in rows]


def all_of(task: str) -> list[tuple[str, str]]:
    return names(task, list(range(NUM_SHORT)))


# -- rows ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ContinualTrainer, Seen, Replay]:
    seen, replay = Seen(), Replay(amount=6)
    method = small_method(llava_folder, SeqLoRA)
    return fit(tmp_path_factory.mktemp("rows"), method, short_data(), callbacks=[replay, seen]), seen, replay


def test_rows_of_earlier_tasks_are_mixed_into_a_stages_data(mixed: Any) -> None:
    _, seen, _ = mixed
    old = {task: names(task, memory_rows(NUM_SHORT, 6, seed=0, task=task)) for task in STREAM}
    expected = {
        1: all_of("ScienceQA"),
        2: all_of("GQA") + old["ScienceQA"],
        3: all_of("VQAv2") + old["ScienceQA"] + old["GQA"],
    }
    got = {number: sorted(sum(batches, [])) for number, batches in seen.rows.items()}
    assert got == {number: sorted(rows) for number, rows in expected.items()}
    # Shuffled together, not one after the other.
    assert {task for task, _ in seen.rows[3][0]} == set(STREAM)


def test_header_and_record_say_that_the_method_learns_from_old_data(mixed: Any) -> None:
    trainer = mixed[0]
    assert trainer.lightning_module.access.words() == "nothing beyond the prompt and image"
    assert trainer.run.record.facts["access"] == "old data"
    assert "access    old data" in header(trainer, trainer.lightning_module)


def test_steps_schedule_and_log_follow_a_stage_that_got_longer(llava_folder: Path, tmp_path: Path) -> None:
    method = small_method(llava_folder, SeqLoRA)
    trainer = fit(tmp_path, method, short_data(epochs=2), callbacks=[Replay()])
    assert [stage.num_steps for stage in trainer.stages] == [4, 6, 8]
    assert [trainer.run.record.stage(number).facts["steps"] for number in (1, 2, 3)] == [4, 6, 8]
    rows = log_rows(trainer.run)
    assert [row["step"] for row in rows] == list(range(18))
    assert [rows[start]["rate/decoder"] for start in (0, 4, 10)] == [0.005] * 3
    assert all(rows[end]["rate/decoder"] < 0.001 for end in (9, 17))
    assert {name for name in rows[-1] if name.startswith("loss/")} == {"loss/lm"}


def test_replayed_rows_are_never_kept_as_new_ones(mixed: Any) -> None:
    replay = mixed[2]
    assert replay.memory == {task: memory_rows(NUM_SHORT, 6, seed=0, task=task) for task in STREAM}


def test_a_task_gives_no_more_rows_than_it_has_and_a_fraction_of_them(llava_folder: Path) -> None:
    method, stages = small_method(llava_folder, SeqLoRA), short_data().stages(seed=0)
    for settings, number in (({"amount": 200}, 20), ({"sizes": "fraction", "amount": 0.25}, 5)):
        replay = Replay(**settings)
        replay.on_stage_end(ContinualTrainer(accelerator="cpu"), method, stages[0])
        (found,) = replay.replayed(method, stages[1])
        assert found.rows == tuple(memory_rows(NUM_SHORT, number, seed=0, task="ScienceQA"))


class Compares(SeqLoRA):
    """Says how alike tasks are."""

    measures = True

    def similarities(self) -> dict[str, float]:
        return {"ScienceQA": 0.75, "GQA": 1.0}


def test_by_similarity_the_less_alike_tasks_give_more(llava_folder: Path) -> None:
    method, stages = small_method(llava_folder, Compares), short_data().stages(seed=0)
    replay, trainer = Replay(sizes="similarity", amount=16), ContinualTrainer(accelerator="cpu")
    for stage in stages[:2]:
        replay.on_stage_end(trainer, method, stage)
    assert {task: len(rows) for task, rows in replay.memory.items()} == {"ScienceQA": 16, "GQA": 16}
    found = replay.replayed(method, stages[2])
    assert [source.rows for source in found] == [
        tuple(memory_rows(NUM_SHORT, 4, seed=0, task="ScienceQA")),
        (),
    ]


def test_a_reservoir_comes_back_whole(llava_folder: Path) -> None:
    method, stages = small_method(llava_folder, SeqLoRA), short_data().stages(seed=0)
    replay, trainer = Replay(keep="reservoir", amount=12), ContinualTrainer(accelerator="cpu")
    for stage in stages[:2]:
        replay.on_stage_end(trainer, method, stage)
    expected = reservoir_rows({"ScienceQA": NUM_SHORT, "GQA": NUM_SHORT}, 12, seed=0)
    found = replay.replayed(method, stages[2])
    assert [source.rows for source in found] == [tuple(rows) for rows in expected.values()]
    assert sum(map(len, found)) == 12


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"amount": 7}, [0, 7, 14]),
        ({"sizes": "fraction", "amount": 0.25}, [0, 5, 10]),
        ({"keep": "reservoir", "amount": 24}, [0, 20, 24]),
        ({"form": "term", "amount": 7}, [0, 0, 0]),
        # What similarity leaves of the amount is not known before.
        ({"sizes": "similarity", "amount": 16}, [0, 16, 32]),
    ],
)
def test_the_rows_of_later_stages_are_planned(
    llava_folder: Path, settings: dict[str, Any], numbers: list[int]
) -> None:
    replay, trainer = Replay(**settings), ContinualTrainer(accelerator="cpu")
    method, stages = small_method(llava_folder, Compares), short_data().stages(seed=0)
    assert [replay.planned_rows(stage) for stage in stages] == numbers
    added = []
    for stage in stages:
        added.append(sum(map(len, replay.replayed(method, stage))) * (replay.form == "rows"))
        replay.on_stage_end(trainer, method, stage)
    assert added == ([0, 4, 4] if replay.sizes == "similarity" else numbers)


def test_a_method_that_compares_no_tasks_cannot_size_by_similarity(
    llava_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Replay.sizes 'similarity' needs a method that compares tasks"):
        fit(tmp_path, small_method(llava_folder, SeqLoRA), callbacks=[Replay(sizes="similarity")])
    method = static(llava_folder, static_weights="ones", text_encoder=None)
    with pytest.raises(ValueError, match="needs the similarity of tasks, which ProgLoRAStatic as configured"):
        fit(tmp_path, method, callbacks=[Replay(sizes="similarity")])


# -- a loss term ---------------------------------------------------------------------------------------------


class Expected(Callback):
    """What the term of a step should be, by a plain computation on the parameters that the step finds."""

    def __init__(self, replay: Replay, batch_size: int) -> None:
        super().__init__()
        self.replay, self.batch_size = replay, batch_size
        self.values: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        stage = pl_module.stage
        if stage.number == 1:
            return
        memory = []
        for task in stage.seen[:-1]:
            memory += [task.train.sample(row) for row in memory_rows(NUM_SHORT, 6, seed=0, task=task.name)]
        seed = mix("replay", 0, stage.number)
        rows = cycled(len(memory), self.batch_size, step=batch_idx, seed=seed)
        replayed = pl_module.backbone.encode([memory[row] for row in rows], with_answers=True)
        with torch.no_grad(), routing(pl_module.context(replayed)):
            loss = pl_module.backbone.loss(replayed)
        self.values.append(3.0 * float(loss.loss_sum) / loss.num_tokens)


@pytest.mark.parametrize(("family", "batch_size"), [(SeqLoRA, 4), (SeqLoRA, None), (ProgLoRAStatic, 5)])
def test_the_term_is_the_weighted_mean_token_loss_of_the_steps_rows(
    llava_folder: Path, tmp_path: Path, family: Any, batch_size: int | None
) -> None:
    replay = Replay(form="term", amount=6, weight=3.0, batch_size=batch_size)
    expected = Expected(replay, batch_size or 16)
    trainer = fit(tmp_path, small_method(llava_folder, family), short_data(), callbacks=[replay, expected])
    rows = log_rows(trainer.run)
    assert [stage.num_steps for stage in trainer.stages] == [2, 2, 2]
    assert ["loss/replay" in row for row in rows] == [False, False, True, True, True, True]
    assert [row["loss/replay"] for row in rows[2:]] == pytest.approx(expected.values, rel=1e-5)


def test_accumulation_changes_nothing_also_in_a_short_last_step(llava_folder: Path, tmp_path: Path) -> None:
    """The last step has 4 rows: one micro-batch of two; and three replayed rows for two of them."""
    logs = []
    for name, changes in (("whole", {}), ("parts", {"batch_size": 8, "global_batch_size": 16})):
        callbacks: list[Callback] = [Replay(form="term", amount=6, batch_size=3)]
        method = small_method(llava_folder, SeqLoRA)
        logs.append(log_rows(fit(tmp_path / name, method, short_data(**changes), callbacks=callbacks).run))
    for name in ("loss/lm", "loss/replay"):
        values = [[row[name] for row in rows if name in row] for rows in logs]
        assert values[1] == pytest.approx(values[0], rel=2e-3), name


class ReadsTask(SeqLoRA):
    """Reads the task of replayed samples without declaring it."""

    def sample_facts(self, batch: Any) -> dict[str, torch.Tensor]:
        for sample, index in zip(batch.samples, batch.indices, strict=True):
            if index == -1 or index >= NUM_SHORT:
                assert sample.task
        return {}


@pytest.mark.parametrize("form", ["rows", "term"])
def test_replayed_rows_hide_what_the_method_does_not_declare(
    llava_folder: Path, tmp_path: Path, form: Any
) -> None:
    with pytest.raises(
        RuntimeError, match=r"reads `sample.task`, which its property `access` does not declare"
    ):
        fit(tmp_path, small_method(llava_folder, ReadsTask), short_data(), callbacks=[Replay(form=form)])


# -- resume --------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_run_killed_inside_a_later_stage_ends_bit_identical(llava_folder: Path, tmp_path: Path) -> None:
    """A reservoir as a term; the method matrix has rows of every task, and ProgLoRA's term by similarity."""
    require_equal_resume(
        tmp_path,
        lambda: small_method(llava_folder, SeqLoRA, dropout=0.1),
        lambda: Replay(form="term", keep="reservoir", amount=8, batch_size=5),
        kill_at=5,
    )


def test_the_state_is_plain_and_comes_back() -> None:
    replay, again = Replay(), Replay()
    replay.memory = {"GQA": [3, 1], "VQAv2": []}
    buffer = io.BytesIO()
    torch.save(replay.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert again.memory == replay.memory
    assert again.memory["GQA"] is not replay.memory["GQA"]


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "loss"}, "Replay.form must be one of rows, term, gradient; got 'loss'"),
        ({"keep": "all"}, "Replay.keep must be one of per_task, reservoir; got 'all'"),
        ({"sizes": "random"}, "Replay.sizes must be one of fixed, fraction, similarity; got 'random'"),
        ({"amount": 0}, "Replay.amount must be more than 0, got 0"),
        ({"amount": 2.5}, "Replay.amount must be a whole number of rows, at least 1, got 2.5"),
        (
            {"sizes": "fraction", "amount": 2},
            "Replay.amount must be at most 1 with sizes 'fraction', got 2",
        ),
        ({"keep": "reservoir", "sizes": "fraction", "amount": 0.5}, "needs sizes 'fixed', got 'fraction'"),
        ({"batch_size": 0}, "Replay.batch_size must be at least 1, or null; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Replay(**settings)


def test_shipped_configurations_name_what_the_papers_say() -> None:
    def built(name: str) -> Any:
        return StreamCLI(["--config", "quickstart", "--config", f"methods/{name}"], run=False)

    static, dynamic, baseline = (
        built(n) for n in ("prog_lora_static", "prog_lora_dynamic", "seq_lora_replay")
    )
    replay = next(each for each in static.trainer.callbacks if isinstance(each, Replay))
    assert (replay.form, replay.sizes, replay.amount, replay.weight) == ("term", "similarity", 200, 2.0)
    assert (type(static.model), static.model.requires_callbacks) == (ProgLoRAStatic, ("Replay",))
    assert (type(dynamic.model), dynamic.model.requires_callbacks) == (ProgLoRADynamic, ("TaskRecall",))
    assert {static.model.projector, dynamic.model.projector} == {"full"}
    rows = next(each for each in baseline.trainer.callbacks if isinstance(each, Replay))
    assert (type(baseline.model), rows.form, rows.sizes, rows.amount) == (SeqLoRA, "rows", "fixed", 100)
