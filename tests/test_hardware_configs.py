"""The shipped configuration of every kind of machine: its header, and what it sets beside a backbone's."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy

from lit_cvit.cli.shipped import CONFIGS, read_config
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.methods import SMoLoRA

NAMES = sorted(path.stem for path in (CONFIGS / "hardware").glob("*.yaml"))
SEVEN_B = "backbones/llava_1_5_7b"


def built(*configs: str) -> tuple[SMoLoRA, ContinualDataModule, Any]:
    """Method, data and trainer of a run, on this machine's CPU whatever the configurations say."""
    arguments = [part for name in ("quickstart", *configs) for part in ("--config", name)]
    cli = StreamCLI([*arguments, "--trainer.accelerator", "cpu", "--trainer.devices", "1"], run=False)
    assert isinstance(cli.model, SMoLoRA)
    assert isinstance(cli.datamodule, ContinualDataModule)
    return cli.model, cli.datamodule, cli.trainer


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_for_which_machine_and_gives_the_command(name: str) -> None:
    text = (CONFIGS / "hardware" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("#")]
    assert "GPU" in lines[0]
    command = " ".join(line.removeprefix("#").strip() for line in lines)
    assert "python -m lit_cvit fit --config quickstart " in command
    assert f"--config hardware/{name}" in command


@pytest.mark.parametrize(
    ("name", "quantization", "micro", "accumulate"),
    [("one_24gb_gpu", "nf4", 8, 8), ("one_80gb_gpu", "none", 16, 4)],
)
def test_one_gpu_keeps_the_backbone_and_the_step_of_the_papers(
    name: str, quantization: str, micro: int, accumulate: int
) -> None:
    method, data, trainer = built(SEVEN_B, f"hardware/{name}")
    backbone = method.backbone
    assert (type(backbone).__name__, backbone.name_or_path) == ("Llava", "llava-hf/llava-1.5-7b-hf")
    assert (backbone.quantization, backbone.dtype) == (quantization, "bfloat16")
    assert backbone.activation_checkpointing
    assert (data.batch_size, data.step_size, trainer.precision) == (micro, 64, "bf16-mixed")
    assert data.begin_stage(data.stages(seed=0)[0]) == accumulate


def test_several_gpus_share_the_step_of_the_one() -> None:
    _, data, trainer = built(SEVEN_B, "hardware/one_24gb_gpu", "hardware/n_gpus_ddp")
    assert isinstance(trainer.strategy, DDPStrategy)
    assert data.step_size == 64
    assert read_config(CONFIGS / "hardware" / "n_gpus_ddp.yaml")["trainer"]["devices"] == -1


def test_a_cpu_leaves_model_and_data_alone() -> None:
    assert set(read_config(CONFIGS / "hardware" / "cpu.yaml")) == {"trainer"}
    method, data, trainer = built("hardware/cpu")
    assert (method.backbone.name_or_path, data.step_size) == ("tiny", 16)
    assert trainer.precision == "32-true"
