"""Finite-field labels with Quantum ESPRESSO's pw.x."""

from .code import PwCode, PwNotFoundError
from .gap import BandGap, band_gap, critical_field, critical_fraction
from .ingest import ingest
from .inputs import inputs_hash, label_id
from .labels import label_frame
from .outputs import PwOutput, PwOutputError, read_pw_output
from .run import DirectoryBusyError, PwRunError
from .settings import PwSettings, protocols

__all__ = [
    "BandGap",
    "DirectoryBusyError",
    "PwCode",
    "PwNotFoundError",
    "PwOutput",
    "PwOutputError",
    "PwRunError",
    "PwSettings",
    "band_gap",
    "critical_field",
    "critical_fraction",
    "ingest",
    "inputs_hash",
    "label_frame",
    "label_id",
    "protocols",
    "read_pw_output",
]
