"""The backbone: one uniform face for pre-trained multimodal models of every family.

A family adds what differs (chat format, image tokens, where the projector is); everything else is here, and
in `files`, which needs no weights.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Self

import torch
import transformers
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from lit_cvit.backbones import agreement, loading, parts
from lit_cvit.backbones.files import ModelFiles
from lit_cvit.backbones.greedy import RowsKept, greedy_search
from lit_cvit.backbones.outputs import AnswerLogits, AnswerStates, LossOutput
from lit_cvit.backbones.parts import LinearTarget
from lit_cvit.backbones.shards import Shards
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.utils.suggest import unknown

ContextFunction = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]


class Backbone(ModelFiles, nn.Module):
    """A pre-trained multimodal model, frozen; what trains is added to it from outside.

    The constructor only stores settings. `encoder` (and so `prompt`, `encode`, lengths) reads the tokenizer
    and the image processor when first used; `load` reads the weights. The frozen model has no dropout, in
    training mode neither: its dropout rates are set to 0 on loading.

    Args:
        name_or_path: Model folder, or hub name; a hub name is taken from the cache, or else downloaded.
        quantization: Storage of the decoder's linear layers; the vision tower, the projector and the output
            head are never quantised.
        dtype: Type of the weights that are not quantised, and of computation.
        trust_remote_code: Run code that comes with the model.
        image_aspect: `pad` images to a square with the mean colour, or `crop` as the image processor does,
            which families of dynamic resolution do not.
        max_length: Longest sequence in tokens, the image's included; a longer sample is an error.
        activation_checkpointing: Keep only the input of every decoder layer for the backward pass and compute
            the rest again: a third more time for a fraction of the memory. Gradients stay the same.
    """

    # Where the model lies; its files have a digest. Too long a sample is an error, never another answer.
    free_settings = ("name_or_path", "trust_remote_code", "max_length", "activation_checkpointing")
    vision_path: ClassVar[str] = "model.vision_tower"
    projector_path: ClassVar[str] = "model.multi_modal_projector"
    decoder_path: ClassVar[str] = "model.language_model"
    head_path: ClassVar[str] = "lm_head"
    version: int = 0
    linear_groups: ClassVar[dict[str, str]] = {"ffn": "mlp.", "attention": "self_attn."}

    def __init__(
        self,
        name_or_path: str,
        quantization: Literal["none", "nf4", "int8"] = "none",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        trust_remote_code: bool = False,
        image_aspect: Literal["pad", "crop"] = "pad",
        max_length: int = 2048,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.name_or_path, self.trust_remote_code = name_or_path, trust_remote_code
        self.quantization, self.dtype = quantization, dtype
        self.image_aspect, self.max_length = image_aspect, max_length
        self.activation_checkpointing = activation_checkpointing
        self._network: Any = None
        self.shards: Shards | None = None
        self._base_modules: list[tuple[str, nn.Module]] = []
        self._linears: dict[str, dict[str, LinearTarget]] = {}

    # -- what a family says ---------------------------------------------------------------------------------

    @abstractmethod
    def image_features(self, batch: Batch) -> Tensor:
        """Mean-pooled features of the frozen vision tower: (I, d), without gradient; I may be 0."""

    def row_maps(self, batch: Batch) -> dict[str, Tensor]:
        """The (rows,) sample index of each row that a kind of module sees, for kinds other than the decoder.

        A family whose projector sees several rows for an image (tiles, patches) overrides this.
        """
        return {"projector": batch.image_rows}

    def positions(self, inputs: dict[str, Tensor]) -> Tensor:
        """Position ids of the decoder, for padding on either side.

        Models count positions from the left edge by default; with left padding that would shift them.

        Args:
            inputs: The model's inputs of a batch, S samples of L positions.

        Returns:
            (S, L), or what else the family's decoder takes.
        """
        return (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., d); a family that scales its logits overrides this."""
        return self.model.get_output_embeddings()(hidden)

    # -- loading and parts ----------------------------------------------------------------------------------

    def load(self) -> Self:
        """Read the weights, frozen; a second call does nothing.

        Raises:
            ValueError: no such model, or not all of its weights, or a setting has an unknown value.
        """
        if self._network is not None:
            return self
        network = loading.load_model(
            self.locate()[0],
            self.config,
            quantization=self.quantization,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            full_precision=(self.vision_path, self.projector_path, self.head_path),
        )
        rows = network.get_input_embeddings().num_embeddings
        agreement.require_embeddings(self.name_or_path, self.tokenizer, rows)
        # Kept by identity: adapters wrap layers later, which moves the paths but not the modules.
        self._base_modules = list(network.named_modules())
        self._linears = parts.find_linears(
            network,
            layers_path=f"{self.decoder_path}.layers",
            projector_path=self.projector_path,
            groups=self.linear_groups,
        )
        self._network = network
        return self

    @property
    def model(self) -> Any:
        """The transformers model.

        Raises:
            RuntimeError: `load` was not called.
        """
        if self._network is None:
            raise RuntimeError(f"{type(self).__name__}.load() must run before the model is used")
        return self._network

    @property
    def vision_tower(self) -> nn.Module:
        """The image encoder."""
        return self.model.get_submodule(self.vision_path)

    @property
    def projector(self) -> nn.Module:
        """What maps image features into the decoder's space."""
        return self.model.get_submodule(self.projector_path)

    @property
    def language_model(self) -> nn.Module:
        """The decoder, without its output head."""
        return self.model.get_submodule(self.decoder_path)

    @property
    def language_paths(self) -> dict[str, str]:
        """Paths of what trains in full fine-tuning beside the projector, by names of our own."""
        return {"decoder": self.decoder_path, "head": self.head_path}

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The decoder's layers, from input to output."""
        layers = self.language_model.get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        return layers

    def linear_targets(self, groups: Collection[str]) -> dict[str, LinearTarget]:
        """Linear layers of the unadapted model, by names of our own that do not change with transformers.

        Args:
            groups: Any of `ffn`, `attention` (of every decoder layer) and `projector`.

        Returns:
            Canonical name (`decoder.0.mlp.gate_proj`, `projector.linear_1`) to target, in model order.

        Raises:
            ValueError: an unknown group; names the nearest.
        """
        for group in groups:
            if group not in (known := [*self.linear_groups, "projector"]):
                raise ValueError(unknown("group of layers", group, known))
        assert self.model is not None
        chosen = {name for group in groups for name in self._linears[group]}
        return {n: t for targets in self._linears.values() for n, t in targets.items() if n in chosen}

    # -- samples and batches --------------------------------------------------------------------------------

    def prompt(self, sample: Sample) -> str:
        """The generation prompt (see `SampleEncoder.prompt`)."""
        return self.encoder.prompt(sample)

    def encode(self, samples: Sequence[Sample], *, with_answers: bool, indices: Sequence[int] = ()) -> Batch:
        """A batch to train on or to generate from (see `SampleEncoder.encode`)."""
        return self.encoder.encode(samples, with_answers=with_answers, indices=indices)

    def prompt_length(self, sample: Sample) -> int:
        """Tokens of the generation prompt (see `SampleEncoder.prompt_length`)."""
        return self.encoder.prompt_length(sample)

    def num_answer_tokens(self, sample: Sample) -> int:
        """Tokens that the loss counts (see `SampleEncoder.num_answer_tokens`)."""
        return self.encoder.num_answer_tokens(sample)

    def checkpoint_activations(self, context_fn: ContextFunction) -> None:
        """Recompute the decoder's layers in backward passes, if so configured; a second call does no harm.

        Args:
            context_fn: Makes the contexts of a layer's forward and of its recomputation, as
                `torch.utils.checkpoint` takes it; what layers read from outside must be captured there.
        """
        if not self.activation_checkpointing:
            return
        settings = {"use_reentrant": False, "context_fn": context_fn}
        self.model.get_submodule(self.decoder_path).activation_checkpointing_enable(settings)
        # A layer recomputes only in training mode: its own flag alone, the parts below stay as loaded.
        for layer in self.decoder_layers:
            layer.training = True

    # -- several ranks --------------------------------------------------------------------------------------

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide what was loaded of the decoder's layers among the ranks of a mesh; see `shards`.

        What was or will be added to the layers stays whole. Embeddings, output head, projector and vision
        tower do too.
        """
        loaded = {id(p) for _, module in self._base_modules for p in module.parameters(recurse=False)}
        self.shards = Shards(self.language_model, list(self.decoder_layers), loaded, mesh)

    @property
    def same_passes_on_all_ranks(self) -> bool:
        """Whether all ranks must make the same passes outside of `in_lockstep`.

        Then one without work makes a pass that counts for nothing.
        """
        return self.shards is not None

    def in_lockstep(self) -> AbstractContextManager[None]:
        """Around passes of which the ranks may make different numbers; all must enter it at the same point.

        Nothing else may be communicated inside. Without shards it does nothing.
        """
        return contextlib.nullcontext() if self.shards is None else self.shards.in_lockstep()

    # -- forward passes -------------------------------------------------------------------------------------

    def forward_hidden(self, batch: Batch) -> Tensor:
        """Hidden states (S, L, d) before the output head; padding may be on either side."""
        inputs = self._model_inputs(batch)
        positions = self.positions(inputs)
        return self.model.base_model(**inputs, position_ids=positions, use_cache=False).last_hidden_state

    def answer_states(self, batch: Batch, hidden: Tensor | None = None) -> AnswerStates:
        """Hidden states at the positions that predict answer tokens; the head makes their logits.

        Args:
            batch: A batch with answers.
            hidden: Its hidden states, where they are known already.

        Raises:
            ValueError: the batch was encoded without answers.
        """
        if batch.answer_mask is None:
            raise ValueError("the loss needs a batch encoded with_answers=True, got one without answers")
        hidden = self.forward_hidden(batch) if hidden is None else hidden
        rows, columns = batch.answer_mask.nonzero(as_tuple=True)
        return AnswerStates(hidden[rows, columns - 1], batch.inputs["input_ids"][rows, columns], rows)

    def answer_logits(self, batch: Batch, hidden: Tensor | None = None) -> AnswerLogits:
        """Logits at the positions that predict answer tokens, and nowhere else.

        Arguments and errors as in `answer_states`.
        """
        states, labels, rows = self.answer_states(batch, hidden)
        return AnswerLogits(self.head(states).float(), labels, rows)

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> LossOutput:
        """Cross entropy over the answer tokens, in float32; equal to the loss over all logits.

        Raises:
            ValueError: the batch was encoded without answers.
        """
        states, labels, _ = self.answer_states(batch, hidden)
        losses = functional.cross_entropy(self.head(states).float(), labels, reduction="none")
        return LossOutput(loss_sum=losses.sum(), num_tokens=len(labels), states=states)

    @torch.no_grad()
    def generate(self, batch: Batch, *, max_new_tokens: int, on_drop: RowsKept | None = None) -> list[str]:
        """Answer greedily; stops at the end token. Put the module in evaluation mode first.

        Decoding depends on nothing but the weights and the batch: the folder's own defaults are ignored.
        Samples whose answers have ended leave the batch while the others go on.

        Args:
            batch: A batch without answers.
            max_new_tokens: The most tokens of an answer, its end token included.
            on_drop: Called when samples leave, with the (rows,) places of those that stay among the last
                ones; what layers read from outside must be narrowed to these before the next step.

        Returns:
            One text per sample, without special tokens and outer white space.

        Raises:
            ValueError: the batch was encoded with answers.
        """
        if batch.answer_mask is not None:
            raise ValueError("generate needs a batch encoded with_answers=False, got one with answers")
        settings = transformers.GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=self.encoder.end_id,
            pad_token_id=self.encoder.pad_id,
        )
        tokens = self.model.generate(
            **self._model_inputs(batch),
            generation_config=settings,
            custom_generate=greedy_search,
            on_drop=on_drop,
        )
        return self.encoder.decode(tokens[:, batch.inputs["input_ids"].shape[1] :])

    # -- records --------------------------------------------------------------------------------------------

    def digest_frozen(self, exclude: Iterable[str] = ()) -> str:
        """SHA-256 over the bytes of every frozen parameter and buffer that was loaded, quantised or not.

        Adapters are not part of it, wherever they were added. Of a decoder in shards it is over this rank's.
        A parameter that trains (`requires_grad`) is left out, so compare two digests only under the same
        flags or with the same `exclude`.

        Args:
            exclude: Paths of modules to leave out with all below them, for example `projector_path`.
        """
        assert self.model is not None
        return parts.digest(self._base_modules, exclude=tuple(exclude))

    # -- inside ---------------------------------------------------------------------------------------------

    def _model_inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = dict(batch.inputs)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(loading.torch_dtype(self.dtype))
        return inputs
