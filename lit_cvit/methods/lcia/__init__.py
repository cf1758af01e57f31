"""LCIA: the method and its grouping of instructions."""

from lit_cvit.methods.lcia.method import LCIA

__all__ = ["LCIA"]
