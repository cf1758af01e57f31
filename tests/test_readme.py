"""What README.md shows is what the repository holds, and it runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lit_cvit.__main__ import main
from lit_cvit.run import RunFolder

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "add_a_method" / "growing_lora.py"


def test_readme_shows_the_whole_example_method() -> None:
    method, test = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert method == EXAMPLE.read_text(encoding="utf-8")
    assert EXAMPLE.with_name("test_growing_lora.py").read_text(encoding="utf-8").endswith(test)


def test_readme_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_names_only_configurations_that_ship() -> None:
    named = set(re.findall(r"--config ([\w/]+)(?=[\s`])", README))
    shipped = {
        str(p.relative_to(ROOT / "configs").with_suffix("")) for p in (ROOT / "configs").rglob("*.yaml")
    }
    assert {"quickstart", "methods/seq_lora"} <= named
    assert {name for name in named if not name.startswith(("configs/", "examples/"))} <= shipped


def test_the_example_method_grows_a_block_per_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    arguments = ["fit", "--config", "quickstart", "--model", "growing_lora.GrowingLoRA"]
    arguments += ["--model.penalty", "0.1", "--data.tasks", "[GQA, VQAv2]", "--run_root", str(tmp_path)]
    arguments += [
        "--data.settings",
        "{num_train: 32, num_test: 4}",
        "--data.batch_size",
        "16",
        "--name",
        "new",
    ]
    assert main(arguments) == 0
    run = RunFolder.open(tmp_path / "new")
    names = run.load_stage(2).tensors
    assert {name.split(".blocks.")[1] for name in names} == {"0.A", "0.B", "1.A", "1.B"}
