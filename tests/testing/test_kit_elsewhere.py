"""A method of another package runs the whole kit on itself with one line: the example of the README does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "add_a_method"))

from test_growing_lora import TestGrowingLoRA

pytestmark = pytest.mark.matrix

__all__ = ["TestGrowingLoRA"]
