"""The shipped experiments: their settings and numbers are the papers', and no row is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment_kit import NAMES, command, header

import callbacks
from lit_cvit import methods
from lit_cvit.cli.shipped import CONFIGS, find_config, read_config
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.benchmarks.cvit import STREAM
from lit_cvit.data.instructions import task_orders
from lit_cvit.methods.hide.placement import place

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
TABLES = {
    f"{table['paper']} {table['table']}": table
    for table in json.loads((GOLDEN / "papers_main_tables.json").read_text(encoding="utf-8"))
}
STATED = json.loads((GOLDEN / "papers_hyperparameters.json").read_text(encoding="utf-8"))
LLAVA = re.compile(r"LLaVA-(v?1\.5-)?\d+[Bb]")
BENCHMARKS = {"CVIT": "cvit", "UCIT": "ucit", "CoIN": "coin", "CoIN-HiDe": "coin"}

Row = tuple[str, str]
Config = dict[str, Any]


def rows_of_page(title: str) -> list[list[str]]:
    """The cells of the table below a title of docs/experiments.md."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


CONFIGURED = rows_of_page("Rows with a configuration")
MISSING = rows_of_page("Rows without a configuration")


def rows_of(name: str) -> list[Row]:
    return [(table, label) for cell, table, label, _ in CONFIGURED if cell == f"`{name}`"]


def published(row: Row) -> Config:
    table, label = row
    (found,) = (each for each in TABLES[table]["rows"] if each["method"] == label)
    return dict(found)


def overall(row: Row) -> str:
    return ", ".join(f"{k} {v:.2f}" for k, v in published(row)["overall"].items() if v is not None)


def by_task(row: Row) -> Iterator[str]:
    cells = published(row)["per_task"]
    kinds = next(iter(cells.values()))
    if not isinstance(kinds, dict):
        yield ", ".join(f"{task} {value:.2f}" for task, value in cells.items())
        return
    for kind in kinds:
        yield f"{kind}: " + ", ".join(f"{task} {value[kind]:.2f}" for task, value in cells.items())


@cache
def parser() -> StreamCLI:
    return StreamCLI(["--config", "quickstart"], run=False)


@cache
def resolved(name: str) -> Config:
    """All settings that the command of a header gives, without building anything."""
    arguments = [str(find_config(a)) if "/" in a and not a.startswith(".") else a for a in command(name)]
    parsed = parser().parser.parse_args(arguments)
    plain: Config = yaml.safe_load(parser().parser.dump(parsed, skip_unset=False, skip_validation=True))
    return plain


def method_of(config: Config) -> str:
    return str(config["model"]["class_path"].rsplit(".", 1)[-1])


def model_settings(config: Config) -> Config:
    return dict(config["model"]["init_args"])


def callback(config: Config, name: str) -> Config:
    (found,) = (c for c in config["trainer"]["callbacks"] if c["class_path"] == f"callbacks.{name}")
    return dict(found["init_args"])


# -- every row -----------------------------------------------------------------------------------------------


def test_every_row_of_the_main_tables_has_a_configuration_or_a_reason() -> None:
    found = [(table, label) for _, table, label, _ in CONFIGURED]
    for label, tables, _ in MISSING:
        for table in tables.split(", "):
            labels = [r["method"] for r in TABLES[table]["rows"]] if label == "all" else [label]
            found += [(table, each) for each in labels]
    assert sorted(found) == sorted((t, row["method"]) for t in TABLES for row in TABLES[t]["rows"])


def test_every_configuration_is_a_row() -> None:
    assert {cell.strip("`") for cell, *_ in CONFIGURED} == set(NAMES)


@pytest.mark.parametrize(("label", "tables", "reason"), MISSING)
def test_a_row_is_missing_only_while_its_method_or_backbone_is(label: str, tables: str, reason: str) -> None:
    backbones = {TABLES[table]["backbone"] for table in tables.split(", ")}
    if label == "all":
        assert not any(LLAVA.match(each) for each in backbones)
        assert all(reason.startswith(re.split(r"[ (]", each)[0].removesuffix("-7B")) for each in backbones)
        return
    (name,) = re.findall(r"^`(\w+)` comes later$", reason)
    plain = re.sub(r"\W", "", label).lower()
    assert name.lower() == plain
    assert not {name.lower()} & {each.lower() for each in (*methods.__all__, *callbacks.__all__)}


