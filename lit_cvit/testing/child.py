"""What the kit's processes do: fit a method, or load one, and write down what the tests ask about."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_cvit.adapters import RoutingContext, routing
from lit_cvit.cli.load import load_run
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.stream import trainer as stream_trainer
from lit_cvit.stream.trainer import ContinualTrainer
from lit_cvit.testing.job import Job

# A sample of each kind: two tasks that are learned, text alone, and a task that is not learned.
PICKS = (("ScienceQA", 0), ("GQA", 1), ("ScienceQA", 4), ("Flickr30k", 2), ("GQA", 3))


class Uses(dict[str, Tensor]):
    """Adds up over batches which blocks of which bank had a gate other than zero."""

    def __init__(self, total: dict[str, Tensor]) -> None:
        super().__init__()
        self.total = total

    def __setitem__(self, bank: str, gate: Tensor) -> None:
        now = (gate != 0).reshape(-1, gate.shape[-1]).any(0)
        before = self.total.get(bank, now)
        now[: len(before)] |= before
        self.total[bank] = now


class Probe(Callback):
    """Watches a fit: gradients, blocks in use, loss terms; and kills the process where it is asked to."""

    def __init__(self, kill_at: int | None) -> None:
        super().__init__()
        self.kill_at = kill_at
        self.first: dict[str, Tensor] = {}
        self.seen: set[str] = set()
        self.reached: set[str] = set()
        self.used: dict[str, Tensor] = {}
        self.terms: dict[str, bool] = {}
        self._watching = True

    def watch(self, method: ContinualMethod) -> None:
        """Have the blocks that training batches use written down."""
        real = method.context

        def traced(batch: Batch) -> RoutingContext:
            context = real(batch)
            if self._watching and batch.answer_mask is not None:
                context.trace = Uses(self.used)
            return context

        method.context = traced  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        grads = {n: p.grad for n, p in pl_module.named_parameters() if p.requires_grad and p.grad is not None}
        self.first = self.first or {name: grad.clone() for name, grad in grads.items()}
        self.seen |= grads.keys()
        self.reached |= {name for name, grad in grads.items() if bool(grad.any())}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ContinualMethod)
        assert isinstance(trainer, ContinualTrainer)
        # Terms about older tasks say something from the second stage on.
        if trainer.global_step < sum(stage.num_steps for stage in trainer.stages):
            return
        parameters = [p for p in pl_module.parameters() if p.requires_grad]
        # After the last step: what this pass routes to, no step has trained.
        self._watching = False
        with torch.enable_grad():
            terms = pl_module.terms(batch)
        for name, term in terms.items():
            grads: list[Tensor | None] = [None]
            if term.requires_grad:
                grads = list(torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True))
            moved = any(grad is not None and bool(grad.any()) for grad in grads)
            self.terms[name] = self.terms.get(name, False) or moved
        self._see_step_terms(pl_module, parameters)

    def _see_step_terms(self, method: ContinualMethod, parameters: list[nn.Parameter]) -> None:
        """The terms that the method adds to the gradients of a step: alone, they must leave something."""
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        method.on_gradients(method.trainer.global_step)
        moved = any(p.grad is not None and bool(p.grad.any()) for p in parameters)
        self.terms |= dict.fromkeys(method.take_step_terms(), moved)
        method.zero_grad()


def build(job: Job) -> tuple[ContinualMethod, ContinualDataModule, ContinualTrainer]:
    """The objects of a job's configuration."""
    # Children print to the test's terminal; what they have to say is in their files.
    warnings.simplefilter("ignore")
    path = job.root / f"{job.name}-{job.rank}.yaml"
    path.write_text(yaml.safe_dump(job.config), encoding="utf-8")
    arguments = ["--config", str(path), "--run_root", str(job.root), "--name", job.run]
    if job.ranks > 1:
        arguments += ["--trainer.devices", str(job.ranks), "--trainer.strategy", job.strategy]
    cli = StreamCLI(arguments, run=False)
    method, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(method, ContinualMethod)
    assert isinstance(data, ContinualDataModule)
    assert isinstance(trainer, ContinualTrainer)
    unwanted = {"StreamProgress"} if job.scored else {"StreamProgress", "StageEvaluation"}
    trainer.callbacks = [c for c in trainer.callbacks if type(c).__name__ not in unwanted]
    if not job.planned:
        stream_trainer.checked_plan = _no_plan
    return method, data, trainer


def _no_plan(*_: Any, **__: Any) -> list[str]:
    return []


