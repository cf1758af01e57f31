"""What the timing scripts share: variants that take turns, ratios within a round, and peaks of memory.

A round runs every variant once, so a machine that slows down slows all of them, and a ratio is taken within
its round. Its median stands until half of the rounds are disturbed; the quartiles say how wide it is.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Quartiles = tuple[float, float, float]


def take_turns(
    variants: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every variant in every round; before the first, each runs once unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            seconds = timed(run, device)
            if number:
                times[name].append(seconds)
    return times


def timed(run: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of one call, with all that it has sent to a GPU."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> Quartiles:
    """Quartiles over the rounds of a variant's time over another one's."""
    pairs = zip(times[name], times[base], strict=True)
    low, middle, high = statistics.quantiles([own / other for own, other in pairs], n=4)
    return low, middle, high


def shown(quartiles: Quartiles) -> str:
    """The median and, in brackets, the outer quartiles."""
    low, middle, high = quartiles
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def peak_memory(run: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes that a call takes at its peak beyond what was there; on the CPU in a process of its own."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    fork = multiprocessing.get_context("fork")
    theirs, ours = fork.Pipe()
    child = fork.Process(target=_measure_peak, args=(run, theirs))
    child.start()
    found: int = ours.recv()
    child.join()
    return found


def _measure_peak(run: Callable[[], Any], pipe: Any) -> None:
    # A forked process begins with the parent's pages; only what it makes itself is counted.
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    pipe.send(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def saved_bytes(run: Callable[[], Any], module: nn.Module) -> int:
    """Bytes that autograd keeps of a call for the backward pass: each storage once, the module's own not."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            # As long as it lives, no other one can have its address.
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())


def options(doc: str | None) -> ArgumentParser:
    """A parser with what every script takes."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def on_device(parser: ArgumentParser) -> ArgumentParser:
    """Add where, and in which type, to run."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    return parser


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def write_json(path: Path | None, args: Namespace, found: Any) -> None:
    """Write the settings, the machine and the figures, if there is a path."""
    if path is not None:
        settings = {key: str(value) for key, value in vars(args).items() if key != "json"}
        content = {"settings": settings, "machine": machine(), "found": found}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
