"""ContinualDataModule: the task stream as Lightning loaders, one per stage, and one per test split."""

from __future__ import annotations

import dataclasses
import logging
from functools import cached_property, partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_cvit.data.answer_tokens import AnswerTokens
from lit_cvit.data.batches import Batches, EvalBuilder, StageLoader, TrainBuilder
from lit_cvit.data.benchmarks import load_benchmark
from lit_cvit.data.measured import Measured, name_with_digest
from lit_cvit.data.sampling import EvalBatchSampler, EvalPlan, TrainBatchSampler
from lit_cvit.data.stage import Stage, UnionSource, joint_task
from lit_cvit.data.tasks import Batch, Benchmark, Encoder, SampleSource, Task
from lit_cvit.data.validation.check import OnProgress, TaskReport, check_benchmark, require_clean
from lit_cvit.data.workers import BatchLoader
from lit_cvit.utils.suggest import unknown

log = logging.getLogger("lit_cvit")


class ContinualDataModule(L.LightningDataModule):
    """A benchmark as a stream of stages.

    The order of samples and the instruction drawn for a sample are pure functions of (seed, stage, epoch,
    sample), so they depend neither on workers, nor on ranks where the global batch is equal, nor on resume.

    Args:
        benchmark: Name of a shipped benchmark, or the path of a YAML file that lists your tasks.
        tasks: Names of the tasks to learn, in this order; by default the benchmark's stream. Few-shot tasks
            of the benchmark may be named too.
        order: Order of the stream, for benchmarks that have several, such as `reverse` of `coin`. With
            `tasks`, which is an order itself, it has no effect.
        instructions: Instruction style, for benchmarks that have several: `single` or `multi` of `cvit`;
            `Original`, `Diverse` or `10Type` of `coin`.
        settings: Further settings of the benchmark, for example `root` of `cvit` or `num_train` of
            `cvit-mini`.
        batch_size: Samples of a micro-batch on one rank.
        global_batch_size: Samples of an optimizer step over micro-batches and ranks; by default one
            micro-batch per rank. Accumulation follows from it.
        eval_batch_size: Samples decoded at once.
        epochs: Passes over a task's training data in its stage.
        num_workers: Loader processes; 0 loads in the main process.
        isolated: Whether each task is learned by itself, from the pre-trained model, in a run of its own: the
            command line makes one run after the other.

    Attributes:
        measured: Lengths of test samples that are known already.
    """

    def __init__(
        self,
        benchmark: str = "cvit-mini",
        tasks: list[str] | None = None,
        order: str | None = None,
        instructions: str | None = None,
        settings: dict[str, Any] | None = None,
        batch_size: int = 32,
        global_batch_size: int | None = None,
        eval_batch_size: int = 64,
        epochs: int = 1,
        num_workers: int = 0,
        isolated: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("epochs", epochs),
        ):
            if value < 1:
                raise ValueError(f"data.{name} must be at least 1, got {value}")
        self.benchmark_name, self.task_names = benchmark, tasks
        self.benchmark_settings = dict(settings or {})
        for name, chosen in (("order", order), ("instructions", instructions)):
            if chosen is not None:
                self.benchmark_settings[name] = chosen
        if tasks is not None and "order" in self.benchmark_settings:
            log.warning("data.order has no effect beside data.tasks, which is an order itself")
        self.batch_size, self.global_batch_size = batch_size, global_batch_size
        self.eval_batch_size, self.epochs, self.num_workers = eval_batch_size, epochs, num_workers
        self.isolated = isolated
        self.measured = Measured()
        self._encoder: Encoder | None = None
        self._answer_tokens: AnswerTokens | None = None
        self._hidden: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        self._sampler: TrainBatchSampler | None = None
        self._stage: Stage | None = None
        self._more: dict[int, dict[str, SampleSource]] = {}

    @cached_property
    def benchmark(self) -> Benchmark:
        """The benchmark, built at first use.

        Raises:
            ValueError: it is unknown or not as it should be.
        """
        return load_benchmark(self.benchmark_name, self.benchmark_settings, tasks=self.task_names)

    @cached_property
    def stream(self) -> tuple[Task, ...]:
        """The tasks to learn, in order.

        Raises:
            ValueError: a name in `tasks` is unknown, repeated, or has nothing to train on.
        """
        if self.task_names is None:
            if not self.benchmark.stream:
                fix = "has nothing to train on, its tasks are only tested (`test --benchmark`)"
                raise ValueError(f"data.benchmark: {self.benchmark.name!r} {fix}")
            return self.benchmark.stream
        every = {t.name: t for t in (*self.benchmark.stream, *self.benchmark.downstream)}
        for name in self.task_names:
            if name not in every:
                raise ValueError(f"data.tasks: {unknown('task', name, every)}")
            if every[name].train is None:
                raise ValueError(f"data.tasks: {name!r} has no training samples; it can only be tested")
        if len(set(self.task_names)) < len(self.task_names) or not self.task_names:
            raise ValueError(f"data.tasks must name different tasks, at least one; got {self.task_names}")
        return tuple(every[name] for name in self.task_names)

    @cached_property
    def downstream(self) -> tuple[Task, ...]:
        """Held-out tasks tested after the last stage, without training on them."""
        learned = {task.name for task in self.stream}
        return tuple(t for t in self.benchmark.downstream if t.name not in learned and not t.few_shot)

    def check(
        self,
        *,
        decode_images: bool = False,
        workers: int | None = None,
        on_progress: OnProgress | None = None,
        encoder: Encoder | None = None,
        list_all: bool = False,
    ) -> list[TaskReport]:
        """Check every record before anything is trained; see `check_benchmark`.

        Raises:
            BenchmarkError: something is wrong; lists it.
        """
        tested = dataclasses.replace(self.benchmark, stream=self.stream, downstream=self.downstream)
        reports = check_benchmark(
            tested,
            decode_images=decode_images,
            workers=workers,
            on_progress=on_progress,
            encoder=encoder,
            list_all=list_all,
        )
        require_clean(reports)
        return reports

    def attach(
        self,
        encoder: Encoder,
        *,
        hidden_in_training: frozenset[str] = frozenset(),
        hidden_at_test: frozenset[str] = frozenset(),
    ) -> None:
        """Give the encoder of the backbone that will read the batches.

        Args:
            encoder: The encoder.
            hidden_in_training: Fields of training samples that the method must not read.
            hidden_at_test: Fields of test samples that it must not read.
        """
        self._encoder = encoder
        self._answer_tokens = AnswerTokens(encoder, self.measured)
        self._hidden = (hidden_in_training, hidden_at_test)
        self._more = {}

    @property
    def encoder(self) -> Encoder:
        """The attached encoder."""
        if self._encoder is None:
            raise RuntimeError("attach(encoder) must run before batches are made")
        return self._encoder

    @property
    def answer_tokens(self) -> AnswerTokens:
        """The answer tokens of training rows, as the attached encoder counts them."""
        if self._answer_tokens is None:
            raise RuntimeError("attach(encoder) must run before answers are measured")
        return self._answer_tokens

    def stages(self, *, seed: int, joint: bool = False) -> tuple[Stage, ...]:
        """The stages of the stream; with `joint` a single one on the union of the tasks."""
        tasks = (joint_task(self.stream),) if joint else self.stream
        stages = []
        for number, task in enumerate(tasks, start=1):
            seen = self.stream if joint else self.stream[:number]
            assert task.train is not None
            stages.append(Stage(number, task, seed, self._num_steps(len(task.train)), seen))
        return tuple(stages)

    def _num_steps(self, num_rows: int) -> int:
        return self.epochs * -(-num_rows // self.step_size)

    def planned_steps(self, stage: Stage, further_rows: int) -> int:
        """Optimizer steps of a stage if so many rows were mixed into its training data."""
        if stage.task.train is None:
            return stage.num_steps
        return self._num_steps(len(stage.task.train) + further_rows)

    @property
    def step_size(self) -> int:
        """Samples of an optimizer step, over micro-batches and ranks."""
        return self.global_batch_size or self.batch_size * self._world_size

    def extend_stage(self, stage: Stage, name: str, rows: SampleSource) -> None:
        """Mix further rows into a stage's training data; before its loader is built, on every rank.

        They are shuffled, counted and drawn like the task's own, which come first in the split. Under a name
        that was given before, the rows replace the earlier ones.
        """
        self._more.setdefault(stage.number, {})[name] = rows

    def extended(self, stage: Stage) -> Stage:
        """The stage with the number of steps that further rows bring; its task stays as it is."""
        if not self._more.get(stage.number):
            return stage
        return dataclasses.replace(stage, num_steps=self._num_steps(len(self._training_source(stage))))

    def _training_source(self, stage: Stage) -> SampleSource:
        assert stage.task.train is not None
        more = tuple(self._more.get(stage.number, {}).values())
        return UnionSource((stage.task.train, *more)) if more else stage.task.train

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def begin_stage(self, stage: Stage) -> int:
        """Set up a stage's training data; returns the micro-batches per optimizer step."""
        rank = self.trainer.global_rank if self.trainer is not None else 0
        source = self._training_source(stage)
        self._stage = stage
        self._sampler = TrainBatchSampler(
            len(source),
            self.batch_size,
            self.step_size,
            seed=stage.seed,
            stage=stage.number,
            rank=rank,
            world_size=self._world_size,
            answer_tokens=partial(self._tokens_of, source),
        )
        return self._sampler.accumulate

    def _tokens_of(self, source: SampleSource, epoch: int) -> Tensor:
        return self.answer_tokens.of(source, epoch)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The current stage's micro-batches; Lightning calls `set_epoch` on its sampler.

        Every rank must call it at the same point: answers that no stage had before are measured.
        """
        assert self._stage is not None
        assert self._sampler is not None
        source = self._training_source(self._stage)
        self.answer_tokens.measure(source, self.epochs)
        builder = TrainBuilder(self.encoder, self._hidden[0])
        loader = self._loader(source, builder, self._sampler, StageLoader)
        assert isinstance(loader, StageLoader)
        loader.position = self._position
        return loader

    def _position(self) -> tuple[int, int]:
        assert self.trainer is not None
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def eval_plan(self, task: Task) -> EvalPlan:
        """How a task's test split is cut into whole batches of like length.

        Every rank must call it at the same point: lengths that are not known yet are measured.

        Raises:
            ValueError: a record is bad or longer than the backbone takes, or an image that decides how long
                it is cannot be read; names it.
        """
        source, encoder = task.test, self.encoder
        # The digest leaves out image files: whoever exchanges one finds an order that is only less good.
        lengths = self.measured.values(
            name_with_digest("prompt_tokens", source.digest(), encoder.digest()),
            lambda: encoder.prompt_lengths(source.sample(index) for index in range(len(source))),
        )
        return EvalPlan.of(lengths, self.eval_batch_size)

    def eval_loader(self, task: Task, sampler: EvalBatchSampler | None = None) -> DataLoader[Batch]:
        """The batches of a task's test split that a sampler asks for; by default all, see `eval_plan`."""
        sampler = sampler or EvalBatchSampler(self.eval_plan(task))
        return self._loader(task.test, EvalBuilder(self.encoder, self._hidden[1]), sampler)

    def _loader(
        self,
        source: SampleSource,
        build: Any,
        sampler: Any,
        family: type[BatchLoader] = BatchLoader,
    ) -> BatchLoader:
        return family(
            Batches(source, build, len(sampler)),
            # Not batch_sampler: the data set is asked for whole batches.
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=False,
            # A loader without one draws a seed from the global generator each time it is iterated over.
            generator=torch.Generator(),
        )
