"""PGP: updates are projected out of the subspaces that the inputs of earlier tasks lie in."""

from lit_cvit.methods.pgp.methods import L2PPGP, PGP
from lit_cvit.methods.pgp.subspace import extended, without

__all__ = ["L2PPGP", "PGP", "extended", "without"]
