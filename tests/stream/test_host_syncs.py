"""How often a step waits for a GPU: the values that the host reads between its backward pass and its end.

On the CPU nothing is transferred, so `HostReads` says what would be: values that are read one by one (`item`,
`bool`, `float`), and tensors that are brought over (`cpu`, `tolist`, `numpy`; not `to`, which moves nothing
here). What is computed from a tensor that was brought over is on the host already. The optimizer itself is
left out: the counts of its steps, which it reads, lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from stream_kit import fit, small_method
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from callbacks import DynamicEMA
from lit_cvit.methods import LCIA, ContinualMethod, SeqLoRA, SMoLoRA

aten = torch.ops.aten
# What cannot go on before the host has seen a value, and what cannot if its indices are a mask.
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
}
INDEXED = {aten.index.Tensor, aten.index_put_.default}
NEVER = 10**6


class HostReads(TorchDispatchMode):
    """Counts reads by the host inside its block."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        # Tensors on the host by their ids, which stay theirs as long as they are held here.
        self.there: dict[int, Tensor] = {}
        # Those made of plain numbers: they are where they are used.
        self.made: dict[int, Tensor] = {}
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> HostReads:
        for name in ("cpu", "tolist", "numpy"):
            self.patch.setattr(Tensor, name, self._brought(getattr(Tensor, name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patch.undo()

    def _brought(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def bring(tensor: Tensor, *args: Any, **settings: Any) -> Any:
            self.count += id(tensor) not in self.there
            found = original(tensor, *args, **settings)
            if not isinstance(found, Tensor):
                return found
            # A tensor of its own: what it was brought from is on the device still.
            copy = found.clone()
            self.there[id(copy)] = copy
            return copy

        return bring

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function is aten.lift_fresh.default
        taken = [] if made else [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_host = any(id(tensor) in self.there for tensor in taken) and all(map(self._may_be_there, taken))
        self.count += waits(function, args) and not on_host
        found = function(*args, **(kwargs or {}))
        place = self.there if on_host else self.made if all(id(t) in self.made for t in taken) else {}
        place |= {id(leaf): leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)}
        return found

    def _may_be_there(self, tensor: Tensor) -> bool:
        return id(tensor) in self.there or id(tensor) in self.made


def waits(function: Any, args: Any) -> bool:
    """Whether a GPU's result has to be known before the host goes on."""
    masked = function in INDEXED and any(i is not None and i.dtype == torch.bool for i in args[1])
    return function in READS or masked


def counted(family: type[ContinualMethod]) -> type[ContinualMethod]:
    """The method, with `reads`: those of every step, before the optimizer and after it."""

    class Counted(family):  # type: ignore[valid-type, misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.counting = ExitStack()
            self.reads: list[tuple[int, int]] = []

        def on_after_backward(self) -> None:
            self.before = self.counting.enter_context(HostReads())

        def configure_gradient_clipping(self, *args: Any, **settings: Any) -> None:
            super().configure_gradient_clipping(*args, **settings)
            self.counting.close()

        def configure_optimizers(self) -> Any:
            found = super().configure_optimizers()
            found["optimizer"].register_step_post_hook(lambda *_: self._applied())
            return found

        def _applied(self) -> None:
            self.after = self.counting.enter_context(HostReads())

        def on_train_batch_end(self, *args: Any) -> None:
            # The module's hook comes after those of all callbacks.
            self.counting.close()
            self.reads.append((self.before.count, self.after.count))

    return Counted


def test_reads_of_the_host_are_counted_once_where_a_tensor_was_brought_over() -> None:
    x = torch.arange(4.0)
    for read, expected in (
        (lambda: x.sum().item(), 1),
        (lambda: bool((x > 1).any()), 1),
        (lambda: [float(each) for each in x], 4),
        (lambda: x.tolist(), 1),
        (lambda: [float(each) for each in (x.cpu().double() * 2)], 1),
        (lambda: x.cpu().sum().tolist(), 1),
        (lambda: (x.cpu(), x.sum().item()), 2),
        (lambda: x[x > 1], 1),
        (lambda: x[[0, 1]] + torch.tensor([1.0, 2.0]), 0),
        (lambda: (x[[0, 1]] * torch.full((2,), 2.0)).tolist(), 1),
        (lambda: (x.cpu()[[0, 1]] * torch.tensor([1.0, 2.0])).tolist(), 1),
        (lambda: torch._foreach_norm([x, x]), 0),
    ):
        with HostReads() as counts:
            read()
        assert counts.count == expected
    assert float(x.sum()) == 6


def averaging() -> list[Callback]:
    return [DynamicEMA(ema_when="always")]


# Before the optimizer: whether all is finite and which blocks had a gradient, in one read. A row of the log
# has what callbacks and methods log beside the losses, in another.
@pytest.mark.parametrize("row", [False, True], ids=["without a row", "with a row"])
@pytest.mark.parametrize(
    ("family", "callbacks", "in_row"),
    [(SeqLoRA, list, 0), (SMoLoRA, list, 0), (LCIA, averaging, 1)],
)
def test_a_step_reads_once_and_a_row_of_further_values_once_more(
    llava_folder: Path,
    tmp_path: Path,
    family: type[ContinualMethod],
    callbacks: Callable[[], list[Callback]],
    in_row: int,
    row: bool,
) -> None:
    """Two stages of two steps: a stage's first step has no gradients before it, the second has."""
    method = small_method(llava_folder, counted(family))
    every = {"log_every_n_steps": 1 if row else NEVER, "checkpoint_every_n_steps": 0}
    assert isinstance(method.counting, ExitStack)
    with method.counting:
        fit(tmp_path, method, callbacks=callbacks(), **every)
    assert method.reads == [(1, row * in_row)] * 4
