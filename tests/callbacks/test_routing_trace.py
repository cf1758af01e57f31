"""RoutingTrace: the routing of every method as it is, tasks separated, and a training left alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import (
    STREAM,
    Killed,
    KillIn,
    fit,
    fragile_method,
    log_rows,
    quick_data,
    scoring,
    small_method,
    state_files,
)

from callbacks import RoutingTrace
from lit_cvit.__main__ import main
from lit_cvit.adapters import (
    routing,
)
from lit_cvit.methods import ContinualMethod, DirLoRA, HiDe, ProgLoRADynamic, SeqLoRA, SMoLoRA
from lit_cvit.methods.smolora.router import DualRouter
from lit_cvit.report.routing import routing_folder
from lit_cvit.run import RunFolder, Writer
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.testing import Row
from lit_cvit.testing.jobs import ranks_of
from lit_cvit.testing.kit import Made, run_and_read

DATA = quick_data(tasks=STREAM)
# All test samples; the last of ScienceQA's has no image.
ROWS = 5


def read(run: RunFolder, stage: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((routing_folder(run, stage) / "routing.json").read_text())
    return found


def banks_of(report: dict[str, Any], task: str) -> dict[str, Any]:
    (found,) = (each for each in report["tasks"] if each["task"] == task)
    return dict(found["banks"])


def traced(
    folder: Path, root: Path, family: type[ContinualMethod], tasks: list[str] | None = None, **settings: Any
) -> tuple[RunFolder, ContinualMethod]:
    method = small_method(folder, family, **settings)
    data = quick_data(tasks=tasks or STREAM[:2])
    return fit(root, method, data, callbacks=[RoutingTrace(ROWS, unseen=True)]).run, method.eval()


@pytest.fixture(scope="module", autouse=True)
def _undrawn() -> Iterator[None]:
    """Figures by their names alone: drawing takes longer than all the rest, and has tests of its own."""

    def named(writer: Writer, folder: Path, figures: Mapping[str, object]) -> list[Path]:
        for name in figures:
            writer.write_bytes(folder / name, b"")
        return [folder / name for name in figures]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_cvit.report.routing.write_figures", named)
        yield


@pytest.fixture(scope="module")
def smolora(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, ContinualMethod]:
    return traced(llava_folder, tmp_path_factory.mktemp("smolora"), SMoLoRA, STREAM)


def test_tasks_are_grouped_by_what_the_run_has_learned(smolora: tuple[RunFolder, ContinualMethod]) -> None:
    downstream = [(name, "unseen", "downstream") for name in ("VizWiz", "TextCaps", "OCR-VQA")]
    for number in (1, 2, 3):
        report = read(smolora[0], number)
        assert (report["stage"], report["learned"]) == (number, STREAM[number - 1])
        assert (report["run"]["method"], report["run"]["miniature"]) == ("SMoLoRA", True)
        seen = [(name, "seen", "stream") for name in STREAM[:number]]
        later = [(name, "unseen", "stream") for name in STREAM[number:]]
        found = [(task["task"], task["status"], task["part"]) for task in report["tasks"]]
        assert found == [*seen, *later, *downstream]
        assert {task["samples"] for task in report["tasks"]} == {ROWS}
    names = {path.name for path in routing_folder(smolora[0], 3).iterdir()}
    assert names == {"routing.json", "routing.csv", "gate.png", "used.png", "fusion.png"}


def inputs_of(method: ContinualMethod, sample: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What every bank sees of one sample alone, and the sample's instruction embedded."""
    seen: dict[str, torch.Tensor] = {}
    batch = method.backbone.encode([sample], with_answers=False)
    handles = [
        bank.register_forward_pre_hook(lambda module, args: seen.update({module.name: args[0][0]}))
        for bank in method.banks.values()
    ]
    with torch.no_grad(), routing(method.context(batch)):
        method.backbone.forward_hidden(batch)
    for handle in handles:
        handle.remove()
    return seen, method.sample_facts(batch)["instruction"][0]


