"""Under what a run runs: package versions and machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
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


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide a run's results."""
    versions = {"lit_cvit": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


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
