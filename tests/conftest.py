"""Fixtures that every package's tests may use; the whole suite runs without the network."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matrix_rows
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rows",
        choices=("all", "due", "turn"),
        default="all",
        help="rows of the matrix: all, those not yet passed as they are, or these and a quarter by turns",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--rows") == "due" and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(matrix_rows.Recorder())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Before the expression of markers deselects: nothing is computed where no row would run.
    if "matrix" not in (config.option.markexpr or "") or "not matrix" in config.option.markexpr:
        return
    items[:], left = matrix_rows.choose(items, config.getoption("--rows"))
    if left:
        config.hook.pytest_deselected(items=left)


def pytest_collection_finish() -> None:
    """Libraries and tests are never garbage; to look at them again costs a third of a second, twice a fit."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _unsynced() -> Iterator[None]:
    """Only a power cut needs fsync, and a fit waits for the disk 80 times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder with 0.3 million random weights, in the layout of a hub model. Do not change it."""
    from lit_cvit.backbones.build import build_llava_folder

    return build_llava_folder(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def split_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the splits whose prompts are measured during the test; samples measured alone do not count."""
    from lit_cvit.backbones.encode import SampleEncoder

    found: list[int] = []
    real = SampleEncoder.prompt_lengths

    def counted(self: SampleEncoder, samples: Iterable[Any]) -> list[int]:
        lengths = real(self, samples)
        if len(lengths) > 1:
            found.append(len(lengths))
        return lengths

    monkeypatch.setattr(SampleEncoder, "prompt_lengths", counted)
    return found