@torch.no_grad()
def test_blocks_of_smolora_are_the_largest_products_with_its_routing_matrices(
    smolora: tuple[RunFolder, ContinualMethod],
) -> None:
    run, method = smolora
    report = read(run, 3)
    for task in DATA.stream:
        counts = {name: torch.zeros(8, dtype=torch.float64) for name in method.banks}
        alphas: dict[str, list[float]] = {name: [] for name in method.banks}
        for row in range(ROWS):
            seen, instruction = inputs_of(method, task.test.sample(row))
            for name, x in seen.items():
                bank, router = method.banks[name], method.banks[name].router
                assert isinstance(router, DualRouter)
                vu = int((router.R_vu @ x.mean(0)).argmax())
                instr = 4 + int((router.R_if @ instruction).argmax())
                counts[name][[vu, instr]] += 1
                y_vu, y_if = (bank.scaling * x @ bank.block(n).A.T @ bank.block(n).B.T for n in (vu, instr))
                weights = torch.stack([y_vu @ router.I_vu, y_if @ router.I_if], dim=-1).softmax(-1)
                alphas[name].append(float(weights[:, 0].mean()))
        for name, found in banks_of(report, task.name).items():
            number = len(alphas[name])
            without_image = name.startswith("projector") and task.name == "ScienceQA"
            assert found["samples"] == number == ROWS - without_image
            assert found["used"] == (counts[name] / number).tolist(), (task.name, name)
            alpha = sum(alphas[name]) / number
            assert found["fusion"] == pytest.approx([alpha, 1 - alpha], abs=2e-5)
            assert sum(found["gate"][:4]) == pytest.approx(alpha, abs=2e-5)
        assert banks_of(report, task.name).keys() == method.banks.keys()


def test_instruction_blocks_follow_the_instruction_and_not_the_task(
    smolora: tuple[RunFolder, ContinualMethod],
) -> None:
    """GQA, VQAv2 and OCR-VQA ask for the same form of answer, ScienceQA for another."""
    report = read(smolora[0], 1)
    used = {
        task: {name: bank["used"][4:] for name, bank in banks_of(report, task).items()}
        for task in ("ScienceQA", "GQA", "VQAv2")
    }
    assert used["GQA"] == used["VQAv2"] != used["ScienceQA"]
    assert {sum(blocks) for blocks in used["GQA"].values()} == {1.0}


def test_training_goes_as_if_it_were_not_there(llava_folder: Path, tmp_path: Path) -> None:
    runs = []
    for name, more in (("without", []), ("with", [RoutingTrace(2, unseen=True)])):
        method = fragile_method(llava_folder)
        runs.append(fit(tmp_path / name, method, callbacks=[*more, scoring()]).run)
        # The frozen backbone is in evaluation mode, the adapters as training left them.
        assert {bank.training for bank in method.banks.values()} == {True}
        assert not method.backbone.vision_tower.training
    assert state_files(runs[1]) == state_files(runs[0])
    assert log_rows(runs[1]) == log_rows(runs[0])
    assert not (runs[0].path / "analysis").exists()


# -- other methods -------------------------------------------------------------------------------------------


def test_dir_lora_gives_each_learned_task_its_block_and_others_none(
    llava_folder: Path, tmp_path: Path
) -> None:
    run, method = traced(llava_folder, tmp_path, DirLoRA, STREAM)
    report = read(run, 2)
    gates = {task["task"]: {tuple(b["gate"]) for b in task["banks"].values()} for task in report["tasks"]}
    assert gates == {
        "ScienceQA": {(1.0, 0.0)},
        "GQA": {(0.0, 1.0)},
        **{name: {(0.0, 0.0)} for name in ("VQAv2", "VizWiz", "TextCaps", "OCR-VQA")},
    }
    assert banks_of(report, "GQA").keys() == method.banks.keys()


def test_hide_mixes_by_anchors_where_it_expands_and_takes_all_where_it_fuses(
    llava_folder: Path, tmp_path: Path
) -> None:
    run, method = traced(llava_folder, tmp_path, HiDe, epsilon=0.5, fuse=[0])
    samples = [DATA.stream[0].test.sample(row) for row in range(ROWS)]
    batch = method.backbone.encode(samples, with_answers=False)
    weights = method.task_weights(batch).mean(0).tolist()
    found = banks_of(read(run, 2), "ScienceQA")
    assert found["decoder.2.mlp.up_proj"]["gate"] == pytest.approx(weights, abs=1e-5)
    assert sum(found["decoder.2.mlp.up_proj"]["gate"]) == pytest.approx(1)
    assert found["decoder.0.mlp.up_proj"]["gate"] == [0.5, 0.5]
    assert found["decoder.1.mlp.up_proj"]["gate"] == found["decoder.1.mlp.up_proj"]["used"] == [0.0, 0.0]
    assert {bank["fusion"] for bank in found.values()} == {None}
    assert banks_of(read(run, 1), "ScienceQA")["decoder.2.mlp.up_proj"]["gate"] == [1.0]


