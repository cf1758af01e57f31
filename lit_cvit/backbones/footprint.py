"""How much memory a backbone takes, from its config alone: weights by part, and what a decoder layer keeps.

No weights are read. The model is built on torch's `meta` device, and one of its decoder layers is run on fake
tensors, which have shapes and types but no numbers (PyTorch's documentation, "Fake tensor"). So the counts
come from the code that trains, also where it differs between families.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lit_cvit.backbones import loading, parts
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.parts import LinearTarget

# Of bitsandbytes: a scale for every 64 weights, and for every 256 scales a scale of scales.
_NF4_BLOCK, _NF4_NESTED = 64, 256
# Per layer: the 16 values of nf4 and the 256 of the scales, and the scales' mean, all float32.
_NF4_TABLES = 4 * (16 + 256 + 1)


class Outline(NamedTuple):
    """A model without weights.

    Attributes:
        network: The transformers model on the `meta` device, frozen, in the types that `load` gives.
        linears: Its linear layers, by group and canonical name.
    """

    network: Any
    linears: dict[str, dict[str, LinearTarget]]


class DecoderCost(NamedTuple):
    """What a decoder holds for a batch, in bytes.

    Attributes:
        num_layers: Layers of the decoder.
        positions: Samples times tokens of the batch.
        layer: What one layer keeps for the backward pass, beside weights.
        layer_input: The input of one layer, all that is kept with activation checkpointing.
        around: What the rest of the decoder keeps.
        cache: Keys and values of one layer.
    """

    num_layers: int
    positions: int
    layer: int
    layer_input: int
    around: int
    cache: int


def outline(backbone: Backbone) -> Outline:
    """Build a backbone's model without its weights.

    Raises:
        ValueError: there is no such model, or a setting has an unknown value.
    """
    network = loading.empty_model(
        backbone.config, dtype=backbone.dtype, trust_remote_code=backbone.trust_remote_code
    )
    linears = parts.find_linears(
        network,
        layers_path=f"{backbone.decoder_path}.layers",
        projector_path=backbone.projector_path,
        groups=backbone.linear_groups,
    )
    return Outline(network, linears)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, also of those without numbers; a tensor that comes twice counts once."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def weight_bytes(backbone: Backbone, network: nn.Module) -> dict[str, int]:
    """Bytes of the loaded weights and buffers by part of the model, as `quantization` stores them.

    Args:
        backbone: Its settings.
        network: Its outline, without adapters.

    Returns:
        `vision tower`, `projector`, `decoder`, `output head`, and `other` if there is anything else.
    """
    paths = {
        "vision tower": backbone.vision_path,
        "projector": backbone.projector_path,
        "decoder": backbone.decoder_path,
        "output head": backbone.head_path,
    }
    found = dict.fromkeys((*paths, "other"), 0)
    # In some families the projector is a part of the vision tower.
    inner_first = sorted(paths.items(), key=lambda item: len(item[1]), reverse=True)
    seen: set[int] = set()
    for path, module in network.named_modules():
        part = next((name for name, start in inner_first if _within(path, start)), "other")
        for name, tensor in _own_tensors(module):
            # An output head may be the decoder's embeddings once more.
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            packed = isinstance(module, nn.Linear) and name == "weight" and part in ("decoder", "other")
            found[part] += packed_bytes(tensor, backbone.quantization if packed else "none")
    return {part: size for part, size in found.items() if size or part != "other"}


def layer_bytes(backbone: Backbone, network: nn.Module) -> list[int]:
    """Bytes of the weights of each decoder layer, not quantised.

    Args:
        backbone: Its settings.
        network: Its outline, without adapters.
    """
    layers = network.get_submodule(backbone.decoder_path).get_submodule("layers")
    return [tensor_bytes(layer.parameters()) for layer in layers.children()]


def packed_bytes(weight: Tensor, quantization: loading.Quantization) -> int:
    """Bytes of a weight (out, in) as bitsandbytes stores it, its scales and tables included."""
    number = weight.numel()
    if quantization == "nf4":
        scales = -(-number // _NF4_BLOCK)
        return -(-number // 2) + scales + 4 * -(-scales // _NF4_NESTED) + _NF4_TABLES
    if quantization == "int8":
        return number + 4 * weight.shape[0]
    return number * weight.element_size()


def decoder_cost(
    backbone: Backbone, network: nn.Module, *, samples: int, tokens: int, autocast: torch.dtype | None
) -> DecoderCost:
    """Run the first decoder layer on fake tensors and count what autograd keeps; the others are like it.

    Args:
        backbone: Its settings.
        network: Its outline, with adapters that need no routing context; it is left with one decoder layer.
        samples: Sequences of the batch.
        tokens: Positions of each.
        autocast: Type of mixed precision, or None.
    """
    decoder = network.get_submodule(backbone.decoder_path)
    layers = decoder.get_submodule("layers")
    assert isinstance(layers, nn.ModuleList)
    decoder.layers = layers[:1]
    mixed = torch.autocast("cpu", dtype=autocast) if autocast else contextlib.nullcontext()
    # The weights that become fake ones are none yet.
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder.to_empty(device="cpu")
        dtype = loading.torch_dtype(backbone.dtype)
        # It needs a gradient as the output of the layer before it does.
        hidden = torch.empty(samples, tokens, backbone.hidden_size, dtype=dtype, requires_grad=True)
        counter = _Kept(decoder)
        with mixed, counter.counting(layers[0]):
            decoder(inputs_embeds=hidden, use_cache=False)
        with mixed, torch.no_grad():
            cache = decoder(inputs_embeds=hidden, use_cache=True).past_key_values
        pairs = tensor_bytes([cache.layers[0].keys, cache.layers[0].values])
    return DecoderCost(
        num_layers=len(layers),
        positions=samples * tokens,
        layer=counter.inside,
        layer_input=tensor_bytes([hidden]),
        around=counter.outside,
        cache=pairs,
    )


class _Kept:
    """Counts the memory that autograd keeps beside a module's own tensors, inside a layer and outside."""

    def __init__(self, module: nn.Module) -> None:
        self.inside, self.outside, self._in_layer = 0, 0, False
        # Storages are held, so that none is counted as another one that took its place.
        tensors = (*module.parameters(), *module.buffers())
        self._seen = {each._cdata: each for each in (t.untyped_storage() for t in tensors)}

    @contextlib.contextmanager
    def counting(self, layer: nn.Module) -> Iterator[None]:
        """Count what is kept while this lasts."""
        handles = [
            layer.register_forward_pre_hook(lambda *_: setattr(self, "_in_layer", True)),
            layer.register_forward_hook(lambda *_: setattr(self, "_in_layer", False)),
        ]
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield
        for handle in handles:
            handle.remove()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            size = storage.nbytes()
            if self._in_layer:
                self.inside += size
            else:
                self.outside += size
        return tensor


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _within(path: str, start: str) -> bool:
    return path == start or path.startswith(f"{start}.")
