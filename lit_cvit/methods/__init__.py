"""Continual-learning methods, one file or folder each."""

from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.agem import AGEM
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.methods.c_lora import CLoRA
from lit_cvit.methods.dir_lora import DirLoRA
from lit_cvit.methods.dora import DoRA
from lit_cvit.methods.eproj import EProj
from lit_cvit.methods.ewc import EWC, EWCTIR, L2
from lit_cvit.methods.hide import HiDe
from lit_cvit.methods.l2p import L2P
from lit_cvit.methods.lcia import LCIA
from lit_cvit.methods.lwf import LwF
from lit_cvit.methods.model_tailor import ModelTailor
from lit_cvit.methods.moe_lora import MoELoRA
from lit_cvit.methods.multitask import Multitask
from lit_cvit.methods.o_lora import OLoRA
from lit_cvit.methods.optim import OptimizerSettings
from lit_cvit.methods.pgp import L2PPGP, PGP
from lit_cvit.methods.prog_lora import ProgLoRADynamic, ProgLoRAStatic
from lit_cvit.methods.seq_lora import SeqLoRA
from lit_cvit.methods.smolora import SMoLoRA
from lit_cvit.methods.zero_shot import ZeroShot

__all__ = [
    "AGEM",
    "EWC",
    "EWCTIR",
    "L2",
    "L2P",
    "L2PPGP",
    "LCIA",
    "PGP",
    "CLoRA",
    "ContinualMethod",
    "DataAccess",
    "DirLoRA",
    "DoRA",
    "EProj",
    "HiDe",
    "LwF",
    "MoELoRA",
    "ModelTailor",
    "Multitask",
    "OLoRA",
    "OptimizerSettings",
    "ProgLoRADynamic",
    "ProgLoRAStatic",
    "SMoLoRA",
    "SeqLoRA",
    "ZeroShot",
]
