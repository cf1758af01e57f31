"""Fixtures that every room's tests may use; the whole suite runs without the network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder with 0.3 million random weights, in the layout of a hub model. Do not change it."""
    from lit_cvit.backbones.build import build_llava_folder

    return build_llava_folder(tmp_path_factory.mktemp("llava"))
