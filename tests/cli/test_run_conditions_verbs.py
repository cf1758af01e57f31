"""A run is opened again under the conditions it was trained under, or the difference is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cli_kit import only_message
from PIL import Image
from safetensors.torch import load_file, save_file

from lit_cvit.__main__ import main
from lit_cvit.run import RunFolder

MADE = Path(__file__).parents[1] / "old_runs"
CONFIG = """\
model:
  class_path: DirLoRA
  init_args:
    backbone: {class_path: Llava, init_args: {name_or_path: backbone}}
    rank: 4
    alpha: 8
    optimizer: {learning_rate: 0.003}
data: {benchmark: data/drawn.yaml, batch_size: 4}
trainer: {accelerator: cpu}
"""
FIT = ("fit", "--config", "small.yaml", "--name", "x")
TEST, CKA = ("test", "--run", "runs/x"), ("analyze", "cka", "--run", "runs/x", "--samples", "3")
PREDICT = (
    "predict",
    "--run",
    "runs/x",
    "--image",
    "data/images/red-circle.png",
    "--question",
    "Which colour?",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder: backbone, data, configuration with relative paths, and a run of two stages."""
    folder = tmp_path_factory.mktemp("trained") / "project"
    folder.mkdir()
    for name in ("backbone", "data"):
        shutil.copytree(MADE / name, folder / name)
    (folder / "small.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(list(FIT)) == 0
    return folder


@pytest.fixture(autouse=True)
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder in another place, where the test runs."""
    folder = Path(shutil.copytree(trained, tmp_path / "moved"))
    monkeypatch.chdir(folder)
    return folder


def other_weights() -> None:
    path = Path("backbone/model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def edit_benchmark(**changes: object) -> None:
    path = Path("data/drawn.yaml")
    content = yaml.safe_load(path.read_text())
    content["tasks"][0] |= changes
    path.write_text(yaml.safe_dump(content))


def edit_config(**changes: object) -> None:
    path = Path("runs/x/config.yaml")
    content = yaml.safe_load(path.read_text())
    content["model"]["init_args"] |= changes
    path.write_text(yaml.safe_dump(content))


def other_images() -> None:
    shutil.copytree("data/images", "data/others")
    for path in Path("data/others").iterdir():
        Image.new("RGB", (32, 32), "white").save(path)
    edit_benchmark(image_root="others")


def another_question() -> None:
    path = Path("data/colour-test.jsonl")
    path.write_text(path.read_text().replace("What colour", "Which colour"))


def test_a_project_that_moved_as_a_whole_is_opened_as_before(say, project: Path) -> None:
    assert [say(*verb)[::2] for verb in (TEST, PREDICT, CKA)] == [(0, "")] * 3
    record = RunFolder.open("runs/x").record
    assert record.scoring["colour"] == {
        "answer_format": "short",
        "scorer": "short_answer",
        "further scorers": [],
        "max_new_tokens": 12,
    }
    assert record.settings["model.alpha"] == 8
    assert record.settings["model.backbone.image_aspect"] == "pad"
    assert not {"model.dropout", "model.backbone.name_or_path"} & record.settings.keys()
    assert record.images.keys() == {"colour", "shape", "colour train", "shape train"}
    assert say(*FIT, "--ckpt_path", "last")[0] == 0
    assert [path.name for path in Path("runs").iterdir()] == ["x"]


@pytest.mark.parametrize(
    "verb", [TEST, PREDICT, CKA, (*FIT, "--ckpt_path", "last")], ids=lambda verb: verb[0]
)
def test_other_weights_at_the_same_path_are_refused(say, verb: tuple[str, ...]) -> None:
    was = RunFolder.open("runs/x").record.backbone["digest"]
    other_weights()
    status, out, err = say(*verb)
    assert (status, out) == (1, "")
    assert f"the backbone digest was {was}, now it is " in err


def test_other_weights_are_refused_to_start_from(say) -> None:
    other_weights()
    status, _, err = say(*FIT[:3], "--name", "y", "--start_from", "runs/x")
    assert status == 1
    assert "--start_from runs/x: " in err
    assert "the backbone digest was" in err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: edit_benchmark(scorer="exact"), "the scorer of colour was short_answer, now it is exact"),
        (lambda: edit_benchmark(also=["exact"]), "the further scorers of colour was [], now it is ['exact']"),
        (lambda: edit_benchmark(max_new_tokens=3), "the max_new_tokens of colour was 12, now it is 3"),
        (lambda: edit_benchmark(answer_format="caption"), "the answer_format of colour was short"),
    ],
)
def test_another_way_to_score_is_refused_where_answers_are_scored(
    say, change: Callable[[], None], named: str
) -> None:
    change()
    for verb in (TEST, (*FIT, "--ckpt_path", "last")):
        status, _, err = say(*verb)
        assert (status, named in err) == (1, True), err


def test_another_way_to_score_is_no_matter_where_nothing_is_scored(say) -> None:
    edit_benchmark(scorer="exact")
    assert "--allow_changes scoring" in say(*TEST)[2]
    assert [say(*verb)[0] for verb in (PREDICT, CKA)] == [0, 0]
    assert say(*TEST, "--tasks", "shape")[::2] == (0, "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (another_question, "the data of colour changed"),
        (lambda: edit_benchmark(limit=2), "the data of colour"),
        (other_images, "the folder of images of colour was data/images"),
    ],
)
def test_other_data_is_refused_where_it_is_read(say, change: Callable[[], None], named: str) -> None:
    change()
    for verb in (TEST, CKA, (*FIT, "--ckpt_path", "last")):
        status, _, err = say(*verb)
        assert (status, named in err) == (1, True), err
    assert say(*PREDICT)[::2] == (0, "")
    assert say(*TEST, "--tasks", "shape")[::2] == (0, "")


def test_the_same_images_in_another_folder_are_the_same(say) -> None:
    Path("data/images").rename("data/pictures")
    content = Path("data/drawn.yaml").read_text()
    Path("data/drawn.yaml").write_text(content.replace("images", "pictures"))
    assert say(*TEST)[::2] == (0, "")


def test_a_task_that_its_benchmark_lost_is_named(say) -> None:
    edit_benchmark(name="hue")
    message = only_message(say(*TEST), "test")
    assert "learned colour, which its benchmark drawn" in message
    assert "--tasks" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha": 16.0}, "the setting model.alpha was 8.0, now it is 16.0"),
        (
            {
                "backbone": {
                    "class_path": "Llava",
                    "init_args": {"name_or_path": "backbone", "image_aspect": "crop"},
                }
            },
            "the setting model.backbone.image_aspect was pad, now it is crop",
        ),
    ],
)
def test_another_setting_in_the_run_s_configuration_is_refused(
    say, change: dict[str, object], named: str
) -> None:
    edit_config(**change)
    for verb in (TEST, PREDICT, CKA):
        assert named in only_message(say(*verb), verb[0])


def test_a_setting_of_training_alone_may_differ(say) -> None:
    edit_config(dropout=0.5, unrouted="drift", optimizer={"learning_rate": 1.0})
    assert [say(*verb)[::2] for verb in (TEST, PREDICT, CKA)] == [(0, "")] * 3


def test_a_test_under_other_conditions_on_purpose_says_and_records_them(say, tmp_path: Path) -> None:
    other_weights()
    edit_benchmark(max_new_tokens=3)
    status, out, err = say(*TEST, "--allow_changes", "backbone", "scoring", "--out", tmp_path / "out")
    assert (status, out.count("\n")) == (0, 2)
    assert err.startswith("changed since the run was trained: the backbone digest was ")
    assert "the max_new_tokens of colour was 12, now it is 3" in err
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["changes"]
    assert [(each["kind"], each["what"]) for each in found] == [
        ("backbone", "backbone digest"),
        ("scoring", "max_new_tokens of colour"),
    ]
    assert (found[1]["before"], found[1]["now"]) == (12, 3)
    assert "the backbone digest was" in only_message(say(*TEST, "--allow_changes", "scoring"), "test")


def test_an_unknown_kind_of_change_is_named(say) -> None:
    message = only_message(say(*TEST, "--allow_changes", "bakbone"), "test")
    assert "--allow_changes" in message
    assert "'backbone'" in message


def test_a_run_starts_from_another_of_the_same_meaning_alone(say) -> None:
    further = (*FIT[:3], "--name", "y", "--start_from", "runs/x", "--data.tasks", "[shape]")
    status, _, err = say(*further, "--model.alpha", "16")
    assert status == 1
    assert "the setting model.alpha was 8.0, now it is 16.0" in err
    assert not Path("runs/y").exists()
    assert say(*further, "--model.optimizer.learning_rate", "0.001", "--model.dropout", "0.1")[0] == 0
    assert RunFolder.open("runs/y").stages_done() == [1]


def test_stage_0_needs_the_backbone_of_the_run_and_not_its_adapters(say) -> None:
    edit_config(alpha=16.0)
    assert say(*TEST, "--stage", "0", "--tasks", "shape")[::2] == (0, "")
    other_weights()
    assert "the backbone digest" in only_message(say(*TEST, "--stage", "0", "--tasks", "shape"), "test")


def test_a_damaged_last_stage_is_refused_unless_an_earlier_one_is_named(say) -> None:
    stored = Path("runs/x/stages/02-shape/method.safetensors")
    stored.write_bytes(stored.read_bytes()[:-8])
    for verb in (TEST, PREDICT):
        with pytest.warns(UserWarning, match="stage 2"):
            message = only_message(say(*verb), verb[0])
        assert "stage 2 (shape) of runs/x does not count" in message
        assert "the last whole one is 1" in message
        with pytest.warns(UserWarning, match="stage 2"):
            assert say(*verb, "--stage", "1")[0] == 0


def test_a_question_of_a_task_that_neither_run_nor_benchmark_has_is_refused(say) -> None:
    assert say(*PREDICT, "--task", "shape")[::2] == (0, "")
    status, _, err = say(*PREDICT, "--task", "shapes")
    assert (status, "--task: unknown task 'shapes'. Did you mean 'shape'?" in err) == (2, True), err
    Path("q.jsonl").write_text('{"question": "Which?", "task": "color"}\n')
    status, _, err = say("predict", "--run", "runs/x", "--jsonl", "q.jsonl")
    assert (status, "unknown task 'color'" in err) == (2, True), err
