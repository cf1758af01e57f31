"""Every shipped configuration learns each of the three streams, and a killed run ends as a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
from stream_kit import KillAt, Killed, log_rows, state_files

from lit_cvit.cli.shipped import CONFIGS
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.run import RunFolder, Status

METHODS = sorted({path.stem for path in (CONFIGS / "methods").glob("*.yaml")} - {"zero_shot"})
SMALL = [
    "--data.settings",
    "{num_train: 8, num_test: 2}",
    "--data.batch_size",
    "4",
    "--data.eval_batch_size",
    "4",
]
# In the fourth stage of two steps each, later in those of replayed rows.
STEP = 7


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["cvit_mini", "coin_mini", "ucit_mini"])
@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_ends_with_the_bits_of_a_whole_one(tmp_path: Path, stream: str, name: str) -> None:
    def run(folder: str, *more: KillAt, ckpt_path: str | None = None) -> RunFolder:
        configs = ["--config", f"studies/{stream}", "--config", f"methods/{name}", *SMALL]
        place = ["--run_root", str(tmp_path), "--name", folder, "--trainer.checkpoint_every_n_steps", "1"]
        cli = StreamCLI([*configs, *place], run=False)
        cli.trainer.callbacks += more
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=ckpt_path)
        return cli.trainer.run

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt(STEP))
    again = run("killed", ckpt_path="last")
    assert {stage.status for stage in whole.record.stages} == {Status.EVALUATED}
    assert state_files(again) == state_files(whole)
    assert log_rows(again) == log_rows(whole)
