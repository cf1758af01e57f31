"""What adapters add to a training step: forward, backward and optimizer, beside the bare decoder and PEFT.

    python benchmarks/adapter_step.py [--rounds 15] [--json FILE]
    python benchmarks/adapter_step.py --device cuda --dtype bfloat16 --width 4096 --layers 32 --rank 128

The decoder is a Llama of random weights whose FFN is adapted; what is frozen is shared by all variants,
which take turns in every round (`rounds.py`). Each has the same total rank: one block, or eight of an eighth.
Before any time is taken the outputs are compared: PEFT's with ours, SMoLoRA's with a loop over its experts.
`saved` is what autograd keeps for the backward pass beyond the bare decoder, parameters not counted; `peak`
what a step takes at most beside weights and optimizer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from rounds import machine, on_device, options, peak_memory, ratio, saved_bytes, shown, take_turns, write_json
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from lit_cvit.adapters import LoRABank, RoutingContext, Target, hold_unrouted, routing
from lit_cvit.adapters.unrouted import held_groups
from lit_cvit.backbones import Tiny
from lit_cvit.methods import (
    LCIA,
    ContinualMethod,
    DoRA,
    HiDe,
    MoELoRA,
    OLoRA,
    ProgLoRADynamic,
    SeqLoRA,
    SMoLoRA,
)

BLOCKS = 8
LAYERS = ("gate_proj", "up_proj", "down_proj")


@dataclass
class Work:
    """The same work for every variant: a decoder, its inputs, and what its output is multiplied by."""

    decoder: LlamaModel
    inputs: Tensor
    cotangent: Tensor
    autocast: bool

    def linears(self) -> dict[str, nn.Linear]:
        return {
            f"layers.{number}.mlp.{name}": getattr(layer.mlp, name)
            for number, layer in enumerate(self.decoder.layers)
            for name in LAYERS
        }

    def run(self) -> Tensor:
        with torch.autocast(self.inputs.device.type, torch.bfloat16, enabled=self.autocast):
            return self.decoder(inputs_embeds=self.inputs, use_cache=False).last_hidden_state


@dataclass
class Variant:
    """Modules that stand in for the adapted layers, and what a step of them needs."""

    modules: dict[str, nn.Module]
    context: RoutingContext
    holds: bool = False

    def __post_init__(self) -> None:
        self.trained = [p for module in self.modules.values() for p in own_parameters(module)]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4) if self.trained else None
        banks = [module for module in self.modules.values() if isinstance(module, LoRABank)]
        self.groups = held_groups(banks) if self.holds else []


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


# -- variants ------------------------------------------------------------------------------------------------


def peft_layers(linears: dict[str, nn.Linear], rank: int, *, dora: bool = False) -> dict[str, nn.Module]:
    config = LoraConfig(r=rank, lora_alpha=2 * rank, use_dora=dora)
    made: dict[str, nn.Module] = {}
    for name, linear in linears.items():
        layer = PeftLinear(linear, "default", config=config, r=rank, lora_alpha=2 * rank)
        made[name] = layer.to(linear.weight.device)
    return made


def bank_layers(
    method: ContinualMethod, linears: dict[str, nn.Linear], ranks: Sequence[int], frozen: int
) -> Any:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, linear in linears.items():
        bank = method.make_bank(name, Target(name), linear).to(linear.weight.device)
        for number, rank in enumerate(ranks):
            bank.add_block(rank, generator, trainable=number >= frozen)
        with torch.no_grad():
            for block in bank.lora_blocks():
                block.B.copy_(torch.randn(block.B.shape, generator=generator) * 0.02)
        made[name] = bank
    return made


class Loop(nn.Module):
    """SMoLoRA's layer as a loop over its experts, each of full width: what published code does."""

    def __init__(self, bank: LoRABank) -> None:
        super().__init__()
        self.base, self.bank = [bank.base], bank

    def forward(self, x: Tensor) -> Tensor:
        bank, router = self.bank, self.bank.router
        context = RoutingContext(x.shape[0], facts=FACTS["facts"], prompt_mask=FACTS["mask"])
        y = self.base[0](x)
        mask = FACTS["mask"].unsqueeze(-1)
        mean = (x * mask).sum(1) / mask.sum(1)
        chosen = [(mean @ router.R_vu.T).argmax(-1), (context.fact("instruction") @ router.R_if.T).argmax(-1)]
        branches = []
        for branch, first in enumerate((0, router.num_vu)):
            total = torch.zeros_like(y)
            for number in range(router.num_vu):
                block = bank.block(first + number)
                part = bank.scaling * ((x @ block.A.T) @ block.B.T)
                total = total + part * (chosen[branch] == number).to(part.dtype)[:, None, None]
            branches.append(total)
        logits = torch.stack([branches[0] @ router.I_vu, branches[1] @ router.I_if], dim=-1)
        weights = logits.softmax(-1)
        return y + weights[..., :1] * branches[0] + weights[..., 1:] * branches[1]


