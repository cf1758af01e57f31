"""L2P: a pool of prompts, of which every sample gets those whose keys are nearest to its features."""

from lit_cvit.methods.l2p.method import L2P
from lit_cvit.methods.l2p.pool import PromptPool

__all__ = ["L2P", "PromptPool"]
