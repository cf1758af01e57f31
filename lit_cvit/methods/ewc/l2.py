"""L2: what trains is held to the weights that the stage before left, all elements alike.

Source: the baseline L2 of CITB (Zhang et al., arXiv 2310.14510), which LCIA (arXiv 2410.10868, Table 8) takes
over: L + lambda sum_i (theta_i - theta*_i)^2, without the factor 1/2 of EWC, lambda 0.01. LCIA's text calls
it Fisher-weighted; its numbers are those of CITB, whose code (hyintell/CITB) has no weights there. CITB
trains the whole model; with adapters, they and the projector are held.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lit_cvit.backbones.base import Backbone
from lit_cvit.methods.ewc.anchored import AnchoredMethod
from lit_cvit.utils.settings import NotNegative


class L2(AnchoredMethod):
    """One block per adapted layer, held to its last weights.

    Args:
        backbone: The pre-trained model.
        strength: lambda.
        kwargs: Settings of every method.
    """

    term: ClassVar[str] = "l2"

    def __init__(self, backbone: Backbone, strength: NotNegative = 0.01, **kwargs: Any) -> None:
        super().__init__(backbone, strength=strength, **kwargs)

    @property
    def factor(self) -> float:
        """lambda."""
        return self.strength

    @property
    def training_copies(self) -> int:
        """The anchors."""
        return 1
