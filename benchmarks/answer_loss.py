"""The loss over answers alone, beside the loss over the logits of all positions: time and peak memory.

    python benchmarks/answer_loss.py [--vocabulary 32000 150000] [--tokens 650] [--json FILE]
    python benchmarks/answer_loss.py --device cuda --dtype bfloat16 --width 4096 --batch 8

Forward and backward from the decoder's last hidden states: the output head, frozen, and the cross entropy.
Samples are as long as those of LLaVA-1.5 with a question, and their answers a word or a caption. Both losses
are compared before they are timed, and so are the gradients of the hidden states.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rounds import machine, on_device, options, peak_memory, ratio, shown, take_turns, write_json
from torch import Tensor


def losses(
    args: argparse.Namespace, vocabulary: int, answer: int
) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Both ways from the same hidden states to loss and gradient."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, args.dtype)
    head = (torch.randn(vocabulary, args.width, generator=generator) * 0.02).to(args.device, dtype)
    shape = (args.batch, args.tokens, args.width)
    hidden = torch.randn(shape, generator=generator).to(args.device, dtype).requires_grad_()
    labels = torch.randint(vocabulary, (args.batch, args.tokens), generator=generator).to(args.device)
    mask = torch.zeros(args.batch, args.tokens, dtype=torch.bool, device=args.device)
    mask[:, -answer:] = True

    def full() -> tuple[Tensor, Tensor]:
        logits = F.linear(hidden, head).float()
        # As causal models do it: every position is scored, and those without a label left out of the sum.
        targets = labels.masked_fill(~mask, -100)[:, 1:].flatten()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets)
        return loss.detach(), torch.autograd.grad(loss, hidden)[0]

    def answers() -> tuple[Tensor, Tensor]:
        states = hidden[:, :-1][mask[:, 1:]]
        loss = F.cross_entropy(F.linear(states, head).float(), labels[:, 1:][mask[:, 1:]])
        return loss.detach(), torch.autograd.grad(loss, hidden)[0]

    return {"all positions": full, "answers": answers}


def main() -> None:
    """Compare, measure, print."""
    parser = on_device(options(__doc__))
    parser.add_argument("--vocabulary", type=int, nargs="*", default=[32_000, 150_000])
    parser.add_argument("--answers", type=int, nargs="*", default=[4, 60])
    parser.add_argument("--tokens", type=int, default=650)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    print(machine())
    found = {}
    print("vocabulary  answer  time of answers / all positions  peak (MiB): all positions, answers")
    for vocabulary in args.vocabulary:
        for answer in args.answers:
            ways = losses(args, vocabulary, answer)
            for one, other in zip(*(way() for way in ways.values()), strict=True):
                torch.testing.assert_close(
                    one, other, rtol=2e-2 if args.dtype == "bfloat16" else 1e-4, atol=1e-5
                )
            peaks = {name: peak_memory(way, args.device) for name, way in ways.items()}
            times = take_turns(ways, args.rounds, args.device)
            over = ratio(times, "answers", "all positions")
            found[f"{vocabulary}/{answer}"] = {"ratio": over, "peaks": peaks, "seconds": times}
            sizes = ", ".join(f"{peak / 2**20:.0f}" for peak in peaks.values())
            print(f"{vocabulary:10}  {answer:6}  {shown(over):>30}  {sizes:>30}")
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