FACTS: dict[str, Any] = {}


REFERENCES = ("bare", "peft LoRA", "LoRA")


def variants(work: Work, rank: int) -> dict[str, Variant]:
    """Every variant by name, the bare decoder first."""
    linears, samples = work.linears(), len(work.inputs)
    device, part = work.inputs.device, rank // BLOCKS
    one = {"rank": rank, "alpha": 2 * rank}
    eighth = {"rank": part, "alpha": 2 * part}
    per_sample = torch.softmax(torch.randn(samples, BLOCKS, generator=torch.Generator().manual_seed(1)), -1)
    newest = torch.zeros(samples, BLOCKS)
    newest[:, -1] = 1

    def of(
        method: ContinualMethod, ranks: Sequence[int], frozen: int, gate: Tensor | None, **more: Any
    ) -> Variant:
        gate = None if gate is None else gate.to(device)
        context = RoutingContext(samples, gate=gate, facts=FACTS["facts"], prompt_mask=FACTS["mask"])
        return Variant(bank_layers(method, linears, ranks, frozen), context, **more)

    none = RoutingContext(samples)
    smolora = of(SMoLoRA(Tiny(), **one), [part] * BLOCKS, 0, None, holds=True)
    pool = [part] * BLOCKS
    return {
        "bare": Variant({}, none),
        "peft LoRA": Variant(peft_layers(linears, rank), none),
        "LoRA": of(SeqLoRA(Tiny(), **one), [rank], 0, torch.ones(1)),
        "O-LoRA": of(OLoRA(Tiny(), **eighth), pool, BLOCKS - 1, torch.ones(BLOCKS)),
        "ProgLoRA": of(ProgLoRADynamic(Tiny(), **eighth, scaling=None), pool, BLOCKS - 1, per_sample),
        "HiDe": of(HiDe(Tiny(), **eighth), pool, BLOCKS - 1, newest),
        "LCIA": of(LCIA(Tiny(), **eighth), pool, BLOCKS - 1, newest),
        "MoELoRA": of(MoELoRA(Tiny(), **one), pool, 0, None),
        "SMoLoRA": smolora,
        "loop over experts": Variant(
            {name: Loop(bank) for name, bank in smolora.modules.items()}, smolora.context
        ),
        "peft DoRA": Variant(peft_layers(linears, rank, dora=True), none),
        "DoRA": of(DoRA(Tiny(), **one), [rank], 0, None),
    }


# -- measuring -----------------------------------------------------------------------------------------------


