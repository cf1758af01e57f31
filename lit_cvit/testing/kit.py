"""MethodTests: what holds for every method, as a class of tests with a row per configured method.

A row runs eleven small fits and loads, or twelve, in processes of their own; the tests compare what they
left. A method is run with 8 samples a step on two tasks of two steps, which is enough to see that everything
counts. The plain fit plans its memory; the others, a quarter of whose time that would be, do not.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cvit.run import RunFolder
from lit_cvit.testing.job import Job
from lit_cvit.testing.jobs import ranks_of, run_jobs

TASKS = ("ScienceQA", "GQA")
BATCH, STEPS = 8, 2
# The first stage's last step, then one step of the second stage and its checkpoint.
KILL_AT = STEPS + 1
# Forms of a quantised backbone, and the class of its layers.
QUANTISED = {"nf4": "Linear4bit", "int8": "Linear8bitLt"}


@dataclass(frozen=True)
class Row:
    """A configured method.

    Attributes:
        method: Class path, or the short name of a shipped class.
        settings: Its settings.
        callbacks: Callbacks it needs, each as in a configuration: `class_path`, `init_args`.
        batched: Whether answers do not depend on what else is in the batch; a preset that follows published
            code may differ.
        divisible: Whether a step on two ranks or with accumulation equals one in a single batch; not where a
            statistic is that of the first micro-batch, or where answers depend on the batch.
        fixed: Endings of names of trainable tensors that may stay without a gradient in so few steps.
        quantised: Whether it is run on a 4-bit and an 8-bit backbone; a method that trains the backbone
            cannot be.
        int8: Whether the 8-bit form is run beside the 4-bit one. A row whose setting makes no other banks
            than another row of the same method may leave it to that one.
        sharded: Whether it is also run on two ranks that hold the frozen decoder in shards.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Sequence[Mapping[str, Any]] = ()
    batched: bool = True
    divisible: bool = True
    fixed: tuple[str, ...] = ()
    quantised: bool = True
    int8: bool = True
    sharded: bool = False


