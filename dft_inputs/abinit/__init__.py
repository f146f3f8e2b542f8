"""Finite-field labels with ABINIT."""

from .code import AbinitCode
from .engine import AbinitEngine
from .outputs import AbinitOutput, AbinitOutputError, read_abinit_output
from .settings import AbinitSettings

__all__ = [
    "AbinitCode",
    "AbinitEngine",
    "AbinitOutput",
    "AbinitOutputError",
    "AbinitSettings",
    "read_abinit_output",
]