def put_in(work: Work, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        setattr(work.decoder.get_submodule(parent), leaf, module)


def step(work: Work, variant: Variant) -> Tensor:
    with routing(variant.context):
        out = work.run()
    (out * work.cotangent).sum().backward()
    if variant.groups:
        hold_unrouted(variant.groups)
    if variant.optimizer is not None:
        variant.optimizer.step()
        variant.optimizer.zero_grad(set_to_none=True)
    work.inputs.grad = None
    return out.detach()


def kept_bytes(work: Work, variant: Variant) -> int:
    """Bytes that autograd keeps for the backward pass."""
    with routing(variant.context):
        return saved_bytes(work.run, work.decoder)


def require_equal(work: Work, made: dict[str, Variant], originals: dict[str, nn.Module]) -> None:
    """Check that equal weights give equal outputs: PEFT's as ours, and a loop over experts as the mixture."""

    def output(name: str) -> Tensor:
        put_in(work, made[name].modules)
        with torch.no_grad(), routing(made[name].context):
            out = work.run()
        put_in(work, originals)
        return out

    def copy_from(theirs: str, ours: str, *, magnitude: bool = False) -> None:
        for name, layer in made[theirs].modules.items():
            block = made[ours].modules[name].block(0)
            layer.lora_A["default"].weight.data.copy_(block.A)
            layer.lora_B["default"].weight.data.copy_(block.B)
            if magnitude:
                layer.lora_magnitude_vector["default"].weight.data.copy_(block.m)

    copy_from("peft LoRA", "LoRA")
    if made.keys() >= {"peft DoRA", "DoRA"}:
        copy_from("peft DoRA", "DoRA", magnitude=True)
    bare = output("bare")
    pairs = (("peft LoRA", "LoRA"), ("peft DoRA", "DoRA"), ("loop over experts", "SMoLoRA"))
    for theirs, ours in (pair for pair in pairs if made.keys() >= set(pair)):
        found, expected = output(ours), output(theirs)
        apart, added = (found - expected).abs().max().item(), (expected - bare).abs().max().item()
        allowed = 0.1 if work.autocast else 1e-3
        assert apart <= allowed * added, f"{ours} and {theirs} are {apart} apart where adapters add {added}"


def measure(work: Work, made: dict[str, Variant], rounds: int) -> dict[str, dict[str, Any]]:
    originals: dict[str, nn.Module] = dict(work.linears())
    require_equal(work, made, originals)

    def within(name: str, run: Callable[[Work, Variant], Any]) -> Any:
        put_in(work, made[name].modules)
        found = run(work, made[name])
        put_in(work, originals)
        return found

    device = work.inputs.device.type
    saved = {name: within(name, kept_bytes) for name in made}
    peaks = {name: peak_memory(partial(within, name, step), device) for name in made}
    times = take_turns({name: partial(within, name, step) for name in made}, rounds, device)
    return {
        name: {
            "seconds": times[name],
            "over": {base: ratio(times, name, base) for base in REFERENCES},
            "saved": saved[name] - saved["bare"],
            "peak": peaks[name],
        }
        for name in made
    }


def make_work(args: argparse.Namespace) -> Work:
    config = LlamaConfig(
        hidden_size=args.width,
        intermediate_size=round(args.width * 11008 / 4096),
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 128,
        num_key_value_heads=args.width // 128,
        vocab_size=8,
        initializer_range=0.02,
    )
    torch.manual_seed(0)
    with torch.device(args.device):
        decoder = LlamaModel(config).to(getattr(torch, args.dtype)).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    shape = (args.batch, args.length, args.width)
    inputs = torch.randn(shape, generator=generator).to(args.device, getattr(torch, args.dtype))
    cotangent = torch.randn(shape, generator=generator).to(args.device)
    mask = torch.ones(args.batch, args.length, dtype=torch.bool)
    mask[:, -args.length // 8 :] = False  # the answer
    instruction = torch.randn(args.batch, 384, generator=generator)
    FACTS.update(facts={"instruction": instruction.to(args.device)}, mask=mask.to(args.device))
    # The projector trains below the decoder, so the gradient goes through to its inputs.
    return Work(decoder, inputs.requires_grad_(), cotangent, autocast=args.dtype == "bfloat16")


def main() -> None:
    """Compare, measure, print."""
    parser = on_device(options(__doc__))
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=[], help="variants beside the bare decoder and LoRA")
    args = parser.parse_args()
    work = make_work(args)
    chosen = {*REFERENCES, *args.only}
    made = {
        name: variant
        for name, variant in variants(work, args.rank).items()
        if name in chosen or not args.only
    }
    print(machine())
    found = measure(work, made, args.rounds)
    print(f"{'':18}  {'x bare (quartiles)':21}  {'x LoRA (quartiles)':21}  x peft  saved (MiB)  peak (MiB)")
    for name, figures in found.items():
        over = figures["over"]
        columns = [f"{shown(over[base]):21}" for base in ("bare", "LoRA")]
        sizes = f"{figures['saved'] / 2**20:11.1f}  {figures['peak'] / 2**20:10.1f}"
        print(f"{name:18}  {'  '.join(columns)}  {over['peft LoRA'][1]:6.3f}  {sizes}")
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
