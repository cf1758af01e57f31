"""L2, EWC and EWC with TIR: what trains is held to the weights of the stage before by a quadratic penalty."""

from lit_cvit.methods.ewc.ewc import EWC
from lit_cvit.methods.ewc.fisher import diagonal_fisher
from lit_cvit.methods.ewc.l2 import L2
from lit_cvit.methods.ewc.tir import EWCTIR

__all__ = ["EWC", "EWCTIR", "L2", "diagonal_fisher"]