def test_gates_of_prog_lora_dynamic_sum_to_one_and_are_the_same_in_all_layers(
    llava_folder: Path, tmp_path: Path
) -> None:
    run, method = traced(llava_folder, tmp_path, ProgLoRADynamic, recall="none", text_encoder=None)
    assert isinstance(method, ProgLoRADynamic)
    report = read(run, 2)
    for task in (*DATA.stream[:2], *DATA.downstream):
        samples = [task.test.sample(row) for row in range(ROWS)]
        with torch.no_grad():
            expected = method.gates(method.gate_features(samples)).mean(0).tolist()
        banks = banks_of(report, task.name)
        assert len(banks) == 9
        for bank in banks.values():
            assert bank["gate"] == pytest.approx(expected, abs=1e-5)
            assert sum(bank["gate"]) == pytest.approx(1, abs=1e-6)
    assert [path.name for path in sorted(routing_folder(run, 2).glob("*.png"))] == ["gate.png", "used.png"]


def test_a_method_that_routes_nothing_is_reported_once(llava_folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run, _ = traced(llava_folder, tmp_path, SeqLoRA)
    reported = [str(each.message) for each in caught if "RoutingTrace" in str(each.message)]
    assert len(reported) == 1
    assert reported[0].startswith("RoutingTrace: SeqLoRA as configured routes nothing")
    assert run.stages_done() == [1, 2]
    assert not (run.path / "analysis").exists()


# -- runs ----------------------------------------------------------------------------------------------------


def test_what_a_killed_run_did_not_write_is_written_when_it_goes_on(
    llava_folder: Path, tmp_path: Path
) -> None:
    def run(root: str, *more: StageCallback, ckpt_path: str | None = None) -> RunFolder:
        callbacks = [scoring(), *more, RoutingTrace(3)]
        method = small_method(llava_folder, DirLoRA)
        return fit(tmp_path / root, method, callbacks=callbacks, ckpt_path=ckpt_path).run

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillIn("on_stage_saved", 1))
    assert not (tmp_path / "killed" / "dirlora-cvit-mini" / "analysis").exists()
    again = run("killed", ckpt_path="last")
    for number in (1, 2):
        for name in ("routing.json", "routing.csv"):
            one, other = ((routing_folder(each, number) / name).read_bytes() for each in (whole, again))
            assert one == other, (number, name)


def documented(language: str) -> str:
    """The block of a language in the section of docs/analyses.md on routing."""
    page = (Path(__file__).parents[2] / "docs" / "analyses.md").read_text(encoding="utf-8")
    return page.split("\n## Routing\n")[1].split(f"```{language}\n")[1].split("```")[0]


@pytest.mark.processes
def test_two_ranks_the_command_line_and_python_give_what_one_rank_writes(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of DirLoRA, whose gates are the same whatever the training; five samples in batches of three."""
    trace = {"class_path": "RoutingTrace", "init_args": {"num_samples": ROWS, "unseen": True}}
    made = Made(Row("DirLoRA", callbacks=[trace]), tmp_path, llava_folder)
    single = run_and_read(made.job("single"))[0]
    pair = run_and_read(*ranks_of(made.job("pair", data={"batch_size": 8})))[0]
    one, other = (RunFolder.open(each["path"]) for each in (single, pair))
    for number in (1, 2):
        assert read(one, number) == read(other, number)
    assert banks_of(read(other, 2), "GQA")["projector.linear_1"]["samples"] == ROWS
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x").symlink_to(one.path)
    stored = {number: read(one, number) for number in (1, 2)}
    for command in documented("bash").splitlines():
        assert main(command.removeprefix("python -m lit_cvit ").split()) == 0
    found = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("routing-all/*/*.json")}
    assert found == {"01-ScienceQA": stored[1], "02-GQA": stored[2]}
    assert [path.name for path in (tmp_path / "routing-last").iterdir()] == ["02-GQA"]
    # The first command has written over what the callback wrote, of seen tasks alone.
    assert [task["task"] for task in read(one, 1)["tasks"]] == ["ScienceQA"]
    capsys.readouterr()
    exec(documented("python"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(stored[1]["tasks"])
    assert lines[1].startswith("1 GQA (unseen) {'decoder.0.mlp.gate_proj': (0.0,), ")


@pytest.mark.parametrize("samples", [0, -3])
def test_a_number_of_samples_below_one_is_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"RoutingTrace.num_samples must be at least 1, got {samples}"):
        RoutingTrace(samples)
