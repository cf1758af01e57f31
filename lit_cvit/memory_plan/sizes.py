"""How large every line of the plan is; docs/memory.md has it in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from lit_cvit.backbones import footprint
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.footprint import DecoderCost, tensor_bytes
from lit_cvit.backbones.loading import torch_dtype
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Sample, SampleSource, Task
from lit_cvit.memory_plan.adapters import Adapters, asking, grown, growth
from lit_cvit.memory_plan.plan import MemoryPlan, Row
from lit_cvit.methods.base import ContinualMethod

_SAMPLES = 32
# Of a decoder in shards: the layer that runs, the next one, and the buffer that the next is received in.
_GATHERED = 3
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def plan_memory(
    method: ContinualMethod,
    data: ContinualDataModule,
    stages: Sequence[Stage],
    *,
    precision: str,
    world_size: int = 1,
    shards: int = 1,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> MemoryPlan:
    """Plan the memory of a run.

    Args:
        method: The method as configured; its backbone need not be loaded.
        data: Its data, with the backbone's encoder attached.
        stages: The stages to come.
        precision: The trainer's.
        world_size: Ranks.
        shards: Ranks that the decoder's layers are divided among.
        earlier: Plans of the stages of a run that this one starts from.

    Raises:
        Unplannable: a part of the method does not work before its model is loaded.
        ValueError: there is no such model, or a sample is longer than the backbone takes.
    """
    backbone = method.backbone
    plans = [*earlier, *growth(method, stages, len(earlier))]
    built = footprint.outline(backbone)
    weights = footprint.weight_bytes(backbone, built.network)
    layers = footprint.layer_bytes(backbone, built.network)
    weights["decoder"] -= sum(layers) - sum(-(-layer // shards) for layer in layers)
    packable = [target.path for group in backbone.linear_groups for target in built.linears[group].values()]
    largest = max(built.network.get_submodule(path).weight.numel() for path in packable)
    adapters = grown(method, built, plans)
    lengths = look(data)
    mixed = _AUTOCAST.get(precision)
    with asking(method, "bank"):
        cost = footprint.decoder_cost(
            backbone, built.network, samples=data.batch_size, tokens=lengths.training, autocast=mixed
        )
    # A router keeps what it mixes and its weights, in the type of the blocks.
    routed = 2 * adapters.routed_ranks * cost.positions * (mixed or torch.float32).itemsize
    cost = cost._replace(layer=cost.layer + routed // cost.num_layers)
    gathered = _GATHERED * max(layers) if shards > 1 else 0
    sizes = _Sizes(method, data, lengths, cost, adapters, largest, world_size, gathered)
    held = [Row(part, size, _stored(backbone, part, shards)) for part, size in weights.items()]
    if adapters.tensors:
        how = f"{adapters.num_banks} banks, projector {method.projector}, after stage {adapters.num_stages}"
        held.append(Row("adapters", tensor_bytes(adapters.tensors), how))
    return MemoryPlan(
        held=tuple(held),
        training=sizes.training() if method.trains else (),
        answering=sizes.answering(),
    )


class Lengths(NamedTuple):
    """Lengths of the samples that were measured, in tokens.

    Attributes:
        num_measured: Number of samples.
        training: Longest training sample.
        answer: Longest training answer.
        prompt: Longest test prompt.
        answering: Longest test prompt with all that may be answered to it.
    """

    num_measured: int
    training: int
    answer: int
    prompt: int
    answering: int


def look(data: ContinualDataModule) -> Lengths:
    """Measure up to 32 samples, evenly spaced, of every split that the run reads.

    Raises:
        ValueError: a record is bad, or longer than the backbone takes.
    """
    encoder = data.encoder
    train = [sample for task in data.stream for sample in _some(task.train)]
    answers = [encoder.num_answer_tokens(sample) for sample in train]
    lengths = [encoder.prompt_length(sample) + own for sample, own in zip(train, answers, strict=True)]
    tested: list[tuple[Task, Sample]] = [
        (task, sample) for task in (*data.stream, *data.downstream) for sample in _some(task.test)
    ]
    prompts = [encoder.prompt_length(sample) for _, sample in tested]
    return Lengths(
        num_measured=len(train) + len(tested),
        training=max(lengths),
        answer=max(answers),
        prompt=max(prompts),
        answering=max(own + task.decoding_budget for own, (task, _) in zip(prompts, tested, strict=True)),
    )


@dataclass(frozen=True)
class _Sizes:
    """The lines of both phases."""

    method: ContinualMethod
    data: ContinualDataModule
    lengths: Lengths
    cost: DecoderCost
    adapters: Adapters
    largest: int
    world_size: int
    gathered: int

    @property
    def width(self) -> int:
        """Bytes of a number in computation."""
        return torch_dtype(self.method.backbone.dtype).itemsize

    def training(self) -> tuple[Row, ...]:
        trained, samples, longest = self.adapters.trained, self.data.batch_size, self.lengths.training
        size = tensor_bytes(trained)
        rows = [
            Row("gradients", size, f"of {sum(t.numel() for t in trained):,} trained parameters"),
            Row(
                "optimizer", 2 * size + 4 * len(trained), "AdamW: two moments of each, and a step per tensor"
            ),
        ]
        if copies := self.method.training_copies:
            how = f"{copies} float32 {'copy' if copies == 1 else 'copies'} of what trains, of the method"
            rows.append(Row("method's copies", 4 * copies * sum(t.numel() for t in trained), how))
        if self.world_size > 1:
            rows.append(Row("DDP buckets", size, "gradients once more, to be averaged"))
        answers = samples * self.lengths.answer
        vocabulary = self.method.backbone.config.get_text_config().vocab_size
        return (
            *rows,
            Row("activations", *self._activations(samples, longest)),
            Row(
                "logits",
                answers * vocabulary * (2 * self.width + 3 * 4),
                f"at {samples} x {self.lengths.answer} answer tokens, {vocabulary:,} each: as given, in "
                "float32, softmax, gradients",
            ),
            *self._working(samples * longest),
        )

    def answering(self) -> tuple[Row, ...]:
        tested = (*self.data.stream, *self.data.downstream)
        samples = min(self.data.eval_batch_size, max(len(task.test) for task in tested))
        longest, cost, trained = self.lengths.answering, self.cost, self.adapters.trained
        keys = cost.num_layers * cost.cache * samples * longest // cost.positions
        left = [Row("gradients left", tensor_bytes(trained), "of the last step")] if trained else []
        return (
            *left,
            Row("keys and values", keys, f"of {cost.num_layers} layers, {samples} x {longest} tokens"),
            *self._working(samples * self.lengths.prompt),
        )

    def _activations(self, samples: int, longest: int) -> tuple[int, str]:
        cost, layers = self.cost, self.cost.num_layers
        activations = layers * cost.layer
        how = f"what autograd keeps of {layers} layers"
        if self.method.backbone.activation_checkpointing:
            activations = layers * cost.layer_input + cost.layer
            how = f"inputs of {layers} layers, and what autograd keeps of one"
        image = self.method.backbone.num_image_tokens
        # Where its size decides, an image has at most as many tokens as the sample.
        projected = min(longest, image) if isinstance(image, int) else longest
        projector = samples * projected * self.adapters.in_projector * self.width
        seen = f"{samples} x {longest} tokens, the longest of {self.lengths.num_measured} samples measured"
        return activations + cost.around + projector, f"{how}; {seen}"

    def _working(self, positions: int) -> list[Row]:
        backbone, size = self.method.backbone, self.cost.layer * positions // self.cost.positions
        how = "passed through, an estimate: as much as autograd keeps of one layer"
        if backbone.quantization != "none":
            size += self.largest * self.width
            how += ", and the largest weight unpacked"
        rows = [Row("working space", size, how, estimated=True)]
        if self.gathered:
            how = f"an estimate: {_GATHERED} layers, of one, of the next, and as the ranks' parts arrive"
            rows.append(Row("gathered layers", self.gathered, how, estimated=True))
        return rows


def _some(source: SampleSource | None) -> list[Sample]:
    return [source.sample(row) for row in evenly_spaced(len(source), _SAMPLES)] if source else []


def _stored(backbone: Backbone, part: str, shards: int) -> str:
    if shards > 1 and part == "decoder":
        return f"{backbone.dtype}, its layers divided among {shards} ranks"
    packed = backbone.quantization != "none" and part in ("decoder", "other")
    return f"linear layers {backbone.quantization}, else {backbone.dtype}" if packed else backbone.dtype
