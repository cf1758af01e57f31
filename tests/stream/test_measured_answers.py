"""Answer tokens in a run: measured once for each split, by one process, and not again on a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from stream_kit import KillAt, Killed, fit, short_data, small_method

from callbacks import Replay
from lit_cvit.data import answer_tokens
from lit_cvit.methods import ContinualMethod, Multitask, SeqLoRA
from lit_cvit.run import RunFolder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tasks of the splits that are gone through."""
    tasks: list[str] = []
    real = answer_tokens.counted

    def counted(source: Any, *args: Any) -> list[int]:
        tasks.append(source.task)
        return real(source, *args)

    monkeypatch.setattr(answer_tokens, "counted", counted)
    return tasks


@pytest.mark.parametrize("form", ["rows", "term"])
def test_replayed_rows_and_resumed_runs_measure_nothing_again(
    llava_folder: Path, tmp_path: Path, measured: list[str], form: Any
) -> None:
    def run(*more: Callback, **how: Any) -> RunFolder:
        callbacks = [Replay(form=form, amount=4), *more]
        method = small_method(llava_folder, SeqLoRA)
        data = short_data(tasks=["ScienceQA", "GQA"], epochs=2)
        return fit(tmp_path, method, data, callbacks=callbacks, checkpoint_every_n_steps=1, **how).run

    with pytest.raises(Killed):
        run(KillAt(5))
    assert measured == ["ScienceQA", "GQA"]
    folder = run(ckpt_path="last")
    assert measured == ["ScienceQA", "GQA"]
    assert folder.stages_done() == [1, 2]
    assert len(list(folder.path.glob("measurements/answer_tokens-*.safetensors"))) == 2


def test_joint_training_measures_its_tasks_each(
    llava_folder: Path, tmp_path: Path, measured: list[str]
) -> None:
    method: ContinualMethod = small_method(llava_folder, Multitask)
    fit(tmp_path, method, short_data(), callbacks=[])
    assert measured == ["ScienceQA", "GQA", "VQAv2"]
