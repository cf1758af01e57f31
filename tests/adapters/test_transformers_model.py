"""Banks inside a transformers decoder: its own checkpointing and its own generation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lit_cvit.adapters import (
    LoRABank,
    RoutingContext,
    Target,
    checkpoint_context_fn,
    inject,
    joined,
    routing,
)
from lit_cvit.methods.smolora.router import DualRouter

LENGTH, NEW, E = 7, 6, 8


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)

    def make_bank(name: str, target: Target, base: nn.Linear) -> LoRABank:
        sizes = (base.in_features, base.out_features)
        router = DualRouter(*sizes, num_vu=2, num_if=2, instruction_size=E, generator=generator, top_k=2)
        bank = LoRABank(base, name, kind=target.kind, router=router)
        for _ in range(4):
            index = bank.add_block(2, generator)
            nn.init.normal_(bank.block(index).B, std=0.2, generator=generator)
        return bank

    names = [f"layers.{i}.mlp.{part}" for i in (0, 1) for part in ("gate_proj", "up_proj", "down_proj")]
    inject(model, {f"decoder.{name}": Target(f"model.{name}") for name in names}, make_bank)
    return model


def _ids() -> torch.Tensor:
    return torch.randint(0, 50, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def _context(seed: int = 1, num_answer: int = 0) -> RoutingContext:
    mask = torch.ones(2, LENGTH + num_answer, dtype=torch.bool)
    mask[:, LENGTH:] = False
    instruction = torch.randn(2, E, generator=torch.Generator().manual_seed(seed))
    return RoutingContext(num_samples=2, facts={"instruction": instruction}, prompt_mask=mask)


def _generate(model: LlamaForCausalLM, **options: int) -> torch.Tensor:
    ids = _ids()
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        **options,
    )


def test_gradients_of_two_contexts_are_the_same_with_the_models_own_checkpointing(
    model: LlamaForCausalLM,
) -> None:
    def gradients() -> list[torch.Tensor]:
        loss = torch.zeros(())
        for seed in (1, 2):
            with routing(_context(seed)):
                loss = loss + seed * model(input_ids=_ids(), labels=_ids(), use_cache=False).loss
        return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))

    model.train()
    plain = gradients()
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": checkpoint_context_fn}
    )
    assert len(plain) == 6 * (4 * 2 + 4)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


def test_cached_generation_holds_the_gates_that_training_on_the_prompts_mean_uses(
    model: LlamaForCausalLM,
) -> None:
    context = _context()
    with routing(context), joined([m for m in model.modules() if isinstance(m, LoRABank)]):
        tokens = _generate(model)
    with routing(_context(num_answer=NEW - 1)), torch.no_grad():
        logits = model(input_ids=tokens[:, :-1]).logits
    assert len(context.memo) == 6
    assert torch.equal(logits[:, LENGTH - 1 :].argmax(-1), tokens[:, LENGTH:])


def test_beam_search_runs_with_a_row_map(model: LlamaForCausalLM) -> None:
    context = _context()
    context.row_to_sample["decoder"] = torch.arange(2).repeat_interleave(3)
    with routing(context):
        assert _generate(model, num_beams=3).shape == (2, LENGTH + NEW)