def fit(job: Job) -> None:
    """Fit, and write down what the probe saw and what the method says to mixed samples."""
    method, data, trainer = build(job)
    probe = Probe(job.kill_at)
    probe.watch(method)
    trainer.callbacks.insert(0, probe)
    trainer.fit(method, datamodule=data, ckpt_path="last" if job.resume else None)
    if job.kill_at is not None and not method.trains:
        # Without steps there is none to be killed at; its finished run goes on all the same.
        os.kill(os.getpid(), signal.SIGKILL)
    method.eval()
    classes = {type(bank.base).__name__ for bank in method.banks.values() if bank.kind == "decoder"}
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    resting = [
        names[id(parameter)]
        for bank in method.banks.values()
        for index, block in enumerate(bank.lora_blocks())
        if bank.name in probe.used and not probe.used[bank.name][index]
        for parameter in block.parameters()
        if id(parameter) in names
    ]
    observed = {
        "path": str(trainer.run.path),
        "first": probe.first,
        "seen": sorted(probe.seen),
        "reached": sorted(probe.reached),
        "resting": resting,
        "terms": probe.terms,
        "classes": sorted(classes),
        "trains": method.trains,
        "held": _held(method),
        "frozen": method.backbone.digest_frozen(exclude=method.adapters.unfrozen),
        "unfrozen": method.adapters.unfrozen,
        "tensors": {name: tensor.detach().clone() for name, tensor in method.tensors().items()},
        "counts": method.parameter_counts(),
        "logits": logits(method, mixed_samples(data)),
    }
    if job.config["model"]["init_args"]["backbone"]["init_args"].get("quantization") == "nf4":
        observed["dequantised"] = _dequantised_logits(method, mixed_samples(data))
    torch.save(observed, job.observed)


def reload(job: Job) -> None:
    """Load a finished run and write down its logits."""
    warnings.simplefilter("ignore")
    loaded = load_run(job.root / job.run)
    torch.save({"logits": logits(loaded.method, mixed_samples(loaded.data))}, job.observed)


def load(job: Job) -> None:
    """Load a finished run and write down its logits, and its answers to a batch and to each sample alone."""
    warnings.simplefilter("ignore")
    loaded = load_run(job.root / job.run)
    method, samples = loaded.method, mixed_samples(loaded.data)
    observed: dict[str, Any] = {"logits": logits(method, samples)}
    # A few steps of training only teach silence; random adapters give answers that differ.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in method.tensors().items():
            if not method.banks or name.endswith(".B") or ".copies." in name:
                tensor.add_(torch.empty(tensor.shape).normal_(std=0.1, generator=generator).to(tensor))
    observed["together"] = _answers(method, samples)
    observed["alone"] = [_answers(method, [sample])[0] for sample in samples]
    torch.save(observed, job.observed)


def mixed_samples(data: ContinualDataModule) -> list[Sample]:
    """Two learned tasks, one of them with a sample without image, and one that was never learned."""
    tasks = {task.name: task for task in data.benchmark.stream}
    return [tasks[name].test.sample(index) for name, index in PICKS]


def logits(method: ContinualMethod, samples: list[Sample]) -> Tensor:
    """Logits at all answer tokens of a batch."""
    batch = method.backbone.encode(samples, with_answers=True)
    with torch.no_grad(), routing(method.context(batch)):
        return method.backbone.answer_logits(batch).logits


def _held(method: ContinualMethod) -> int:
    """Numbers of the frozen decoder layers that this process holds."""
    frozen = [p for p in method.backbone.decoder_layers.parameters() if not p.requires_grad]
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in frozen)


def _answers(method: ContinualMethod, samples: list[Sample]) -> list[str]:
    return method.generate(method.backbone.encode(samples, with_answers=False), max_new_tokens=10)


def _dequantised_logits(method: ContinualMethod, samples: list[Sample]) -> Tensor:
    """The logits with every 4-bit layer replaced by a plain one that holds the same values."""
    from bitsandbytes.functional import dequantize_4bit

    for module in list(method.backbone.modules()):
        for name, layer in list(module.named_children()):
            if type(layer).__name__ == "Linear4bit":
                assert isinstance(layer, nn.Linear)
                plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)  # type: ignore[attr-defined]
                plain.weight = nn.Parameter(weight.float(), requires_grad=False)
                if layer.bias is not None:
                    plain.bias = nn.Parameter(layer.bias.data.float(), requires_grad=False)
                setattr(module, name, plain)
    return logits(method, samples)
