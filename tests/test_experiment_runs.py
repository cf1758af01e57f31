"""The shipped experiments run, and fit the machine that their commands are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clip_kit import build_clip_folder
from experiment_kit import command
from prepared_kit import write_prepared
from transformers import LlamaConfig, LlavaConfig

from lit_cvit import methods
from lit_cvit.__main__ import main
from lit_cvit.cli.shipped import CONFIGS, read_config
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.tasks import Sample
from lit_cvit.encoders import MINILM
from lit_cvit.memory_plan import plan_memory
from lit_cvit.run import RunFolder, read_jsonl

SMALL = """\
model:
  init_args:
    backbone:
      init_args: {{name_or_path: {folder}, quantization: none, dtype: float32}}
    {encoders}
data: {{tasks: {tasks}, batch_size: 2, global_batch_size: 4, eval_batch_size: 4, num_workers: 0}}
trainer: {{accelerator: cpu, precision: 32-true}}
"""


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("smolora_cvit_multi", ["GQA", "VQAv2"]),
        ("hide_coin_hide", ["ScienceQA", "GQA"]),
        ("prog_lora_dynamic_coin", ["TextVQA", "Grounding"]),
        ("lcia_coin", ["GQA", "VizWiz"]),
    ],
)
def test_a_command_runs_with_a_small_model_and_small_data(
    name: str, tasks: list[str], llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(CONFIGS / "experiments" / f"{name}.yaml")
    encoders = {key: MINILM for key in ("text_encoder",) if key in config["model"]["init_args"]}
    if name.startswith("hide"):
        encoders = dict.fromkeys(("image_encoder", "text_encoder"), str(build_clip_folder(tmp_path / "clip")))
    lines = "\n    ".join(f"{key}: {value}" for key, value in encoders.items())
    small = tmp_path / "small.yaml"
    small.write_text(SMALL.format(folder=llava_folder, encoders=lines, tasks=json.dumps(tasks)))
    write_prepared(tmp_path / "data", config["data"]["benchmark"])
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *command(name), "--config", str(small)]) == 0
    run = RunFolder.open(Path("runs") / name)
    steps = [row for row in read_jsonl(run.log_path) if "loss/lm" in row]
    assert len(steps) == 4, "two stages of six rows, four a step"
    matrix = run.matrix()
    assert list(matrix.tasks) == tasks
    assert all(cell is not None for cell in matrix.scores[-1])
    assert (run.path / "report" / "summary.md").is_file()


class Lengths:
    """An encoder with the lengths of the example in docs/memory.md."""

    def prompt_length(self, sample: Sample) -> int:
        return 704

    def num_answer_tokens(self, sample: Sample) -> int:
        return 32


SIZES = {
    "lcia_coin": LlamaConfig(vocab_size=32_064),
    "seq_lora_coin_13b": LlamaConfig(
        vocab_size=32_064,
        hidden_size=5_120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_largest_commands_for_24_gb_are_planned_with_less(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prepared(tmp_path / "data", "coin")
    monkeypatch.chdir(tmp_path)
    cli = StreamCLI([*command(name), "--trainer.accelerator", "cpu"], run=False)
    method, data = cli.model, cli.datamodule
    assert isinstance(method, methods.ContinualMethod)
    assert isinstance(data, ContinualDataModule)
    sizes = LlavaConfig(text_config=SIZES[name].to_dict(), vision_feature_layer=-2)
    method.backbone.__dict__["config"] = sizes
    data.attach(Lengths())  # type: ignore[arg-type]
    plan = plan_memory(method, data, data.stages(seed=0), precision=cli.trainer.precision)
    assert plan.peak_bytes() < 24e9
