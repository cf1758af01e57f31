"""Processes forked from one parent that has imported everything and runs one thread.

Such a process starts in a fraction of a second, a fresh one after the imports of a fit, ten seconds. The
parent has neither data nor model nor a GPU context, so the peak memory of a process is its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerContext, SpawnContext

# What a fit imports only when it needs it.
LAZY = (
    "matplotlib.backends.backend_agg",
    "sentence_transformers",
    "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def forking(modules: Sequence[str], environment: Mapping[str, str]) -> ForkServerContext | SpawnContext:
    """The context whose processes are forked from such a parent; where the system has none, fresh processes.

    One parent serves a process for good: a later call with other modules gets the first one's.

    Args:
        modules: What the parent imports.
        environment: Variables that it starts with, beside those of this process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        os.environ.update(environment)
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload([*modules])
    with _environment(environment):
        multiprocessing.forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
