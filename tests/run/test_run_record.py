"""The run record, digests, and state that is neither pickle nor lost."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cvit.run import (
    RunRecord,
    StageRecord,
    Status,
    config_digest,
    file_digest,
    file_name,
    pack,
    package_versions,
    unpack,
)


class Colour(enum.StrEnum):
    RED = "red"


CONFIG: dict[str, Any] = {
    "run": {"name": "a", "root": "runs"},
    "ckpt_path": None,
    "model": {"rank": 8, "lr": 1e-4},
}
IGNORE = ("run.name", "run.root", "ckpt_path")


def test_the_digest_ignores_the_runs_name_and_the_order_of_keys() -> None:
    other = {"model": {"lr": 1e-4, "rank": 8}, "run": {"root": "/tmp", "name": "b"}, "ckpt_path": "last"}
    assert config_digest(CONFIG, ignore=IGNORE) == config_digest(other, ignore=IGNORE)


def test_the_digest_sees_every_other_value() -> None:
    other = {**CONFIG, "model": {"rank": 8, "lr": 2e-4}}
    assert config_digest(CONFIG, ignore=IGNORE) != config_digest(other, ignore=IGNORE)


def test_an_ignored_key_is_a_whole_place_not_a_word() -> None:
    first, second = {"model": {"name": "a"}, "name": "x"}, {"model": {"name": "b"}, "name": "x"}
    assert config_digest(first, ignore=("name",)) != config_digest(second, ignore=("name",))


def test_the_digest_is_sha256_of_canonical_json() -> None:
    # sha256 of {"a":["red",1,null,"x"]}
    expected = "890b83acb6fbec99d6563955c106a177f498811aef703919620fde8b7381f90c"
    value = {"a": (Colour.RED, 1, None, Path("x"))}
    assert config_digest(value, ignore=()) == expected


def test_an_object_in_the_configuration_is_named() -> None:
    with pytest.raises(ValueError, match=r"configuration key model\.net: a object"):
        config_digest({"model": {"net": object()}}, ignore=())


def test_a_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "a") == expected


@pytest.mark.parametrize("name", ["ScienceQA", "OCR-VQA", "a.b_c-1"])
def test_plain_names_stay(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize("name", ["a/b", "../up", "..", ".hidden", "", "a b", "x" * 300, "caf\u00e9"])
def test_other_names_become_safe_file_names(name: str) -> None:
    safe = file_name(name)
    assert safe.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert safe.isascii()
    assert not safe.startswith(".")
    assert len(safe) <= 89


def test_names_that_differ_stay_different() -> None:
    assert len({file_name(name) for name in ("a/b", "a b", "a_b", "a:b")}) == 4


def test_a_record_survives_json() -> None:
    stage = StageRecord(stage=1, task="A", status=Status.TRAINED, plan={"grow": [1]}, seconds={"train": 2.5})
    record = RunRecord(seed=3, config_digest="d", stream=["A"], data={"A": "x"}, stages=[stage])
    assert RunRecord.from_json(record.to_json(), source=Path("run.json")) == record


def test_a_newer_schema_is_refused() -> None:
    value = {**RunRecord(seed=0, config_digest="d").to_json(), "schema": 3}
    with pytest.raises(ValueError, match=r"runs/a/run\.json has schema version 3, newer than the 2"):
        RunRecord.from_json(value, source=Path("runs/a/run.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stages": [{"stage": 1, "task": "A", "status": "done"}]},
            "is damaged: 'done' is not a valid Status",
        ),
        ({"colour": 1}, "is damaged: .*colour"),
    ],
)
def test_a_damaged_record_is_named(change: dict[str, Any], message: str) -> None:
    value = {**RunRecord(seed=0, config_digest="d").to_json(), **change}
    with pytest.raises(ValueError, match=message):
        RunRecord.from_json(value, source=Path("run.json"))


def test_a_foreign_file_is_not_a_record() -> None:
    with pytest.raises(ValueError, match="has no schema version"):
        RunRecord.from_json({"a": 1}, source=Path("run.json"))


def test_versions_name_the_packages_that_decide_results() -> None:
    assert package_versions()["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"world_size": 2}, r"it ran on 1 rank\(s\), now there are 2"),
        ({"data": {"A": "1", "B": "3"}}, "the data of B changed"),
        ({"data": {"A": "1"}}, "the data of B is missing"),
        ({"data": {"A": "1", "B": "2", "C": "3"}}, "the data of C is new"),
        ({"stream": ["B", "A"]}, r"the stream was \['A', 'B'\], now it is \['B', 'A'\]"),
        ({"scoring": {"A": {"scorer": "letter"}}}, "the scorer of A was exact, now it is letter"),
        ({"settings": {"model.alpha": 16}}, "the setting model.alpha was 8, now it is 16"),
        ({"seed": 4}, "the seed was 3, now it is 4"),
        ({"backbone": {"digest": "y"}}, "the backbone digest was x, now it is y"),
        ({"config_digest": "e"}, "the config digest was d, now it is e"),
    ],
)
def test_a_resume_under_other_conditions_is_refused_with_the_reason(
    change: dict[str, Any], reason: str
) -> None:
    same: dict[str, Any] = {
        "seed": 3,
        "config_digest": "d",
        "data": {"A": "1", "B": "2"},
        "backbone": {"digest": "x", "source": "here"},
        "stream": ["A", "B"],
        "scoring": {"A": {"scorer": "exact"}},
        "settings": {"model.alpha": 8},
    }
    with pytest.raises(ValueError, match=f"cannot be resumed: {reason}"):
        RunRecord(**same).refuse_changes(RunRecord(**{**same, **change}))


def test_a_resume_with_another_encoder_is_refused_wherever_the_first_was_found() -> None:
    def record(digest: str, source: str) -> RunRecord:
        return RunRecord(0, "digest", facts={"encoders": {"a/model": {"source": source, "digest": digest}}})

    before = record("c0ffee", "package a-model 0.1")
    before.refuse_changes(record("c0ffee", "hub cache a/model 123"))
    RunRecord(0, "digest").refuse_changes(record("c0ffee", "folder model"))
    with pytest.raises(ValueError, match="the encoder a/model was package a-model 0.1"):
        before.refuse_changes(record("decade", "folder model"))


def test_a_resume_under_the_same_conditions_is_allowed() -> None:
    before = RunRecord(seed=3, config_digest="d", backbone={"digest": "x", "source": "here"})
    now = RunRecord(seed=3, config_digest="d", backbone={"digest": "x", "source": "there"})
    before.refuse_changes(now)


def test_a_resume_under_other_versions_warns() -> None:
    now = RunRecord(seed=3, config_digest="d")
    before = RunRecord(seed=3, config_digest="d", versions={**now.versions, "torch": "1.0"})
    with pytest.warns(UserWarning, match="other versions of torch: bit-equality is not promised"):
        before.refuse_changes(now)


def test_an_unknown_stage_is_an_error() -> None:
    record = RunRecord(seed=0, config_digest="d", stages=[StageRecord(stage=1, task="A")])
    with pytest.raises(ValueError, match="stage 0 is not in the run; it has stages 1 to 1"):
        record.stage(0)


def test_packed_state_comes_back_with_its_types() -> None:
    tree = {
        "plain": [1, 2.5, "x", None, True],
        "pair": (1, [torch.tensor([1.0, 2.0])]),
        "by_stage": {1: torch.tensor(3), 2: {"__tensor__": "a word of ours"}},
    }
    value, tensors = pack(tree, where="extra")
    assert sorted(tensors) == ["extra.by_stage.1", "extra.pair.1.0"]
    back = unpack(value, tensors)
    assert back["plain"] == tree["plain"]
    assert isinstance(back["pair"], tuple)
    assert back["pair"][1][0].tolist() == [1.0, 2.0]
    assert back["by_stage"][1].item() == 3
    assert back["by_stage"][2] == {"__tensor__": "a word of ours"}


def test_places_that_read_the_same_keep_their_own_tensors() -> None:
    value, tensors = pack({"a": {"b": torch.tensor(1)}, "a.b": torch.tensor(2)})
    back = unpack(value, tensors)
    assert (back["a"]["b"].item(), back["a.b"].item()) == (1, 2)


def test_pack_names_the_place_of_what_it_cannot_store() -> None:
    with pytest.raises(ValueError, match=r"state\.ema\.0 is a object"):
        pack({"ema": [object()]})


def test_unpack_names_a_missing_tensor() -> None:
    with pytest.raises(ValueError, match=r"names tensor 'state\.a', which its tensor file lacks"):
        unpack({"a": {"__tensor__": "state.a"}}, {})
