"""Replay: rows of earlier tasks come back while a new one is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lit_cvit.adapters import routing
from lit_cvit.analysis.similarity import MeasuresSimilarity, require_similarities
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.memory import SubsetSource, cycled, memory_rows, recall_size, reservoir_rows, share
from lit_cvit.data.restricted import restrict_batch
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage, UnionSource
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.utils.settings import AtLeastOne, Positive

NAME = "replay"


@runtime_checkable
class ComparesGradients(Protocol):
    """A method that compares the gradient of a step with that of the memory.

    Attributes:
        memory_losses: Of an optimizer step of the stream, the losses on the rows of the memory that go with
            it, one for each of this rank's micro-batches of them; their sum over micro-batches and ranks is
            the mean token loss.
    """

    memory_losses: Callable[[int], Iterator[Tensor]] | None


class Replay(StageCallback):
    """Keeps some rows of every task and trains on them again in later stages.

    What: at a stage's end, positions of its task's rows are kept (`lit_cvit.data.memory`), never those of
    replayed rows. In later stages they come back in one of three forms. `rows` mixes them into the stage's
    data: the stage gets longer, and they count like any other row. `term` takes `batch_size` of them beside
    every optimizer step, and adds `weight` times their mean token loss as `loss/replay`, going through the
    memory again and again in new orders. `gradient` takes them likewise, and leaves it to the method what
    becomes of the gradient of their loss.

    When: with any method. `SeqLoRA` with the form `rows` is the baseline called Replay; ProgLoRA static takes
    `term`, sizes by `similarity`, amount 200 and weight 2; `AGEM`, and it alone, takes `gradient`.

    Caveats: the rows are read from the data of the run, so a run that starts from another one replays its own
    tasks alone. `term` and `gradient` cost a second forward pass per step, and encode its images in the main
    process. A method that keeps statistics of a task (HiDe's anchors) leaves replayed rows out of them. What
    is hidden from the method of a sample is hidden of replayed ones.

    Example::

        model:
          class_path: SeqLoRA
        trainer:
          callbacks:
          - class_path: Replay
            init_args: {form: rows, sizes: fixed, amount: 100}

    Args:
        form: `rows` in the stage's data, a loss `term` of their own, or a `gradient` for the method.
        keep: `per_task` keeps rows of each task, `reservoir` one memory of `amount` rows over all tasks.
        sizes: How many rows of an old task come back: `fixed` (`amount`), a `fraction` of the task's rows, or
            by `similarity`, (1 - w) * `amount`, for a method that measures it. A reservoir comes back whole.
        amount: Rows, or with `fraction` a share of the rows.
        weight: Factor of the loss term (lambda); no effect on the other forms.
        batch_size: Rows beside an optimizer step, over micro-batches and ranks; by default as many as the
            step has of the task's own. No effect on `rows`.

    Raises:
        ValueError: a setting is out of range, or settings do not go together.
    """

    def __init__(
        self,
        form: Literal["rows", "term", "gradient"] = "rows",
        keep: Literal["per_task", "reservoir"] = "per_task",
        sizes: Literal["fixed", "fraction", "similarity"] = "fixed",
        amount: Positive = 200,
        weight: float = 2.0,
        batch_size: AtLeastOne | None = None,
    ) -> None:
        super().__init__()
        if keep == "reservoir" and sizes != "fixed":
            raise ValueError(
                f"Replay.keep 'reservoir' comes back whole and needs sizes 'fixed', got {sizes!r}"
            )
        if sizes == "fraction" and amount > 1:
            raise ValueError(f"Replay.amount must be at most 1 with sizes 'fraction', got {amount}")
        if sizes != "fraction" and (amount < 1 or amount != int(amount)):
            raise ValueError(f"Replay.amount must be a whole number of rows, at least 1, got {amount}")
        self.form, self.keep, self.sizes, self.amount = form, keep, sizes, amount
        self.weight, self.batch_size = weight, batch_size
        self.memory: dict[str, list[int]] = {}
        self._source: UnionSource | None = None
        self._tokens: list[Tensor] = []
        self._data: ContinualDataModule | None = None

    @property
    def grants(self) -> tuple[str, ...]:
        return ("old_data",)

    # -- stages ---------------------------------------------------------------------------------------------

    def on_stream_start(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        if self.sizes == "similarity":
            require_similarities(method, option="Replay.sizes 'similarity'")
        compares = isinstance(method, ComparesGradients)
        if compares != (self.form == "gradient"):
            needed = (
                "form 'gradient'" if compares else "another form, or a method that compares gradients (AGEM)"
            )
            raise ValueError(f"Replay.form {self.form!r}: {type(method).__name__} needs {needed}")

    def on_stage_start(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._data = trainer.data
        parts = tuple(part for part in self.replayed(method, stage) if len(part))
        self._source = UnionSource(parts) if parts else None
        if self._source is None:
            return
        if self.form == "rows":
            trainer.data.extend_stage(stage, NAME, self._source)
        else:
            # Here, where every rank comes by: in a step a rank may have none of its rows.
            answers, epochs = trainer.data.answer_tokens, range(trainer.data.epochs)
            self._tokens = [answers.of(self._source, epoch) for epoch in epochs]
            if self.form == "term":
                method.add_loss_term(NAME, self._term)
            else:
                assert isinstance(method, ComparesGradients)
                method.memory_losses = partial(self._losses, method)

    def replayed(self, method: ContinualMethod, stage: Stage) -> list[SubsetSource]:
        """The rows of each earlier task that come back in a stage."""
        found = []
        for task in stage.seen:
            if task.name == stage.task.name or task.train is None or task.name not in self.memory:
                continue
            memory = self.memory[task.name]
            number = len(memory)
            if self.sizes == "similarity":
                assert isinstance(method, MeasuresSimilarity)
                similarity = method.similarities()[task.name]
                number = recall_size(number, sizes="similarity", amount=self.amount, similarity=similarity)
            found.append(SubsetSource(task.train, tuple(memory[:number])))
        return found

    def on_stage_end(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        seen = {task.name: len(task.train) for task in stage.seen if task.train is not None}
        if self.keep == "reservoir":
            self.memory = reservoir_rows(seen, int(self.amount), seed=stage.seed)
        elif stage.task.name in seen:
            rows = seen[stage.task.name]
            number = self._memory_size(rows)
            self.memory[stage.task.name] = memory_rows(rows, number, seed=stage.seed, task=stage.task.name)

    def _memory_size(self, rows: int) -> int:
        # By similarity no task ever needs more than the whole amount.
        sizes = "fixed" if self.sizes == "similarity" else self.sizes
        return recall_size(rows, sizes=sizes, amount=self.amount)

    def planned_rows(self, stage: Stage) -> int:
        if self.form != "rows":
            return 0
        earlier = [len(t.train) for t in stage.seen if t.name != stage.task.name and t.train is not None]
        if self.keep == "reservoir":
            return min(int(self.amount), sum(earlier))
        return sum(map(self._memory_size, earlier))

    # -- rows beside a step ---------------------------------------------------------------------------------

    def chosen(self, stage: Stage, step: int) -> list[int]:
        """Positions in the memory that an optimizer step replays, over micro-batches and ranks."""
        assert self._source is not None
        assert self._data is not None
        seed = mix(NAME, stage.seed, stage.number)
        return cycled(len(self._source), self.batch_size or self._data.step_size, step=step, seed=seed)

    def _term(self, method: ContinualMethod, batch: Batch, outputs: LossOutput) -> Tensor:
        """The mean token loss of the step's replayed rows, as much of it as this micro-batch has to give."""
        assert batch.place is not None
        place, trainer = batch.place, method.trainer
        part = trainer.global_rank * place.num_micro + place.micro
        found = self._part(method, place.step, part, trainer.world_size * place.num_micro)
        if found is None:
            return torch.zeros((), device=method.device)
        return method.share_of_step(*found, weight=self.weight)

    def _losses(self, method: ContinualMethod, step: int) -> Iterator[Tensor]:
        """See `ComparesGradients`; a micro-batch has at most `data.batch_size` rows."""
        assert self._data is not None
        assert method.stage is not None
        trainer, num_rows = method.trainer, len(self.chosen(method.stage, step))
        num_micro = -(-num_rows // (self._data.batch_size * trainer.world_size))
        for micro in range(num_micro):
            part = trainer.global_rank * num_micro + micro
            with trainer.precision_plugin.forward_context():
                found = self._part(method, step, part, trainer.world_size * num_micro)
            if found is not None:
                loss, tokens = found
                yield loss / tokens

    def _part(self, method: ContinualMethod, step: int, part: int, parts: int) -> tuple[Tensor, int] | None:
        """Part `part` of `parts` of the rows that go with a step.

        Returns:
            The sum of its token losses, and the answer tokens of all parts; None where it has no row. Where
            all ranks must make the same passes, a part without a row is zero times another's loss.
        """
        if self._source is None:
            return None
        assert self._data is not None
        assert method.stage is not None
        source, epoch = self._source, method.trainer.current_epoch
        chosen = self.chosen(method.stage, step)
        own = share(chosen, part, parts)
        weight = float(bool(own))
        if not own:
            if not method.backbone.same_passes_on_all_ranks:
                return None
            own = chosen[:1]
        tokens = int(self._tokens[epoch][chosen].sum())
        rows = [source.sample(row, epoch) for row in own]
        encoded = self._data.encoder.encode(rows, with_answers=True)
        replayed = restrict_batch(encoded, method.access.hidden(test=False)).to(method.device)
        with routing(method.context(replayed)):
            return weight * method.backbone.loss(replayed).loss_sum, tokens

    # -- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"memory": {task: list(rows) for task, rows in self.memory.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.memory = {task: list(rows) for task, rows in state_dict["memory"].items()}
