"""Records and configurations of earlier versions in the words of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_cvit.run import SCHEMA_VERSION, RunRecord, config_agrees, migrate_config


def record(method: str, access: str) -> dict[str, Any]:
    value = RunRecord(seed=0, config_digest="d", method=method, facts={"knows": access, "x": 1}).to_json()
    return {**value, "schema": 1}


@pytest.mark.parametrize(
    ("method", "access", "named"),
    [
        ("SMoLoRA", "instruction text", "SMoLoRA"),
        ("ProgLoRA", "task id in training, task id at test (oracle), old data", "ProgLoRAStatic"),
        ("ProgLoRA", "old data", "ProgLoRADynamic"),
    ],
)
def test_a_record_of_schema_1_has_the_names_of_now_and_stays_known_as_old(
    method: str, access: str, named: str
) -> None:
    found = RunRecord.from_json(record(method, access), source=Path("run.json"))
    assert (found.method, found.facts, found.schema) == (named, {"access": access, "x": 1}, 1)
    again = RunRecord.from_json(found.to_json(), source=Path("run.json"))
    assert again == found


def test_a_record_of_this_version_is_read_as_it_is() -> None:
    value = {**record("ProgLoRA", "old data"), "schema": SCHEMA_VERSION}
    found = RunRecord.from_json(value, source=Path("run.json"))
    assert (found.method, found.facts["knows"]) == ("ProgLoRA", "old data")


@pytest.mark.parametrize("path", ["lit_cvit.ProgLoRA", "lit_cvit.methods.prog_lora.ProgLoRA"])
@pytest.mark.parametrize(
    ("mode", "named", "own"),
    [
        ("static", "lit_cvit.ProgLoRAStatic", {"static_weights": "ones"}),
        ("dynamic", "lit_cvit.ProgLoRADynamic", {"pool": "mean", "key_std": 0.1}),
    ],
)
def test_prog_lora_becomes_the_class_of_its_mode_with_that_classs_options(
    path: str, mode: str, named: str, own: dict[str, Any]
) -> None:
    options = {"mode": mode, "static_weights": "ones", "pool": "mean", "key_std": 0.1, "rank": 4}
    config = {"seed_everything": 0, "model": {"class_path": path, "init_args": options}}
    expected = {"class_path": named, "init_args": {**own, "rank": 4}}
    assert migrate_config(config, schema=1) == {"seed_everything": 0, "model": expected}
    assert config["model"]["init_args"] is options
    assert options["mode"] == mode


def test_other_methods_and_configurations_of_this_version_are_left_alone() -> None:
    others = {"model": {"class_path": "lit_cvit.SMoLoRA", "init_args": {"mode": "x"}}}
    assert migrate_config(others, schema=1) == others
    own = {"model": {"class_path": "lit_cvit.ProgLoRA"}}
    assert migrate_config(own, schema=SCHEMA_VERSION) == own


def test_configurations_agree_if_all_they_share_is_equal() -> None:
    before = {"model": {"rank": 8, "gone": 1}, "trainer": {"callbacks": [{"a": 1}], "devices": 1}}
    now = {"model": {"rank": 8, "new": 2}, "trainer": {"callbacks": [{"a": 1, "b": 2}], "devices": 2}}
    assert config_agrees(before, now, ignore=("trainer.devices",))
    assert not config_agrees(before, now, ignore=())
    assert not config_agrees(before, {"model": {"rank": 4}}, ignore=())
    more = {"trainer": {"callbacks": [{"a": 1}, {"c": 3}]}}
    assert not config_agrees(before, more, ignore=())