class Made:
    """The processes of a row, each run when a test first asks for what it left."""

    def __init__(self, row: Row, root: Path, model: Path) -> None:
        self.row, self.root, self.model = row, root, model

    def job(self, name: str, **changes: Any) -> Job:
        """A fit of the row; `backbone`, `data` and `trainer` change its configuration."""
        parts = {part: changes.pop(part, {}) for part in ("backbone", "data", "trainer")}
        backbone = {"class_path": "Llava", "init_args": {"name_or_path": str(self.model)}}
        backbone["init_args"] |= parts["backbone"]
        settings = {"rank": 32, "alpha": 64.0, "optimizer": {"learning_rate": 5e-3}, **self.row.settings}
        callbacks = [copy.deepcopy(dict(callback)) for callback in self.row.callbacks]
        evaluation = {"class_path": "StageEvaluation", "init_args": {"downstream": False, "report": False}}
        config = {
            "model": {"class_path": self.row.method, "init_args": {"backbone": backbone, **settings}},
            "data": {
                "tasks": list(TASKS),
                "settings": {"num_train": BATCH * STEPS, "num_test": 5},
                "batch_size": BATCH,
                "eval_batch_size": 3,
                **parts["data"],
            },
            "trainer": {
                "accelerator": "cpu",
                "checkpoint_every_n_steps": 1,
                "callbacks": [evaluation, *callbacks],
                **parts["trainer"],
            },
        }
        return Job(name, self.root / name, config, **changes)

    @functools.cached_property
    def base(self) -> dict[str, Any]:
        """The plain fit; the fit that is to be killed runs beside it."""
        return run_and_read(self.job("base", planned=True), self.job("killed", kill_at=KILL_AT))[0]

    @functools.cached_property
    def resumed(self) -> dict[str, Any]:
        """The killed fit, resumed; and the plain one loaded beside it."""
        assert self.base
        again = replace(self.job("killed"), name="resumed", root=self.root / "killed", resume=True)
        load = replace(self.job("base"), name="loaded", task="load")
        return dict(zip(("resumed", "loaded"), run_and_read(again, load), strict=True))

    @functools.cached_property
    def ranks(self) -> list[dict[str, Any]]:
        """The fit on two ranks with half the batch each."""
        return run_and_read(*ranks_of(self.job("ranks", data={"batch_size": BATCH // 2})))

    @functools.cached_property
    def sharded(self) -> list[dict[str, Any]]:
        """That fit with the frozen decoder in shards."""
        job = self.job("sharded", data={"batch_size": BATCH // 2}, strategy="ddp_sharded_backbone")
        return run_and_read(*ranks_of(job))

    @functools.cached_property
    def accumulated(self) -> dict[str, Any]:
        """The fit with accumulation and activation checkpointing."""
        halves = {"batch_size": BATCH // 2, "global_batch_size": BATCH}
        job = self.job("accumulated", data=halves, backbone={"activation_checkpointing": True}, scored=False)
        return run_and_read(job)[0]

    @functools.cached_property
    def quantised(self) -> dict[str, dict[str, Any]]:
        """The fits on a 4-bit and an 8-bit backbone, side by side."""
        jobs = {form: self.job(form, backbone={"quantization": form}, scored=False) for form in self.forms}
        return dict(zip(jobs, run_and_read(*jobs.values()), strict=True))

    @functools.cached_property
    def quantised_loaded(self) -> dict[str, dict[str, Any]]:
        """These runs, loaded."""
        assert self.quantised
        jobs = {
            form: replace(self.job(form), name=f"{form}-loaded", task="reload", root=self.root / form)
            for form in self.forms
        }
        return dict(zip(jobs, run_and_read(*jobs.values()), strict=True))

    @property
    def forms(self) -> list[str]:
        """The forms of a quantised backbone that the row is run on."""
        return [form for form in QUANTISED if self.row.int8 or form != "int8"]

    @property
    def trains(self) -> bool:
        """Whether the method says that it trains anything."""
        return bool(self.base["trains"])


class MethodTests:
    """The tests. A subclass names its rows; `method_tests` makes one for a single method."""

    rows: Mapping[str, Row] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test for every row."""
        if "made" in metafunc.fixturenames:
            metafunc.parametrize("made", list(self.rows), indirect=True)

    @pytest.fixture
    def made(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
        """The row's processes, shared by its tests."""
        return _made(self.rows[request.param], tmp_path_factory)

    def test_a_killed_run_that_goes_on_ends_bit_identical(self, made: Made) -> None:
        whole, again = RunFolder.open(made.base["path"]), RunFolder.open(made.resumed["resumed"]["path"])
        assert whole.path != again.path
        require_same_files(stored_files(again), stored_files(whole))

    def test_it_is_deterministic(self, made: Made) -> None:
        """The killed run's first stage was trained by another process."""
        whole, again = RunFolder.open(made.base["path"]), RunFolder.open(made.resumed["resumed"]["path"])
        first = "stages/01"
        one, other = (
            {n: b for n, b in stored_files(run).items() if n.startswith(first)} for run in (whole, again)
        )
        assert len(one) >= 2
        require_same_files(one, other)

    def test_a_fresh_process_loads_it_to_identical_logits(self, made: Made) -> None:
        apart = (made.resumed["loaded"]["logits"] - made.base["logits"]).abs().max().item()
        assert apart == 0, f"a fresh process that loads the run gives other logits, by up to {apart:.3g}"

    def test_batched_answers_equal_single_ones(self, made: Made) -> None:
        if not made.row.batched:
            pytest.skip("the row says that batches change its answers")
        loaded = made.resumed["loaded"]
        assert loaded["together"] == loaded["alone"], "answers change with what else is in the batch"
        assert len(set(loaded["together"])) > 1

    def test_two_ranks_train_as_one_with_the_same_global_batch(self, made: Made) -> None:
        first, second = made.ranks
        assert differing(first["tensors"], second["tensors"]) == []
        if not made.row.divisible:
            pytest.skip("the row says that its steps depend on their batches")
        require_like(first, made.base)
        _require_equal_losses(first["path"], made.base["path"])

    def test_two_ranks_with_the_decoder_in_shards_train_as_two_with_all_of_it(self, made: Made) -> None:
        if not made.row.sharded:
            pytest.skip("the row is not run with a decoder in shards")
        assert [each["held"] for each in made.sharded] == [made.ranks[0]["held"] / 2] * 2
        parts, whole = (RunFolder.open(each[0]["path"]) for each in (made.sharded, made.ranks))
        require_same_files(stored_files(parts), stored_files(whole))

    def test_accumulation_and_activation_checkpointing_change_nothing(self, made: Made) -> None:
        if not made.row.divisible:
            pytest.skip("the row says that its steps depend on their batches")
        require_like(made.accumulated, made.base)
        _require_equal_losses(made.accumulated["path"], made.base["path"])

    @pytest.mark.parametrize("form", list(QUANTISED))
    def test_the_method_itself_trains_on_a_quantised_backbone(self, made: Made, form: str) -> None:
        if not made.row.quantised:
            pytest.skip("the row says that it has no quantised form")
        if form not in made.forms:
            pytest.skip("the row leaves the 8-bit form to another one of its method")
        trained = made.quantised[form]
        assert trained["classes"] == ([QUANTISED[form]] if made.base["classes"] else [])
        assert trained["tensors"].keys() == made.base["tensors"].keys()
        assert trained["terms"] == made.base["terms"]
        assert trained["seen"] == made.base["seen"]
        assert torch.equal(made.quantised_loaded[form]["logits"], trained["logits"])
        if form == "nf4":
            # bitsandbytes adds up in another order than a plain layer with the same values; an 8-bit layer
            # rounds its input as well, so it has no such twin.
            assert torch.allclose(trained["dequantised"], trained["logits"], atol=2e-4, rtol=1e-3)

    def test_every_loss_term_moves_something(self, made: Made) -> None:
        logged = _logged_terms(made.base["path"])
        assert set(made.base["terms"]) == logged, "the terms of a step are not those that the log has"
        assert ("lm" in logged) == made.trains
        idle = [name for name, moves in made.base["terms"].items() if not moves]
        assert idle == [], f"these loss terms move no trainable tensor: {', '.join(idle)}"

    def test_every_trainable_tensor_has_a_gradient_unless_its_block_rests(self, made: Made) -> None:
        """A block rests if no sample of these few steps was routed to it."""
        base = made.base
        unreached = set(base["seen"]) - set(base["reached"]) - set(base["resting"])
        # A moves from a block's second use on, when B is no longer zero.
        late = (".A", *made.row.fixed)
        still = sorted(name for name in unreached if not name.endswith(late))
        assert still == [], (
            f"trainable, but without a gradient although their blocks are in use: {', '.join(still)}"
        )
        moved = {name.split(".blocks.")[0] for name in base["reached"] if name.endswith(".A")}
        banks = {name.split(".blocks.")[0] for name in base["seen"] if name.endswith(".A")}
        assert moved == banks, f"no A of these layers got a gradient: {', '.join(sorted(banks - moved))}"

    def test_the_backbone_stays_what_was_loaded(self, made: Made) -> None:
        assert made.base["frozen"] == _frozen_digest(made.model, made.base["unfrozen"])

    def test_training_changed_what_it_says(self, made: Made) -> None:
        """Without it, equal logits would say nothing."""
        assert torch.equal(made.base["logits"], _bare_logits(made.model)) != made.trains

    def test_what_is_stored_is_what_is_counted(self, made: Made) -> None:
        run = RunFolder.open(made.base["path"])
        stored = run.load_stage(max(run.stages_done())).tensors
        assert made.base["counts"]["stored"] == sum(tensor.numel() for tensor in stored.values())


def method_tests(method: str, *, name: str = "", **row: Any) -> type[MethodTests]:
    """The tests of one method, for the test module of any package: `TestMine = method_tests("my.Mine")`.

    Args:
        method: Class path of the method.
        name: Name of the row; by default the class's.
        row: Further attributes of a `Row`; every other name is a setting of the method.
    """
    known = {key: row.pop(key) for key in list(row) if key in Row.__dataclass_fields__}
    settings = {**known.pop("settings", {}), **row}
    made = Row(method, settings, **known)
    return type("TestMethod", (MethodTests,), {"rows": {name or method.rpartition(".")[2]: made}})


def classes_by_row(rows: Mapping[str, Row]) -> dict[str, type[MethodTests]]:
    """A class of tests for every row, by its name: `globals().update(classes_by_row(ROWS))` in a test module.

    A row's tests share its processes, so they should run in one worker: `pytest -n 2 --dist loadscope` keeps
    the tests of a class together.
    """
    return {
        f"Test_{name}": type(f"Test_{name}", (MethodTests,), {"rows": {name: row}})
        for name, row in rows.items()
    }


_MADE: dict[int, Made] = {}


def _made(row: Row, factory: pytest.TempPathFactory) -> Made:
    if id(row) not in _MADE:
        _MADE[id(row)] = Made(row, factory.mktemp("method"), _model_folder(str(factory.getbasetemp())))
    return _MADE[id(row)]


@functools.cache
def _model_folder(base: str) -> Path:
    from lit_cvit.backbones.build import build_llava_folder

    return build_llava_folder(Path(base) / "kit-llava", num_layers=2)


@functools.cache
def _frozen_digest(model: Path, unfrozen: tuple[str, ...]) -> str:
    from lit_cvit.backbones import Llava

    return Llava(str(model)).load().digest_frozen(exclude=unfrozen)


@functools.cache
def _bare_logits(model: Path) -> Tensor:
    """What the backbone alone says to the same samples."""
    return run_and_read(Made(Row("ZeroShot"), model.parent / "bare", model).job("bare"))[0]["logits"]


def run_and_read(*jobs: Job) -> list[dict[str, Any]]:
    """Run jobs side by side; what each process observed, nothing of one that was to be killed."""
    for job in jobs:
        job.root.mkdir(parents=True, exist_ok=True)
    run_jobs(jobs)
    return [torch.load(job.observed) if job.kill_at is None else {} for job in jobs]


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not bit for bit the same in both."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def stored_files(run: RunFolder) -> dict[str, bytes]:
    """What two equal runs have in common byte by byte: tensors, predictions, matrix, log."""
    chosen = [*run.path.glob("stages/*/method.*"), *run.path.glob("stages/*/predictions/*.jsonl")]
    chosen += [run.path / name for name in ("matrix.json", "matrix.csv", "log.jsonl")]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in chosen if path.is_file()}


def require_same_files(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> None:
    """The same files with the same bytes.

    A failure names files; comparing their bytes for a message would take pytest minutes.
    """
    changed = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    assert changed == [], f"these files are not byte for byte the same: {', '.join(changed)}"


def require_like(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """The same training to rounding: gradients of the first step, and the whole way to the last.

    AdamW divides by the size of a gradient, so single elements near zero may go either way.
    """
    assert one["first"].keys() == other["first"].keys()
    for name, grad in one["first"].items():
        size = other["first"][name].abs().max().item()
        assert torch.allclose(grad, other["first"][name], rtol=1e-3, atol=1e-5 * size + 1e-9), name
    assert one["tensors"].keys() == other["tensors"].keys()
    pairs = [(one["tensors"][name].double(), other["tensors"][name].double()) for name in one["tensors"]]
    apart = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    size = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    assert apart <= 0.01 * size


def _logged_terms(path: str) -> set[str]:
    """Names of the loss terms in the last row of a run's log."""
    from lit_cvit.run import read_jsonl

    rows = list(read_jsonl(RunFolder.open(path).log_path))
    return {name.removeprefix("loss/") for name in rows[-1] if name.startswith("loss/")} if rows else set()


def _require_equal_losses(one: str, other: str) -> None:
    from lit_cvit.run import read_jsonl

    rows = [list(read_jsonl(RunFolder.open(path).log_path)) for path in (one, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for a, b in zip(*rows, strict=True):
        assert a["loss/lm"] == pytest.approx(b["loss/lm"], rel=1e-3), a["step"]
