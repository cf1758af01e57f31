"""`pretrain`: the recipe of `tiny` in two steps of each kind, from the command line."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from lit_cvit.__main__ import main
from lit_cvit.backbones import Tiny
from lit_cvit.cli.shipped import CONFIGS
from lit_cvit.data.tasks import Sample
from lit_cvit.miniature.pretrain import pretrain as make
from lit_cvit.miniature.pretrain import space_unwritten
from lit_cvit.miniature.recipe import Recipe
from lit_cvit.miniature.scenes import DrawnImage, Scene, Thing

STEPS = [field.name for field in fields(Recipe) if field.name.endswith("_steps")]
SHORT = {**dict.fromkeys(STEPS, 2), "vision_batch": 2, "language_batch": 3, "log_every": 1, "seed": 5}


def pretrain(config: Path, out: Path, *options: str) -> int:
    return main(["pretrain", "--config", str(config), "--out", str(out), *options])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(yaml.safe_dump({"recipe": SHORT}))
    return path


@pytest.fixture(scope="module")
def made(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "tiny"
    assert pretrain(config, out) == 0
    return out


def test_the_folder_loads_as_a_tiny_backbone_and_answers(made: Path) -> None:
    tiny = Tiny(str(made)).load().eval()
    sample = Sample("1", "t", "what is it?", "", ("",), DrawnImage(Scene((Thing("star", "red", 4),))))
    (answer,) = tiny.generate(tiny.encode([sample], with_answers=False), max_new_tokens=3)
    assert isinstance(answer, str)
    assert tiny.describe()["source"] == "folder"


def test_the_folder_has_the_files_of_the_shipped_one(made: Path) -> None:
    from lit_cvit.backbones.tiny import WEIGHTS

    assert {path.name for path in made.iterdir()} == {path.name for path in WEIGHTS.iterdir()}


def test_the_log_keeps_the_recipe_and_every_kind_of_step(made: Path) -> None:
    first, *rows = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    recipe = Recipe(**SHORT)
    assert {key: first[key] for key in asdict(recipe)} == asdict(recipe)
    (spacing,) = [row for row in rows if row["phase"] == "spacing"]
    assert spacing["rows"] > 1000
    rows.remove(spacing)
    assert len({row["phase"] for row in rows}) == len(STEPS)
    assert [row["step"] for row in rows] == [1, 2] * len(STEPS)
    assert all(row["loss"] > 0 for row in rows)


class CutOff(Exception):
    """What ends a pre-training in the middle of a step."""


def cut_off_at(phase: str, out: Path, **changes: int) -> None:
    def echo(line: str) -> None:
        if json.loads(line)["phase"] == phase:
            raise CutOff

    with pytest.raises(CutOff):
        make(Recipe(**SHORT, **changes), out, echo=echo)


@pytest.mark.parametrize("phase", ["alignment", "instruction"])
def test_one_that_was_cut_off_goes_on_behind_the_last_whole_step_with_the_same_bits(
    made: Path, tmp_path: Path, phase: str
) -> None:
    cut_off_at(phase, tmp_path)
    seen: list[str] = []
    make(Recipe(**SHORT), tmp_path, echo=lambda line: seen.append(json.loads(line)["phase"]))
    assert seen[:2] == ["recipe", phase]
    assert differing(made, tmp_path) == []
    one, two = ((path / "log.jsonl").read_text().splitlines() for path in (made, tmp_path))
    assert [without_seconds(row) for row in one] == [without_seconds(row) for row in two]


def test_steps_of_another_recipe_are_refused_but_later_settings_may_change(tmp_path: Path) -> None:
    cut_off_at("sight", tmp_path)
    with pytest.raises(ValueError, match=r"vision_steps \(was 2, is 3\); name another folder"):
        make(Recipe(**{**SHORT, "vision_steps": 3}), tmp_path)
    make(Recipe(**{**SHORT, "instruction_steps": 1}), tmp_path, echo=lambda line: None)


def without_seconds(row: str) -> dict[str, object]:
    return {key: value for key, value in json.loads(row).items() if key != "seconds"}


def differing(one: Path, two: Path) -> list[str]:
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, two))
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not ours[name].equal(theirs[name])]


def test_rows_of_unwritten_tokens_are_spaced_about_their_mean_as_widely_as_written_ones_about_theirs() -> (
    None
):
    head = torch.ones(8, 16) + 0.5 * torch.eye(8, 16)
    head[3:] = torch.linspace(-1, 2, 16)
    written = torch.arange(8) < 3
    before = head.clone()
    space_unwritten(head, written, Recipe())
    assert head[:3].equal(before[:3])
    own = (before[:3] - before[:3].mean(0)).norm(dim=1).mean()
    torch.testing.assert_close((head[3:] - before[3]).norm(dim=1), own.expand(5))
    between = nn.functional.cosine_similarity(head[3:, None] - before[3], head[None, 3:] - before[3], dim=-1)
    assert between[~torch.eye(5, dtype=torch.bool)].abs().max() < 0.8


def test_the_same_recipe_makes_the_same_weights(config: Path, made: Path, tmp_path: Path) -> None:
    assert pretrain(config, tmp_path / "again") == 0
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()
    assert differing(made, tmp_path / "again") == []


def test_a_folder_that_holds_a_model_is_refused(
    config: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (made / "log.jsonl").read_bytes()
    assert pretrain(config, made) == 1
    message = f"--out {made} already holds a model; name another folder or remove it first"
    assert capsys.readouterr().err == f"lit_cvit pretrain: {message}\n"
    assert (made / "log.jsonl").read_bytes() == before


def test_a_wrong_key_in_the_recipe_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("recipe: {vison_steps: 3}\n")
    assert pretrain(path, tmp_path / "out") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit_cvit pretrain: ")
    assert all(part in line for part in ("'recipe.vison_steps'", "Did you mean 'recipe.vision_steps'?"))
    assert not (tmp_path / "out").exists()


def test_the_command_line_wins_over_the_configuration(config: Path, tmp_path: Path) -> None:
    assert pretrain(config, tmp_path / "other", "--recipe.seed", "6") == 0
    first = json.loads((tmp_path / "other" / "log.jsonl").read_text().splitlines()[0])
    assert (first["seed"], first["vision_batch"]) == (6, 2)


def test_a_value_of_a_wrong_type_in_the_recipe_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("recipe: {vision_steps: many}\n")
    assert pretrain(path, tmp_path / "out") == 2
    message = "recipe.vision_steps: got 'many'; it must be a whole number"
    assert capsys.readouterr().err == f"lit_cvit pretrain: {message}\n"


def test_the_shipped_recipe_names_only_settings_that_exist() -> None:
    recipe = yaml.safe_load((CONFIGS / "pretrain_tiny.yaml").read_text())["recipe"]
    assert set(recipe) <= {field.name for field in fields(Recipe)}
