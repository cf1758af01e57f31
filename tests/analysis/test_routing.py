"""The routing analysis on gates made by hand: what is counted, averaged, drawn and written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_cvit.adapters import LoRABank, RoutingContext, routing
from lit_cvit.analysis.routing import BankRouting, GateSums, RoutingReport, TaskRouting, added, bank_routing
from lit_cvit.probing.tracing import Recorder
from lit_cvit.report.routing import is_written, routing_json, write_routing
from lit_cvit.report.routing_plots import blocks_figure, fusion_figure, panels
from lit_cvit.run import RunRecord, Writer


def bank(name: str, kind: str = "decoder", blocks: int = 3) -> LoRABank:
    made = LoRABank(nn.Linear(2, 2), name, kind=kind)
    for _ in range(blocks):
        made.add_block(1, torch.Generator().manual_seed(0))
    return made


def recorded(made: LoRABank, x: torch.Tensor, **fields: object) -> GateSums:
    context = RoutingContext(**fields)  # type: ignore[arg-type]
    recorder = context.trace = Recorder({made.name: made}, context)
    with routing(context):
        made(x)
    return recorder.sums[made.name]


def shown(sums: GateSums) -> tuple[list[float], list[float], int]:
    return sums.gate.tolist(), sums.used.tolist(), sums.samples


MASK = torch.tensor([[False, False, True, True], [True, True, True, True]])


def test_a_gate_per_sample_counts_every_sample_once_however_long() -> None:
    gate = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    sums = recorded(bank("a"), torch.ones(2, 4, 2), num_samples=2, gate=gate, prompt_mask=MASK)
    assert shown(sums) == ([1.25, 0.75, 0.0], [2.0, 1.0, 0.0], 2)


def test_a_gate_per_position_is_averaged_over_the_prompt_without_padding() -> None:
    gate = torch.zeros(2, 4, 3)
    gate[0, :2] = 9.0
    gate[0, 2:, 0] = torch.tensor([1.0, 0.5])
    gate[1, :, 1] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    gate[1, :, 2] = torch.tensor([0.0, 1.0, 0.5, 0.5])
    sums = recorded(bank("a"), torch.ones(2, 4, 2), num_samples=2, gate=gate, prompt_mask=MASK)
    assert shown(sums) == ([0.75, 0.25, 0.5], [1.0, 0.25, 0.75], 2)


def test_one_gate_for_all_samples_counts_for_each() -> None:
    gate = torch.tensor([1.0, 0.0, 0.5])
    sums = recorded(bank("a"), torch.ones(2, 4, 2), num_samples=2, gate=gate, prompt_mask=MASK)
    assert shown(sums) == ([2.0, 0.0, 1.0], [2.0, 0.0, 2.0], 2)


@pytest.mark.parametrize("flat", [False, True])
def test_the_projector_counts_samples_with_an_image_and_averages_over_their_rows(flat: bool) -> None:
    """Three samples, the first without an image, the second with two."""
    gate = torch.tensor([[0.0, 0.0, 7.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    rows = {"projector": torch.tensor([1, 1, 2])}
    x = torch.ones(3, 2) if flat else torch.ones(3, 5, 2)
    made = bank("p", "projector")
    assert shown(recorded(made, x, num_samples=3, gate=gate, row_to_sample=rows)) == (
        [1.0, 1.0, 0.0],
        [1.0, 1.0, 0.0],
        2,
    )
    if not flat:
        spread = torch.zeros(3, 5, 3)
        spread[0, 0, 0] = spread[1, :, 0] = spread[2, :2, 1] = 1.0
        sums = recorded(made, x, num_samples=3, gate=spread, row_to_sample=rows)
        assert sums.gate.tolist() == pytest.approx([0.6, 0.4, 0.0])


def test_sums_of_batches_become_means_and_fused_branches_alpha_and_beta() -> None:
    one = GateSums(torch.tensor([0.75, 0.0, 0.25]).double(), torch.tensor([1.0, 0.0, 1.0]).double(), 1)
    two = GateSums(torch.tensor([0.5, 0.25, 2.25]).double(), torch.tensor([2.0, 1.0, 3.0]).double(), 3)
    total = added([{"a": one}, {"a": two, "b": one}])
    assert bank_routing(total["a"], (2, 1)) == BankRouting(
        4, (0.3125, 0.0625, 0.625), (0.75, 0.25, 1.0), (0.375, 0.625)
    )
    assert bank_routing(total["b"]) == BankRouting(1, (0.75, 0.0, 0.25), (1.0, 0.0, 1.0), None)


# -- reports -------------------------------------------------------------------------------------------------


def routed(*gate: float, fusion: tuple[float, float] | None = None) -> BankRouting:
    return BankRouting(4, gate, tuple(float(value > 0) for value in gate), fusion)


RECORD = RunRecord(seed=3, config_digest="", method="SMoLoRA", benchmark="cvit-mini", miniature=True)


def report(*tasks: dict[str, BankRouting]) -> RoutingReport:
    """ScienceQA is seen, GQA comes later, VizWiz never."""
    places = (("ScienceQA", True, False), ("GQA", False, False), ("VizWiz", False, True))
    made = [TaskRouting(*place, 4, banks) for place, banks in zip(places, tasks, strict=False)]
    return RoutingReport(2, "ScienceQA", tuple(made))


MODULES = ("decoder.0.mlp.up_proj", "decoder.0.mlp.down_proj", "decoder.1.mlp.up_proj", "projector.linear_1")


def test_panels_that_show_the_same_are_merged() -> None:
    same = report({name: routed(0.5, 0.5) for name in MODULES[:3]})
    assert [[panel.name for panel in row] for row in panels(same, "gate")] == [["decoder.0 to decoder.1"]]
    apart = dict(zip(MODULES, (routed(1, 0), routed(1, 0), routed(0, 1), routed(1, 0)), strict=True))
    assert [[panel.name for panel in row] for row in panels(report(apart), "gate")] == [
        ["decoder.0"],
        ["decoder.1"],
        ["projector"],
    ]
    apart[MODULES[1]] = routed(0.25, 0.5)
    rows = panels(report(apart), "gate")
    assert [panel.name for panel in rows[0]] == ["decoder.0: up_proj", "decoder.0: down_proj"]
    assert rows[0][1].values == ((0.25, 0.5),)
    assert panels(report(apart), "used")[0][1].values == ((1.0, 1.0),)


def test_heat_maps_hold_blocks_by_tasks_and_name_unseen_ones() -> None:
    """GQA has no image, so nothing is known of it in the projector."""
    tasks = [{name: routed(0.1 * n, 0.9) for name in MODULES} for n in (1, 2, 3)]
    del tasks[1]["projector.linear_1"]
    figure = blocks_figure(report(*tasks), "gate", title="t")
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in maps] == ["decoder.0 to decoder.1", "projector"]
    assert [label.get_text() for label in maps[0].get_yticklabels()] == [
        "ScienceQA",
        "GQA (unseen)",
        "VizWiz (unseen, downstream)",
    ]
    cells = [axes.images[0].get_array() for axes in maps]
    assert cells[0].tolist() == [[pytest.approx(0.1 * n), 0.9] for n in (1, 2, 3)]  # type: ignore[union-attr]
    assert torch.tensor(cells[1].filled(float("nan"))).isnan().tolist() == [  # type: ignore[union-attr]
        [False, False],
        [True, True],
        [False, False],
    ]
    with pytest.raises(ValueError, match="there is nothing to draw"):
        blocks_figure(report({}), "gate", title="t")


def test_the_title_of_a_tall_figure_stays_above_its_panels() -> None:
    many = {f"decoder.{n}.mlp.up_proj": routed(n / 40, 1.0) for n in range(32)}
    figure = blocks_figure(report(many), "gate", title="first\nsecond")
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == 32
    title = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert title.y0 > max(axes.get_window_extent().y1 for axes in maps)
    assert title.y1 < figure.get_window_extent().y1


def test_alpha_and_beta_are_means_over_a_layers_modules() -> None:
    values = ((0.25, 0.75), (0.75, 0.25), (0.125, 0.875))
    seen = {name: routed(*pair, fusion=pair) for name, pair in zip(MODULES, values, strict=False)}
    later = {MODULES[0]: routed(0.5, 0.5, fusion=(0.5, 0.5)), MODULES[3]: routed(0.5, 0.5)}
    made = report(seen, later)
    (one, layers), (other, less) = made.fusion()
    assert (one.task, layers) == ("ScienceQA", {"decoder.0": (0.5, 0.5), "decoder.1": (0.125, 0.875)})
    assert (other.task, less) == ("GQA", {"decoder.0": (0.5, 0.5)})
    alpha, beta = fusion_figure(made.fusion(), title="t").axes
    assert [list(line.get_ydata()) for line in alpha.lines] == [[0.5, 0.125], [0.5]]
    assert [list(line.get_ydata()) for line in beta.lines] == [[0.5, 0.875], [0.5]]
    assert [line.get_linestyle() for line in alpha.lines] == ["-", "--"]
    assert [line.get_label() for line in alpha.lines] == ["ScienceQA", "GQA (unseen)"]


def test_a_report_is_written_as_json_long_csv_and_pictures(tmp_path: Path) -> None:
    made = report({MODULES[0]: routed(0.5, 0.5, fusion=(0.5, 0.5))}, {MODULES[0]: routed(0.0, 1.0)})
    written: list[str] = []

    def note(event: str, path: Path) -> None:
        if event == "after":
            written.append(path.name)

    files = write_routing(Writer(fault=note), tmp_path, made, RECORD)
    assert [path.name for path in files] == written
    # The JSON comes last: with it the report is whole.
    assert written == ["routing.csv", "gate.png", "used.png", "fusion.png", "routing.json"]
    assert is_written(tmp_path)
    run = {"method": "SMoLoRA", "benchmark": "cvit-mini", "miniature": True, "seed": 3}
    expected = {**routing_json(made), "run": run}
    assert json.loads(files[-1].read_text()) == json.loads(json.dumps(expected))
    assert [path.read_bytes()[:4] for path in files[1:4]] == [b"\x89PNG"] * 3
    with files[0].open(encoding="utf-8") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    where = (MODULES[0], "decoder.0", "4")
    assert rows == [
        ("2", "ScienceQA", "seen", "stream", *where, "gate", "0", "0.5"),
        ("2", "ScienceQA", "seen", "stream", *where, "gate", "1", "0.5"),
        ("2", "ScienceQA", "seen", "stream", *where, "used", "0", "1.0"),
        ("2", "ScienceQA", "seen", "stream", *where, "used", "1", "1.0"),
        ("2", "ScienceQA", "seen", "stream", *where, "alpha", "", "0.5"),
        ("2", "ScienceQA", "seen", "stream", *where, "beta", "", "0.5"),
        ("2", "GQA", "unseen", "stream", *where, "gate", "0", "0.0"),
        ("2", "GQA", "unseen", "stream", *where, "gate", "1", "1.0"),
        ("2", "GQA", "unseen", "stream", *where, "used", "0", "0.0"),
        ("2", "GQA", "unseen", "stream", *where, "used", "1", "1.0"),
    ]


def test_without_fused_branches_there_is_no_such_figure_and_other_ranks_write_nothing(tmp_path: Path) -> None:
    made = report({MODULES[0]: routed(0.5, 0.5)})
    names = [path.name for path in write_routing(Writer(), tmp_path / "a", made, RECORD)]
    assert names == ["routing.csv", "gate.png", "used.png", "routing.json"]
    write_routing(Writer(enabled=False), tmp_path / "b", made, RECORD)
    assert not (tmp_path / "b").exists()