@pytest.mark.parametrize(("cell", "table", "label", "numbers"), CONFIGURED)
def test_page_and_header_give_the_published_numbers(cell: str, table: str, label: str, numbers: str) -> None:
    row = (table, label)
    paper, _, number = table.partition(" ")
    text = " ".join(line.strip() for line in header(cell.strip("`")))
    assert numbers == overall(row)
    assert f"Published as {label!r} in Table {number} of {paper}: {overall(row)}" in text
    assert [line for line in by_task(row) if line not in text] == []


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_command_puts_method_backbone_machine_and_experiment_together(name: str) -> None:
    arguments, config = command(name), resolved(name)
    configs = [value for option, value in zip(arguments, arguments[1:], strict=False) if option == "--config"]
    assert [each.split("/")[0] for each in configs] == ["methods", "backbones", "hardware", "experiments"]
    assert configs[-1] == f"experiments/{name}"
    assert read_config(find_config(configs[0]))["model"]["class_path"] == method_of(config)
    (gpus,) = re.findall(r"(\d+) such GPUs: the same with (.*)", "\n".join(header(name)))
    assert gpus[1] == f"--config hardware/n_gpus_ddp --trainer.devices {gpus[0]}"
    data, quantization = config["data"], model_settings(config)["backbone"]["init_args"]["quantization"]
    assert data["global_batch_size"] % (data["batch_size"] * int(gpus[0])) == 0
    on_24gb = "One 24 GB GPU, weights in 4 bits:" in header(name)
    assert on_24gb == (quantization == "nf4") == (configs[2] == "hardware/one_24gb_gpu")
    large = ("lcia_coin_13b", "eproj_coin_13b", "pgp_coin_13b", "model_tailor_coin_13b")
    assert on_24gb or name in large


@pytest.mark.parametrize("name", NAMES)
def test_data_and_backbone_are_the_papers(name: str) -> None:
    config = resolved(name)
    data, backbone = config["data"], model_settings(config)["backbone"]["init_args"]["name_or_path"]
    orders = {"cvit": {None: tuple(STREAM)}, "coin": task_orders("coin"), "ucit": task_orders("ucit")}
    root = read_config(CONFIGS / "benchmarks" / f"{data['benchmark']}.yaml")["data"]["settings"]["root"]
    assert data["settings"]["root"] == root
    assert data["epochs"] == 1
    for table, _ in rows_of(name):
        paper = TABLES[table]
        assert data["benchmark"] == BENCHMARKS[paper["benchmark"]]
        assert (data["settings"].get("version") == "hide") == (paper["benchmark"] == "CoIN-HiDe")
        if paper["task_order"]:
            assert orders[data["benchmark"]][data["order"]] == tuple(paper["task_order"])
        style = paper["setting"].removesuffix("-type") if data["benchmark"] == "cvit" else "Original"
        assert data["instructions"] == (None if data["benchmark"] == "ucit" else style)
        size = "13b" if "13B" in paper["backbone"] else "7b"
        first_stage = f"./vicuna_{size}_llava_stage1"
        assert backbone == ("llava-hf/llava-1.5-7b-hf" if table.startswith("HiDe") else first_stage)


LLM = ["ffn", "attention"]
TARGETS = {
    "feed-forward (FFN) layers of the LLM, and the adapter (projector)": ["ffn", "projector"],
    "all linear layers of the language model": LLM,
}
MODES = {"projection layer and LoRA": "full", "LoRA modules and the projector layer": "full"}
Check = Callable[[Config, Any], bool]


def rate(c: Config, v: Any) -> bool:
    return bool(model_settings(c)["optimizer"]["learning_rate"] == v)


def cosine(c: Config, v: Any) -> bool:
    return f"{model_settings(c)['optimizer']['schedule']} decay" == v


