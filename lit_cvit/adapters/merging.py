"""Banks added into their layers' weights where a batch has one gate, and put back bit for bit.

W + s B (gate (x) A) in place of W saves the products of the blocks. W is kept beside it and copied back, not
recomputed: adding a change and subtracting it again does not give the same bits. What is decided for a bank
depends on the batch alone, not on those before it, so that answers depend on neither ranks nor resumes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lit_cvit.adapters.bank import LoRABank
from lit_cvit.adapters.routing import RoutingContext

Gate = tuple[float, ...]


class MergedBanks:
    """Merges the banks of a batch's common gates; `restore` must be called at the end, in any event.

    The copies take as much memory as the weights of the layers that are merged, from the first batch on.

    Args:
        banks: The banks; those whose `merges` is false stay as they are.
    """

    def __init__(self, banks: Iterable[LoRABank]) -> None:
        self._banks = [bank for bank in banks if bank.merges]
        self._originals: dict[LoRABank, Tensor] = {}
        self._gates: dict[LoRABank, Gate] = {}

    @torch.no_grad()
    def follow(self, context: RoutingContext) -> None:
        """Have merged for the forward passes of a context what can be, and nothing else.

        Args:
            context: The context; the blocks must stay as they are until the next call.
        """
        common: dict[int, Gate | None] = {}
        for bank in self._banks:
            given = context.gate_for(bank.name)
            if id(given) not in common:
                # Once for every tensor: most banks share one, and to read it waits for the device.
                common[id(given)] = _common(given)
            gate = common[id(given)]
            if given is None and bank.default_gate == "ones":
                gate = (1.0,) * bank.num_blocks
            if gate is None or context.trace is not None:
                self._put_back(bank)
            elif self._gates.get(bank) != gate:
                self._merge(bank, gate)

    def restore(self) -> None:
        """Put all weights back and drop the copies."""
        for bank in self._banks:
            self._put_back(bank)
        self._originals.clear()

    def _merge(self, bank: LoRABank, gate: Gate) -> None:
        weight = bank.base.weight
        if not any(gate):
            # Nothing is added: no copy is needed.
            self._put_back(bank)
            self._gates[bank] = gate
            bank.merged = True
            return
        original = self._originals.get(bank)
        if original is None:
            original = self._originals[bank] = weight.detach().clone()
        with torch.autocast(weight.device.type, enabled=False):
            # The sum is formed in the wider type and rounded once.
            total = original + bank.merged_change(torch.tensor(gate, device=weight.device))
        # First, so that a failure in the next line finds the bank among those to put back.
        self._gates[bank] = gate
        weight.data.copy_(total)
        bank.merged = True

    def _put_back(self, bank: LoRABank) -> None:
        if bank in self._gates:
            if bank in self._originals:
                bank.base.weight.data.copy_(self._originals[bank])
            bank.merged = False
            del self._gates[bank]


def _common(gate: Tensor | None) -> Gate | None:
    """The gate (blocks,) of all samples alike; None where there is none, or it is not known to be common.

    A single sample's gate (1, blocks) tells nothing of the next batch: to merge would not pay.
    """
    if gate is None or gate.dim() > 2 or (gate.dim() == 2 and len(gate) < 2):
        return None
    rows: list[list[float]] = gate.reshape(-1, gate.shape[-1]).tolist()
    return tuple(rows[0]) if all(row == rows[0] for row in rows) else None
