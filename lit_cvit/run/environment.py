"""Under what a run runs: package versions and machine."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from lit_cvit._version import __version__

_PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "torchmetrics",
    "safetensors",
    "bitsandbytes",
    "sentence-transformers",
    "pillow",
    "numpy",
)
# The driver has a folder here for every GPU of NVIDIA's.
_GPUS = Path("/proc/driver/nvidia/gpus")


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide a run's results."""
    versions = {"lit_cvit": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def unused_gpu() -> str | None:
    """One line about a GPU that is there but that the installed build of torch cannot use, or None."""
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return None
    if not (any(_GPUS.glob("*")) or shutil.which("nvidia-smi")):
        return None
    return (
        f"this machine has a GPU that the installed torch {torch.__version__}, a build for CPUs, cannot use; "
        "the README says under 'On a machine with a GPU' how to install a CUDA build"
    )


def describe_machine() -> dict[str, Any]:
    """The machine: system, processors, accelerators, threads and Python."""
    import torch

    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "num_cpus": os.cpu_count() or 0,
        "num_threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "python": platform.python_version(),
    }