def batch(c: Config, v: Any) -> bool:
    return bool(c["data"]["global_batch_size"] == v)


def epochs(c: Config, v: Any) -> bool:
    return bool(c["data"]["epochs"] == v)


def targets(c: Config, v: Any) -> bool:
    return bool(model_settings(c)["targets"] == TARGETS[v])


def trained(c: Config, v: Any) -> bool:
    return bool(model_settings(c)["projector"] == MODES[v])


def has(key: str) -> Check:
    return lambda c, v: model_settings(c)[key] == v


def layers(role: str) -> list[int]:
    placed = place("top", "all", num_layers=32)
    return [number + 1 for number, each in placed.items() if each == role]


def recall(c: Config) -> Config:
    return callback(c, "Replay" if method_of(c) == "ProgLoRAStatic" else "TaskRecall")


# What holds for every run of a paper that trains ...
OF_PAPER: dict[str, dict[str, Check]] = {
    "SMoLoRA": {
        "learning_rate": rate,
        "lr_schedule": cosine,
        "batch_size": batch,
        "epochs": epochs,
        "target_modules": targets,
    },
    "HiDe-LLaVA": {
        "learning_rate_lora": rate,
        "learning_rate_projector": lambda c, v: (
            model_settings(c)["optimizer"]["projector_learning_rate"] == v
        ),
        "lr_schedule": cosine,
        "warmup_ratio": lambda c, v: model_settings(c)["optimizer"]["warmup_ratio"] == v,
        "batch_size": batch,
        "epochs": epochs,
        "target_modules": targets,
        "trainable": trained,
        # Of one expert, where there are several.
        "lora_rank": lambda c, v: model_settings(c)["rank"] == v * model_settings(c).get("num_experts", 1),
    },
    "ProgLoRA": {"trainable": trained},
    "LCIA": {
        "learning_rate": rate,
        "weight_decay": lambda c, v: model_settings(c)["optimizer"]["weight_decay"] == v,
        "epochs": epochs,
        "lora_rank": has("rank"),
        "trainable": trained,
        "max_text_length": lambda c, v: model_settings(c)["backbone"]["init_args"]["max_length"] == v,
        "gradient_checkpointing": lambda c, v: (
            model_settings(c)["backbone"]["init_args"]["activation_checkpointing"] is v
        ),
        "precision": lambda c, v: c["trainer"]["precision"] == "bf16-mixed" and "BF16" in v,
    },
}
# ... and what for its own method.
OF_METHOD: dict[str, dict[str, Check]] = {
    "SMoLoRA": {
        "n_blocks_visual_understanding": has("num_vu"),
        "n_blocks_instruction_following": has("num_if"),
        "n_blocks_total": lambda c, v: model_settings(c)["num_vu"] + model_settings(c)["num_if"] == v,
        "lora_rank_per_block": lambda c, v: (
            model_settings(c)["rank"] == v * (model_settings(c)["num_vu"] + model_settings(c)["num_if"])
        ),
        "top_k": has("top_k"),
        "adaptive_fusion": lambda c, v: model_settings(c)["fusion"] == "adaptive",
    },
    "HiDe-LLaVA": {
        "temperature_T": has("temperature"),
        "alpha_image_similarity": has("image_weight"),
        "beta_text_similarity": has("text_weight"),
        "fusion_coefficient": has("epsilon"),
        "expanded_layers": lambda c, v: model_settings(c)["expand"] == "top" and layers("expand") == v,
        "fused_layers": lambda c, v: (
            model_settings(c)["fuse"] == "all" and layers("fuse") == list(range(1, 32))
        ),
        "feature_encoders": lambda c, v: (
            {model_settings(c)["image_encoder"], model_settings(c)["text_encoder"]}
            == {"openai/clip-vit-large-patch14-336"}
        ),
        "anchors": lambda c, v: model_settings(c)["anchors"] == "both",
    },
    "ProgLoRA": {
        "lora_rank_per_block": has("rank"),
        "phi_replay_base": lambda c, v: recall(c)["amount"] == v,
        "lambda_loss": lambda c, v: recall(c)["weight"] == v,
        "recall_samples": lambda c, v: recall(c)["sizes"] == "similarity",
        "similarity_encoders": lambda c, v: (
            v["text"].lower() in model_settings(c)["text_encoder"]
            and model_settings(c)["image_encoder"] == "tower"
        ),
        "allocation_weight": lambda c, v: (
            method_of(c) == "ProgLoRADynamic" or model_settings(c)["static_weights"] == "similarity"
        ),
        "key_projector": lambda c, v: (
            method_of(c) == "ProgLoRAStatic" or v.startswith(f"{model_settings(c)['pool']}-pool")
        ),
    },
    "LCIA": {
        "ema_beta_fallback": lambda c, v: callback(c, "DynamicEMA")["fallback"] == v,
        "ema_init": lambda c, v: (
            callback(c, "DynamicEMA")["theta0"] == "group" and model_settings(c)["new_group_init"] == "fresh"
        ),
    },
}
# Formulas and facts without a setting, which the tests of methods, benchmarks and hardware are about.
FACTS = {
    "SMoLoRA": "trainable frozen vu_router_input vu_router_shape if_router_input if_router_shape "
    "block_count_ablation",
    "HiDe-LLaVA": "gpus",
    "ProgLoRA": "lora_alpha n_blocks frozen gpus other_training_settings task_recall task_id d_p "
    "temperature_alpha_tem allocation trainable_params",
    "LCIA": "deepspeed_zero_stage codebase frozen ema_beta ema_beta_granularity ema_norm saved "
    "grouping_features grouping_similarity grouping_threshold_epsilon groups",
}
# Those of them that a configuration has otherwise, which the page explains.
OTHERWISE = ("ema_beta", "ema_beta_granularity", "grouping_similarity")


