"""ContinualTrainer: a Lightning trainer whose `fit` walks the stages of a stream and resumes between them.

Each stage is a fit of its own with a fresh optimizer and schedule, while step counter, log and run folder go
through the whole stream. "Next stage" and "resume" never share a code path: the next stage carries the
method's state alone; resume brings back the newest saved stage and goes on inside the one after it, at its
checkpoint, or at its start if there is none.

On several ranks every rank walks the same stages; rank 0 alone makes the folder and writes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.stage import Stage
from lit_cvit.memory_plan import checked_plan
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import RunFolder, RunRecord, Status, tensors_digest
from lit_cvit.stream.checkpoints import (
    NoSignals,
    RunCheckpointIO,
    StageCheckpoints,
    StopSignal,
    checkpoint_step,
)
from lit_cvit.stream.finite import FiniteCheck
from lit_cvit.stream.preflight import check_data, describe, introduce, require_callbacks
from lit_cvit.stream.ranks import ending_together, use_rank_launcher
from lit_cvit.stream.refusals import refuse_launcher, refuse_negative, refuse_settings, refuse_strategy
from lit_cvit.stream.restore import open_on_all_ranks, restore_method
from lit_cvit.stream.sharded import ShardedBackboneStrategy, named_strategy, require_shardable
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.step_log import StepLog
from lit_cvit.stream.step_order import in_order
from lit_cvit.utils.distributed import gathered

if TYPE_CHECKING:
    from lit_cvit.methods.access import DataAccess


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
        checkpoint_every_n_steps: Optimizer steps between two checkpoints inside a stage; 0 writes one only
            after SIGTERM or Ctrl-C. A killed run loses at most so many steps, and a checkpoint costs what the
            adapters and their optimizer state take on the disk.
        keep_stages: `last` removes what the stages before the newest stored of the method, once that one is
            stored; scores and predictions stay. A stream of T stages then takes the space of one or two, and
            `test`, `predict` and `analyze` have the last stage alone.
        gradient_clip_val: Largest norm of the gradients of an optimizer step; 1, as in the training of LLaVA
            and of the papers (transformers' default). Without it, a later stage's training may diverge.
        devices: Lightning's: how many processes of this machine, or which devices.
        strategy: Lightning's; `auto`, `ddp` or a `DDPStrategy` started by command (not by fork or spawn). Or
            `ddp_sharded_backbone`: each rank holds a part of the frozen decoder's layers.
        logger: Loggers beside the run's own `log.jsonl`.
        kwargs: Lightning's own settings; `log_every_n_steps` is 1 unless set.

    Raises:
        ValueError: a strategy, callback, precision or launched process that has no place in a stream.
    """

    def __init__(
        self,
        seed: int = 0,
        run_root: str = "runs",
        run_name: str | None = None,
        start_from: str | None = None,
        checkpoint_every_n_steps: int = 100,
        keep_stages: Literal["all", "last"] = "all",
        gradient_clip_val: float | None = 1.0,
        devices: list[int] | str | int = 1,
        strategy: str | Strategy = "auto",
        logger: Logger | Iterable[Logger] | bool | None = False,
        **kwargs: Any,
    ) -> None:
        refuse_settings(devices, logger, keep_stages, kwargs)
        # Lightning's 50 would leave a stage of 40 steps without a line in the log.
        self._log_every = kwargs["log_every_n_steps"] = int(kwargs.get("log_every_n_steps") or 1)
        refuse_negative(
            checkpoint_every_n_steps=checkpoint_every_n_steps, gradient_clip_val=gradient_clip_val
        )
        super().__init__(
            devices=devices,
            strategy=named_strategy(strategy),
            logger=logger,
            gradient_clip_val=gradient_clip_val,
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
        refuse_launcher(self.num_devices, self.num_nodes)
        refuse_strategy(self.strategy, strategy)
        use_rank_launcher(self.strategy)
        self._signal_connector = NoSignals(self)
        self.stop = StopSignal()
        self.checkpoint_every_n_steps, self.keep_stages = checkpoint_every_n_steps, keep_stages
        self.seed, self.run_root, self.run_name, self.start_from = seed, run_root, run_name, start_from
        self.config_text = "# This run was started from Python; there is no resolved configuration.\n"
        self.config_digest = ""
        self.stages: tuple[Stage, ...] = ()
        self.memory_plan: list[str] = []
        self.callbacks: list[Callback]
        self._data: ContinualDataModule | None = None
        self._folder: RunFolder | None = None
        self._check = FiniteCheck()

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

    def access(self, method: ContinualMethod) -> DataAccess:
        """The data access of a method in this run: what it declares and what callbacks grant."""
        granted = (each.grants for each in self.callbacks if isinstance(each, StageCallback))
        return method.access.also(*chain.from_iterable(granted))

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
            ValueError: an argument is not supported, the method was fitted before, the run that would be
                resumed was made under other conditions, or what `plan_run` says.
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
        record = self.plan_run(method, datamodule)
        # What can be refused is refused by now, before there are other processes.
        launcher = self.strategy.launcher
        launch = launcher.launch if launcher is not None else _call
        try:
            with self.stop.listening(), ending_together(launcher, self.stop):
                launch(self._learn, method, datamodule, record, ckpt_path == "last", trainer=self)
        finally:
            if self._folder is not None:
                self._folder.writer.unlock()

    def plan_run(self, method: ContinualMethod, data: ContinualDataModule) -> RunRecord:
        """Check what a run needs and plan stages and memory; nothing is loaded, trained or written.

        Returns:
            The conditions that a run would have.

        Raises:
            ValueError: a record is bad, a required callback is missing, the run to start from does not fit,
                or this device has not the memory for it.
        """
        self._data = data
        data.trainer = self
        if isinstance(self.strategy, ShardedBackboneStrategy):
            require_shardable(method, self.world_size)
        check_data(method, data, reports=self.is_global_zero)
        require_callbacks(method, self.callbacks)
        introduce(method, data)
        self.stages = self._plan_stream(method, data)
        record = describe(
            method,
            data,
            self.stages,
            access=self.access(method),
            seed=self.seed,
            precision=str(self.precision),
            config_digest=self.config_digest,
            world_size=self.world_size,
            start_from=self.start_from,
        )
        place, precision = self.strategy.root_device, str(self.precision)
        shards = self.world_size if isinstance(self.strategy, ShardedBackboneStrategy) else 1
        self.memory_plan = checked_plan(method, data, self.stages, record, place, precision, shards)
        return record

    def _learn(
        self, method: ContinualMethod, data: ContinualDataModule, record: RunRecord, resume: bool
    ) -> None:
        self.strategy.setup_environment()
        if isinstance(self.strategy, DDPStrategy):
            # Frozen blocks are buffers; sending them at every step would be for nothing.
            self.strategy._ddp_kwargs.setdefault("broadcast_buffers", False)
        self._folder = open_on_all_ranks(
            record, root=self.run_root, name=self.run_name, config_text=self.config_text, resume=resume
        )
        self.strategy.barrier("run folder")
        data.measured.keep_in(self._folder)
        self.strategy.checkpoint_io = RunCheckpointIO(self._folder)
        log = StepLog(self._folder, self._log_every)
        checkpoints = StageCheckpoints(self.checkpoint_every_n_steps, self.stop, self._check)
        self.callbacks = in_order(self.callbacks, log, checkpoints, self._check, self._notify)
        self._notify("before_loading", method)
        method.prepare()
        if isinstance(self.strategy, ShardedBackboneStrategy):
            self.strategy.shard(method)
        method.adapters.note_frozen()
        self._restore(method)
        restored = max(self._folder.stages_done(), default=0)
        self._notify("on_stream_start", method)
        # Only the newest stage can still be evaluated: the method is as it was then.
        for stage in self.stages[max(restored - 1, 0) :]:
            self.check_stop()
            self._walk(stage, method, data)
        self._notify("on_stream_end", method)
        self._folder.writer.sync()

    def check_stop(self) -> None:
        """Stop here if SIGTERM or Ctrl-C was received, on any rank; all ranks must call it at the same point.

        Raises:
            Stopped: it was; the process ends with status 143 or 130.
        """
        self.stop.check(self.strategy.root_device)

    # -- one stage ------------------------------------------------------------------------------------------

    def _walk(self, stage: Stage, method: ContinualMethod, data: ContinualDataModule) -> None:
        if stage.number not in self.run.stages_done():
            start = time.perf_counter()
            inside = checkpoint_step(self.run, stage.number) is not None
            planned = self.run.record.stage(stage.number).plan if inside else None
            method.to(self.strategy.root_device)
            plan = method.begin_stage(stage, planned)
            if not inside:
                self.run.plan_stage(stage.number, stage.task.name, plan)
            stage = self._start_stage(stage, method, data)
            if method.trains:
                self._fit_stage(stage, method, data, inside=inside)
            method.end_stage(stage)
            self._notify("on_stage_end", method, stage)
            method.adapters.check_frozen()
            if method.trains:
                self._check.require_finite_state(self, method)
            _require_equal_ranks(method, stage)
            self.run.save_stage(
                stage.number,
                method.tensors(),
                method.method_state(),
                extra={"callbacks": self._callback_states(), "step": self.global_step},
                seconds=round(time.perf_counter() - start, 3),
                facts={"steps": stage.num_steps, "parameters": method.parameter_counts()},
            )
        if self.keep_stages == "last":
            self.run.keep_from(stage.number)
        method.stage = stage
        if self.run.record.stage(stage.number).status is not Status.EVALUATED:
            self._notify("on_stage_saved", method, stage)

    def _fit_stage(
        self, stage: Stage, method: ContinualMethod, data: ContinualDataModule, *, inside: bool
    ) -> None:
        if stage.num_steps < 1:
            raise ValueError(f"stage {stage.number} ({stage.task.name}) would train for 0 steps")
        # Without the reset a second fit sees its epochs as done and trains nothing, silently.
        self.fit_loop.epoch_progress.reset()
        self.fit_loop.epoch_loop.batch_progress.reset()
        self.should_stop = False
        self.accumulate_grad_batches = data.begin_stage(stage)
        self.fit_loop.max_epochs = data.epochs
        before = self.global_step
        super().fit(method, datamodule=data, ckpt_path=self.run.checkpoint_path if inside else None)
        if self.global_step - before != stage.num_steps:
            raise RuntimeError(
                f"stage {stage.number} ({stage.task.name}) trained {self.global_step - before} steps instead "
                f"of {stage.num_steps}; did a callback stop it?"
            )

    def _start_stage(self, stage: Stage, method: ContinualMethod, data: ContinualDataModule) -> Stage:
        """Notify of a stage's start; a callback that adds rows to its data changes its number of steps."""
        for callback in self.callbacks:
            if isinstance(callback, StageCallback):
                callback.on_stage_start(self, method, stage)
                stage = method.stage = data.extended(stage)
        self.stages = tuple(stage if each.number == stage.number else each for each in self.stages)
        return stage

    def _notify(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            if isinstance(callback, StageCallback):
                getattr(callback, hook)(self, *arguments)

    # -- the run --------------------------------------------------------------------------------------------

    def _plan_stream(self, method: ContinualMethod, data: ContinualDataModule) -> tuple[Stage, ...]:
        if method.trains:
            return data.stages(seed=self.seed, joint=method.access.joint_data)
        nothing = dataclasses.replace(data.stream[0], name="untrained", train=None)
        return (Stage(1, nothing, self.seed, 0, data.stream),)

    def _restore(self, method: ContinualMethod) -> None:
        state = restore_method(method, self.run)
        step = state.extra["step"] if state else 0
        # Rows that a killed attempt at the next stage has logged; it trains again from there.
        reached = checkpoint_step(self.run, max(self.run.stages_done(), default=0) + 1) or step
        self.run.writer.truncate_jsonl(
            self.run.log_path, lambda row: row.get("step") is None or row["step"] < reached
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


def _call(function: Any, *arguments: Any, **_: Any) -> None:
    function(*arguments)


def _require_equal_ranks(method: ContinualMethod, stage: Stage) -> None:
    digests = gathered(tensors_digest(method.tensors()))
    if len(set(digests)) > 1:
        raise RuntimeError(
            f"after stage {stage.number} ({stage.task.name}) the ranks hold different parameters; this is a "
            f"defect of {type(method).__name__} or of a callback (a statistic that is not reduced?)"
        )
