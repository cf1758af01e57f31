"""Fills the caches of libraries when the parent of forks imports it, so that none of them has to.

The first fit of a process compiles the expressions and builds the tables of transformers, jsonargparse and
Lightning, which is half of what a small fit costs. The parent of the kit's processes imports this last and
so fits once, without the method under test. No process may find anything of that fit, or a method could lean
on it: what this library caches is emptied again, the environment is as before, and every process draws from
generators of its own. The sentence encoder stays; it is frozen and has no state.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import tempfile
from pathlib import Path

import tqdm

from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.encoders import SentenceEncoder
from lit_cvit.testing import child
from lit_cvit.testing.job import PARENT, Job

_OURS = ("lit_cvit", "callbacks")


def _fit(root: Path) -> None:
    """A fit with everything that the kit's fits use: evaluation, packed weights, activation checkpointing."""
    model = build_llava_folder(root / "model", num_layers=1)
    backbone = {"name_or_path": str(model), "quantization": "nf4", "activation_checkpointing": True}
    config = {
        "model": {
            "class_path": "SeqLoRA",
            "init_args": {"backbone": {"class_path": "Llava", "init_args": backbone}, "rank": 2},
        },
        "data": {
            "tasks": ["ScienceQA"],
            "settings": {"num_train": 2, "num_test": 2},
            "batch_size": 1,
            "global_batch_size": 2,
        },
        "trainer": {
            "accelerator": "cpu",
            "checkpoint_every_n_steps": 1,
            "callbacks": [
                {"class_path": "StageEvaluation", "init_args": {"downstream": False, "report": False}}
            ],
        },
    }
    method, data, trainer = child.build(Job("warm", root, config, planned=True))
    trainer.fit(method, datamodule=data)


def _forget() -> None:
    """Empty every cache of functions of this library."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS:
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def _warm() -> None:
    # Its monitor is a thread, which a parent of forks must not have.
    tqdm.tqdm.monitor_interval = 0
    for name in PARENT:
        del os.environ[name]
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        _fit(Path(folder))
    os.environ.clear()
    os.environ.update(before)
    _forget()
    SentenceEncoder().encode(["a"])
    gc.collect()
    # What is here is never garbage, and collections of a process need not look at it.
    gc.freeze()


# Anywhere else the import does nothing.
if PARENT.items() <= os.environ.items():
    _warm()