def stated(paper: str) -> Config:
    return {key: fact["value"] for own in STATED[paper]["method"].values() for key, fact in own.items()}


@pytest.mark.parametrize("paper", STATED)
def test_every_hyperparameter_of_a_paper_is_checked_or_known_to_be_no_setting(paper: str) -> None:
    checked = {*OF_PAPER[paper], *OF_METHOD[paper]}
    assert checked | set(FACTS[paper].split()) == set(stated(paper))
    assert not checked & set(FACTS[paper].split())


@pytest.mark.parametrize("key", OTHERWISE)
def test_the_page_explains_what_is_not_as_stated(key: str) -> None:
    assert re.search(rf"^\| LCIA \| `{key}` \|", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_that_the_papers_state(name: str) -> None:
    config = resolved(name)
    if method_of(config) == "ZeroShot":
        assert "init_args" not in read_config(CONFIGS / "experiments" / f"{name}.yaml")["model"]
        return
    for paper in {table.rpartition(" ")[0].split(" ")[0] for table, _ in rows_of(name)}:
        # ProgLoRA has two classes.
        own = method_of(config).startswith("HiDe" if paper == "HiDe-LLaVA" else paper)
        checks = OF_PAPER[paper] | (OF_METHOD[paper] if own else {})
        values = stated(paper)
        assert [key for key, holds in checks.items() if not holds(config, values[key])] == []


def test_the_methods_of_a_table_share_their_training() -> None:
    shared: dict[str, set[str]] = {}
    projectors: dict[str, set[str]] = {}
    for name in NAMES:
        config = resolved(name)
        if method_of(config) != "ZeroShot":
            stored = {key: model_settings(config)[key] for key in ("targets", "dropout", "optimizer")}
            for table, _ in rows_of(name):
                shared.setdefault(table, set()).add(json.dumps([stored, config["data"]["global_batch_size"]]))
                # Its projectors are whole ones, whatever the others train.
                own = set() if method_of(config) == "EProj" else {model_settings(config)["projector"]}
                projectors.setdefault(table, set()).update(own)
    for found in (shared, projectors):
        assert {table: len(kinds) for table, kinds in found.items()} == dict.fromkeys(shared, 1)
