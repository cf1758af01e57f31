"""ZeroShot: the backbone as it is, the lower bound of every table."""

from __future__ import annotations

from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod, Plan


class ZeroShot(ContinualMethod):
    """No training: the backbone answers every task as it was pre-trained."""

    @property
    def trains(self) -> bool:
        """No stage trains."""
        return False

    def plan_stage(self, stage: Stage) -> Plan:
        return {}
