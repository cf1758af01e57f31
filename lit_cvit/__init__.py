"""Continual visual instruction tuning of multimodal LLMs, as PyTorch Lightning modules and callbacks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lit_cvit._version import __version__

if TYPE_CHECKING:
    from lit_cvit.backbones import (
        Backbone,
        InternVL,
        Llava,
        LlavaNext,
        LlavaOnevision,
        Qwen2VL,
        Qwen3VL,
        Tiny,
    )
    from lit_cvit.cli.load import load_run
    from lit_cvit.data.datamodule import ContinualDataModule
    from lit_cvit.data.stage import Stage
    from lit_cvit.data.tasks import Batch, Sample, Task
    from lit_cvit.methods import (
        AGEM,
        EWC,
        EWCTIR,
        L2,
        L2P,
        L2PPGP,
        LCIA,
        PGP,
        CLoRA,
        ContinualMethod,
        DirLoRA,
        DoRA,
        EProj,
        HiDe,
        LwF,
        ModelTailor,
        MoELoRA,
        Multitask,
        OLoRA,
        OptimizerSettings,
        ProgLoRADynamic,
        ProgLoRAStatic,
        SeqLoRA,
        SMoLoRA,
        ZeroShot,
    )
    from lit_cvit.stream.stage_callback import StageCallback
    from lit_cvit.stream.trainer import ContinualTrainer

_HOMES = {
    "lit_cvit.backbones": (
        "Backbone",
        "InternVL",
        "Llava",
        "LlavaNext",
        "LlavaOnevision",
        "Qwen2VL",
        "Qwen3VL",
        "Tiny",
    ),
    "lit_cvit.cli.load": ("load_run",),
    "lit_cvit.data.datamodule": ("ContinualDataModule",),
    "lit_cvit.data.stage": ("Stage",),
    "lit_cvit.data.tasks": ("Batch", "Sample", "Task"),
    "lit_cvit.methods": (
        "AGEM",
        "EWC",
        "EWCTIR",
        "L2",
        "L2P",
        "L2PPGP",
        "LCIA",
        "PGP",
        "CLoRA",
        "ContinualMethod",
        "DirLoRA",
        "DoRA",
        "EProj",
        "HiDe",
        "LwF",
        "MoELoRA",
        "ModelTailor",
        "Multitask",
        "OLoRA",
        "OptimizerSettings",
        "ProgLoRADynamic",
        "ProgLoRAStatic",
        "SMoLoRA",
        "SeqLoRA",
        "ZeroShot",
    ),
    "lit_cvit.stream.stage_callback": ("StageCallback",),
    "lit_cvit.stream.trainer": ("ContinualTrainer",),
}

__all__ = [
    "AGEM",
    "EWC",
    "EWCTIR",
    "L2",
    "L2P",
    "L2PPGP",
    "LCIA",
    "PGP",
    "Backbone",
    "Batch",
    "CLoRA",
    "ContinualDataModule",
    "ContinualMethod",
    "ContinualTrainer",
    "DirLoRA",
    "DoRA",
    "EProj",
    "HiDe",
    "InternVL",
    "Llava",
    "LlavaNext",
    "LlavaOnevision",
    "LwF",
    "MoELoRA",
    "ModelTailor",
    "Multitask",
    "OLoRA",
    "OptimizerSettings",
    "ProgLoRADynamic",
    "ProgLoRAStatic",
    "Qwen2VL",
    "Qwen3VL",
    "SMoLoRA",
    "Sample",
    "SeqLoRA",
    "Stage",
    "StageCallback",
    "Task",
    "Tiny",
    "ZeroShot",
    "__version__",
    "load_run",
]


def __getattr__(name: str) -> object:
    """Import public names when they are first used, so that `import lit_cvit` stays light."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
