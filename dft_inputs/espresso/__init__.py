"""Finite-field labels with Quantum ESPRESSO's pw.x."""

from .gap import BandGap, band_gap, critical_field, critical_fraction
from .inputs import inputs_hash, label_id
from .labels import QualityBounds, assemble, ingest, label_frame
from .outputs import PwOutput, PwOutputError, read_pw_output
from .run import DirectoryBusyError, PwRunError
from .settings import PwCode, PwNotFoundError, PwSettings, protocols

__all__ = [
    "BandGap",
    "DirectoryBusyError",
    "PwCode",
    "PwNotFoundError",
    "PwOutput",
    "PwOutputError",
    "PwRunError",
    "PwSettings",
    "QualityBounds",
    "assemble",
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
