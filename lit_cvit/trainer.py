"""ContinualTrainer: a Lightning trainer whose `fit` walks the stages of a stream and resumes between them.

Each stage is a fit of its own with a fresh optimizer and schedule, while step counter, logger and run folder
go through the whole stream. "Next stage" and "resume" never share a code path: the next stage carries the
method's state alone; resume brings back the newest saved stage and goes on with the one after it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.hints import unknown
from lit_cvit.data.stream import Stage
from lit_cvit.logger import RunLogger
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import RunFolder, RunRecord, StageState, Status, newest_run
from lit_cvit.stages import StageCallback

log = logging.getLogger("lit_cvit")

_PRECISIONS = (None, "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")


class ContinualTrainer(L.Trainer):
    """Trains a method on a stream of tasks.

    The data module decides epochs and accumulation, and there is no validation loop, so Lightning's settings
    for those are not offered.

    Args:
        seed: Seed of the run: adapters, order of samples, drawn instructions, dropout.
        run_root: Folder that holds the runs.
        run_name: Name of the run's folder; by default method and benchmark. An existing folder is never
            overwritten: a second run gets the suffix -2.
        start_from: Folder of a finished run; its method continues with this run's stages.
        devices: Lightning's; one process for now.
        logger: Loggers beside the run's own `log.jsonl`.
        kwargs: Lightning's own settings; `log_every_n_steps` is 1 unless set.

    Raises:
        ValueError: more than one process is asked for, or a precision that would convert the frozen model.
    """

    def __init__(
        self,
        seed: int = 0,
        run_root: str = "runs",
        run_name: str | None = None,
        start_from: str | None = None,
        devices: list[int] | str | int = 1,
        logger: Logger | Iterable[Logger] | bool | None = False,
        **kwargs: Any,
    ) -> None:
        _check_precision(kwargs.get("precision"))
        # Lightning's 50 would leave a stage of 40 steps without a line in the log.
        kwargs["log_every_n_steps"] = kwargs.get("log_every_n_steps") or 1
        super().__init__(
            devices=devices,
            logger=logger,
            max_epochs=1,
            max_steps=-1,
            min_epochs=None,
            min_steps=None,
            max_time=None,
            fast_dev_run=False,
            overfit_batches=0.0,
            limit_train_batches=1.0,
            limit_val_batches=0,
            limit_test_batches=0,
            limit_predict_batches=0,
            num_sanity_val_steps=0,
            val_check_interval=None,
            check_val_every_n_epoch=1,
            accumulate_grad_batches=1,
            reload_dataloaders_every_n_epochs=0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **kwargs,
        )
        if self.world_size > 1:
            raise ValueError(
                f"trainer.devices x trainer.num_nodes asks for {self.world_size} processes; this version "
                "trains in one process (set trainer.devices: 1)"
            )
        self.seed, self.run_root, self.run_name, self.start_from = seed, run_root, run_name, start_from
        self.config_text = "# This run was started from Python; there is no resolved configuration.\n"
        self.config_digest = ""
        self.stages: tuple[Stage, ...] = ()
        self.callbacks: list[Callback]
        self._data: ContinualDataModule | None = None
        self._folder: RunFolder | None = None
        self._user_loggers = list(self.loggers)

    @property
    def run(self) -> RunFolder:
        """The run folder; exists once `fit` has begun."""
        if self._folder is None:
            raise RuntimeError("the run folder exists once fit() has begun")
        return self._folder

    @property
    def data(self) -> ContinualDataModule:
        """The data module that is fitted on."""
        if self._data is None:
            raise RuntimeError("there is a data module once fit() has begun")
        return self._data

    def fit(  # type: ignore[override]
        self,
        model: ContinualMethod,
        train_dataloaders: None = None,
        val_dataloaders: None = None,
        datamodule: ContinualDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Learn the stream.

        Args:
            model: The method.
            train_dataloaders: Not supported; the data module makes the loaders.
            val_dataloaders: Not supported.
            datamodule: The stream.
            ckpt_path: None starts a fresh run; `last` goes on with the newest run of this configuration.
            weights_only: Unused: only safetensors and JSON are ever read.

        Raises:
            ValueError: an argument is not supported, the method was fitted before, a record is bad, a
                required callback is missing, or the run that would be resumed or started from was made under
                other conditions.
        """
        if train_dataloaders is not None or val_dataloaders is not None or datamodule is None:
            raise ValueError("ContinualTrainer.fit takes datamodule=ContinualDataModule(...) and no loaders")
        if ckpt_path not in (None, "last"):
            raise ValueError(f"--ckpt_path must be 'last' or left out, got {ckpt_path!r}")
        method = model
        if not method.is_new:
            raise ValueError(
                f"this {type(method).__name__} has stages already; build a new one for every fit, and give "
                "start_from=<run folder> to go on from a finished run"
            )
        self._data = datamodule
        datamodule.trainer = self
        datamodule.check()
        self._require_callbacks(method)
        datamodule.attach(method.backbone.encoder)
        method.know_tasks((*datamodule.stream, *datamodule.downstream))
        self.stages = self._plan_stream(method, datamodule)
        record = self._describe(method, datamodule)
        self._folder = self._open_run(record, resume=ckpt_path == "last")
        self.loggers = [RunLogger(self._folder), *self._user_loggers]
        method.prepare()
        self._restore(method)
        restored = max(self._folder.stages_done(), default=0)
        self._notify("on_stream_start", method)
        # Only the newest stage can still be evaluated: the method is as it was then.
        for stage in self.stages[max(restored - 1, 0) :]:
            self._walk(stage, method, datamodule)
        self._notify("on_stream_end", method)
        self._folder.writer.sync()

    # -- one stage ------------------------------------------------------------------------------------------

    def _walk(self, stage: Stage, method: ContinualMethod, data: ContinualDataModule) -> None:
        done = self.run.stages_done()
        if stage.number not in done:
            start = time.perf_counter()
            plan = method.begin_stage(stage)
            self.run.plan_stage(stage.number, stage.task.name, plan)
            self._notify("on_stage_start", method, stage)
            if method.trains:
                self._fit_stage(stage, method, data)
            method.end_stage(stage)
            self._notify("on_stage_end", method, stage)
            method.check_frozen()
            self.run.save_stage(
                stage.number,
                method.tensors(),
                method.method_state(),
                extra={"callbacks": self._callback_states(), "step": self.global_step},
                seconds=round(time.perf_counter() - start, 3),
                facts={"steps": stage.num_steps, "parameters": method.parameter_counts()},
            )
        method.stage = stage
        if self.run.record.stage(stage.number).status is not Status.EVALUATED:
            self._notify("on_stage_saved", method, stage)

    def _fit_stage(self, stage: Stage, method: ContinualMethod, data: ContinualDataModule) -> None:
        if stage.num_steps < 1:
            raise ValueError(f"stage {stage.number} ({stage.task.name}) would train for 0 steps")
        # Without the reset a second fit sees its epochs as done and trains nothing, silently.
        self.fit_loop.epoch_progress.reset()
        self.fit_loop.epoch_loop.batch_progress.reset()
        self.should_stop = False
        self.accumulate_grad_batches = data.begin_stage(stage)
        self.fit_loop.max_epochs = data.epochs
        before = self.global_step
        super().fit(method, datamodule=data)
        if self.global_step - before != stage.num_steps:
            raise RuntimeError(
                f"stage {stage.number} ({stage.task.name}) trained {self.global_step - before} steps instead "
                f"of {stage.num_steps}; did a callback stop it?"
            )

    def _notify(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            if isinstance(callback, StageCallback):
                getattr(callback, hook)(self, *arguments)

    # -- the run --------------------------------------------------------------------------------------------

    def _plan_stream(self, method: ContinualMethod, data: ContinualDataModule) -> tuple[Stage, ...]:
        if method.trains:
            return data.stages(seed=self.seed, joint=method.knows.joint_data)
        nothing = dataclasses.replace(data.stream[0], name="untrained", train=None)
        return (Stage(1, nothing, self.seed, 0, data.stream),)

    def _describe(self, method: ContinualMethod, data: ContinualDataModule) -> RunRecord:
        tasks = (*data.stream, *data.downstream)
        digests = {task.name: task.test.digest() for task in tasks}
        digests |= {f"{s.task.name} train": s.task.train.digest() for s in self.stages if s.task.train}
        return RunRecord(
            seed=self.seed,
            config_digest=self.config_digest,
            method=type(method).__name__,
            benchmark=data.benchmark.name,
            stream=[task.name for task in data.stream],
            downstream=[task.name for task in data.downstream],
            captions=[task.name for task in tasks if task.is_caption],
            miniature=data.benchmark.name.endswith("-mini"),
            num_stages=len(self.stages),
            backbone=method.backbone.describe(),
            data=digests,
            start_from=self._source_record(method),
            facts={"knows": method.knows.words()},
        )

    def _source_record(self, method: ContinualMethod) -> dict[str, Any] | None:
        if self.start_from is None:
            return None
        source = RunFolder.open(self.start_from, verify=True)
        done = source.stages_done()
        if not done:
            raise ValueError(f"--start_from {self.start_from}: that run has no trained stage to start from")
        for what, theirs, ours in (
            ("method", source.record.method, type(method).__name__),
            ("backbone digest", source.record.backbone.get("digest"), method.backbone.describe()["digest"]),
        ):
            if theirs != ours:
                raise ValueError(
                    f"--start_from {self.start_from}: the {what} of that run is {theirs}, not {ours}"
                )
        earlier = source.record.start_from
        plans = [source.record.stage(number).plan for number in done]
        return {
            "path": str(Path(self.start_from).resolve()),
            "config_digest": source.record.config_digest,
            "plans": [*(earlier["plans"] if earlier else []), *plans],
        }

    def _open_run(self, record: RunRecord, *, resume: bool) -> RunFolder:
        if resume:
            found = newest_run(self.run_root, self.config_digest, verify=True)
            if found is not None:
                found.record.refuse_changes(record)
                if found.record.method != record.method:
                    raise ValueError(
                        f"{found.path} is a run of {found.record.method}, not of {record.method}"
                    )
                found.refresh()
                found.writer.clear_leftovers(found.path)
                log.info("resuming %s after stage %d", found.path, max(found.stages_done(), default=0))
                return found
            log.warning("--ckpt_path last: no run of this configuration in %s; starting fresh", self.run_root)
        name = self.run_name or f"{record.method}-{record.benchmark}".lower()
        return RunFolder.create(self.run_root, name, self.config_text, record=record)

    def _restore(self, method: ContinualMethod) -> None:
        state = restore_method(method, self.run)
        step = state.extra["step"] if state else 0
        # Rows that a killed attempt at the next stage has logged; it trains again.
        self.run.writer.truncate_jsonl(
            self.run.log_path, lambda row: row.get("step") is None or row["step"] < step
        )
        loop = self.fit_loop.epoch_loop
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        loop._batches_that_stepped = step
        if state is None:
            return
        for callback in self.callbacks:
            if callback.state_key in state.extra["callbacks"]:
                callback.load_state_dict(state.extra["callbacks"][callback.state_key])

    def _callback_states(self) -> dict[str, Any]:
        states = {callback.state_key: callback.state_dict() for callback in self.callbacks}
        return {key: state for key, state in states.items() if state}

    def _require_callbacks(self, method: ContinualMethod) -> None:
        names = {type(callback).__name__ for callback in self.callbacks}
        for required in method.requires_callbacks:
            if required not in names:
                raise ValueError(
                    f"{type(method).__name__} as configured needs the callback {required}; add it under "
                    f"trainer.callbacks. {unknown('callback', required, names)}"
                )


def _check_precision(precision: object) -> None:
    if (None if precision is None else str(precision)) not in _PRECISIONS:
        raise ValueError(
            f"trainer.precision {precision!r} would convert the frozen model and the adapters alike; allowed "
            f"are {', '.join(str(p) for p in _PRECISIONS if p)}. For a 16-bit model set model.backbone.dtype"
        )


def restore_method(method: ContinualMethod, run: RunFolder, *, stage: int | None = None) -> StageState | None:
    """Bring a method to where it was after a stage of a run.

    Args:
        method: The method as configured, prepared and without any stage.
        run: The run, which may have started from another one.
        stage: Stage number; by default the last trained one.

    Returns:
        What that stage stored, or None if the run has no trained stage yet; the method is then where the run
        started from.

    Raises:
        ValueError: the stage is not trained, a stored file changed, or its tensors do not fit the method.
    """
    done = run.stages_done()
    if stage is not None and stage not in done:
        known = ", ".join(map(str, done)) or "none"
        raise ValueError(f"stage {stage} of {run.path} is not trained; trained stages: {known}")
    last = stage if stage is not None else max(done, default=0)
    source = run.record.start_from
    for plan in source["plans"] if source else ():
        method.follow_plan(plan)
    for number in range(1, last + 1):
        method.follow_plan(run.record.stage(number).plan)
    if last:
        state = run.load_stage(last)
    elif source:
        origin = RunFolder.open(source["path"], verify=True)
        state = origin.load_stage(origin.stages_done()[-1])
    else:
        return None
    method.load_tensors(state.tensors)
    method.load_method_state(state.state)
    return state if last else None
