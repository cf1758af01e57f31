"""Sweeps: configurations, seeds and a grid as cells, each a run of its own that leaves a small JSON.

There is no scheduler here: any number of processes may make the cells of a sweep side by side, and a job of
a cluster's array takes a share.
"""

from __future__ import annotations

from lit_cvit.sweep.cells import Cell, Sweep
from lit_cvit.sweep.checking import Checked, check_cells
from lit_cvit.sweep.choice import chosen_cells
from lit_cvit.sweep.reading import build_sweep, read_sweep
from lit_cvit.sweep.running import Sweeper
from lit_cvit.sweep.states import CellState, State, state_of

__all__ = [
    "Cell",
    "CellState",
    "Checked",
    "State",
    "Sweep",
    "Sweeper",
    "build_sweep",
    "check_cells",
    "chosen_cells",
    "read_sweep",
    "state_of",
]
