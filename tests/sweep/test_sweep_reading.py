"""A sweep's file: its cells and their names, and every error by key and cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_kit import names, sweep_of

from lit_cvit.cli.shipped import SWEEPS, find_config, find_sweep
from lit_cvit.sweep import build_sweep, read_sweep
from lit_cvit.sweep.cells import Sweep

SHIPPED = sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def shipped(name: str) -> Sweep:
    return build_sweep(name, read_sweep(find_sweep(name)))


def test_cells_are_named_by_entry_values_and_seed_seed_by_seed() -> None:
    sweep = sweep_of(
        seeds=[0, 7],
        grid={"model.rank": [8, 16], "data.instructions": ["multi"]},
        cells={"A": "--model SeqLoRA", "B": {"arguments": ["--model", "SMoLoRA"], "grid": {}, "seeds": 7}},
    )
    assert names(sweep) == [
        "A-rank_8-instructions_multi-0",
        "A-rank_16-instructions_multi-0",
        "A-rank_8-instructions_multi-7",
        "A-rank_16-instructions_multi-7",
        "B-7",
    ]
    assert sweep.cells[1].group == "A-rank_16-instructions_multi"


def test_options_whose_last_parts_are_equal_keep_their_whole_names() -> None:
    sweep = sweep_of(grid={"data.seed": [1], "model.seed": [2], "model.rank": [8]})
    assert names(sweep) == ["A-data.seed_1-model.seed_2-rank_8-0"]


def test_a_value_that_is_no_file_name_keeps_names_apart() -> None:
    found = names(sweep_of(grid={"data.tasks": [["GQA"], ["GQA", "VQAv2"]], "x": ["a/b", "a:b"]}))
    assert len(set(found)) == 4
    assert found[0].startswith("A-tasks_GQA-x_a_b-0-")
    assert found[3].startswith("A-tasks_GQA_VQAv2-x_a_b-0-")


def test_arguments_come_in_the_order_common_own_grid_command_line() -> None:
    sweep = sweep_of(
        more=("--trainer.devices", "1"),
        common="--config quickstart",
        cells={"A": "--model SMoLoRA --data.settings '{num_test: 4}'"},
        grid={"model.use_if": [False]},
    )
    assert sweep.cells[0].arguments == (
        *("--config", "quickstart", "--model", "SMoLoRA", "--data.settings", "{num_test: 4}"),
        *("--model.use_if=false", "--trainer.devices", "1"),
    )


def test_folders_are_named_after_the_sweep_unless_it_says_otherwise() -> None:
    sweep = sweep_of("ranks", results="elsewhere")
    assert (sweep.run_root, sweep.results) == (Path("runs/ranks"), Path("elsewhere"))
    assert sweep.run_path(sweep.cells[0]) == Path("runs/ranks/A-0")
    assert sweep.result_path(sweep.cells[0]) == Path("elsewhere/A-0.json")


def test_a_cell_starts_from_the_cell_of_its_seed_and_values_which_comes_first() -> None:
    sweep = sweep_of(
        seeds=[0, 1],
        cells={
            "few": {
                "arguments": "--data.epochs 2",
                "start_from": "A",
                "grid": {"model.rank": [8], "x": [1, 2]},
            },
            "A": {"arguments": "--model SeqLoRA", "grid": {"model.rank": [8, 16]}},
        },
    )
    first = sweep.cells[0]
    assert first.name == "A-rank_8-0"
    sources = {cell.name: cell.start_from for cell in sweep.cells}
    assert sources["few-rank_8-x_2-1"] == "A-rank_8-1"
    assert "--start_from=runs/study/A-rank_8-1" in sweep.fit_arguments(sweep.cell("few-rank_8-x_2-1"))
    assert not any(option.startswith("--start_from") for option in sweep.fit_arguments(first))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": [0]}, ["unknown key 'seed'", "'seeds'"]),
        ({"cells": {}}, ["cells", "names to arguments"]),
        ({"cells": {"A": {"argument": "--x 1"}}}, ["cell A", "'argument'", "'arguments'"]),
        ({"cells": {"A": 3}}, ["cell A: arguments", "got 3"]),
        ({"cells": {"A": "quickstart"}}, ["cell A: arguments", "'quickstart'", "--config quickstart"]),
        ({"common": "--seed_everything 3"}, ["common", "--seed_everything", "`seeds`"]),
        ({"cells": {"A": "--start_from runs/x"}}, ["cell A", "--start_from", "name of a cell"]),
        ({"seeds": [0, 1, 0]}, ["seeds", "0 is there twice"]),
        ({"seeds": ["a"]}, ["seeds", "['a']", "whole numbers"]),
        ({"seeds": [True]}, ["seeds", "whole numbers"]),
        ({"grid": {"model.rank": 8}}, ["grid: model.rank", "got 8", "a list"]),
        ({"grid": {"model.rank": [8, 8]}}, ["grid: model.rank", "8 is there twice"]),
        ({"grid": {"run_root": ["a"]}}, ["grid", "run_root"]),
        ({"grid": {"config": ["a"]}}, ["grid", "config", "a cell for each"]),
        ({"run_root": 3}, ["run_root", "got 3"]),
        ({"cells": {"A": {"start_from": "B"}, "b": ""}}, ["cell A: start_from", "'B'", "'b'"]),
        ({"cells": {"A": {"start_from": "B"}, "B": {"start_from": "A"}}}, ["start_from", "itself"]),
        ({"cells": {"A": {"start_from": "B", "seeds": [4]}, "B": ""}}, ["cell A: start_from", "seed 4"]),
        (
            {"cells": {"A": {"start_from": "B"}, "B": {"grid": {"model.rank": [8]}}}},
            ["cell A: start_from", "B has no cell"],
        ),
        ({"cells": {"A": "", "a": ""}}, ["cells", "a-0 is there twice"]),
        (
            {"cells": {"A": {"grid": {"model.rank": [8]}}, "A-rank_8": ""}},
            ["cells", "A-rank_8-0 is there twice"],
        ),
    ],
)
def test_what_is_wrong_with_a_sweep_is_named_by_key_and_cell(
    values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError, match="study") as caught:
        sweep_of(**values)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_cell_that_stands_twice_in_the_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("cells:\n  A: --model SeqLoRA\n  A: --model SMoLoRA\n")
    with pytest.raises(ValueError, match="line 3") as caught:
        read_sweep(path)
    assert "'A'" in str(caught.value)


def test_a_shipped_sweep_is_found_by_name_and_is_no_configuration_of_a_run() -> None:
    assert find_sweep("cvit_mini") == SWEEPS / "cvit_mini.yaml"
    with pytest.raises(ValueError, match="Did you mean 'cvit_mini'"):
        find_sweep("cvit_mimi")
    with pytest.raises(ValueError, match="no file 'sweeps/cvit_mini'"):
        find_config("sweeps/cvit_mini")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_sweep_names_itself_and_configurations_that_ship(name: str) -> None:
    sweep = shipped(name)
    assert f"python -m lit_cvit sweep {name} " in (SWEEPS / f"{name}.yaml").read_text()
    assert (sweep.run_root.name, sweep.results.name) == (name, name)
    for cell in sweep.cells:
        for option, text in zip(cell.arguments, cell.arguments[1:], strict=False):
            assert option != "--config" or find_config(text).is_file()


def test_the_few_shot_cells_start_from_the_main_ones() -> None:
    sweep = shipped("cvit_mini")
    assert sweep.cell("SMoLoRA-5shot-1").start_from == "SMoLoRA-1"
