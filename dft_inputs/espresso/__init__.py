"""Finite-field labels with Quantum ESPRESSO's pw.x."""

from .code import PwCode
from .engine import PwEngine
from .gap import band_gap
from .ingest import ingest
from .inputs import label_id
from .outputs import PwOutput, PwOutputError, read_pw_output
from .settings import PwSettings, protocols

__all__ = [
    "PwCode",
    "PwEngine",
    "PwOutput",
    "PwOutputError",
    "PwSettings",
    "band_gap",
    "ingest",
    "label_id",
    "protocols",
    "read_pw_output",
]
