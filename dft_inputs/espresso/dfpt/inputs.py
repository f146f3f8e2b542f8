"""ph.x input of the response to a field, and the hash that names a DFPT label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ...identity import content_hash, inputs_hash
from ...pseudopotentials import Pseudopotential
from ...records import Frame
from ..inputs import CODE, PREFIX, SCRATCH
from ..settings import PwSettings
from .settings import PhSettings

SCF, RESPONSE = "scf", "response"
"""Folders of the two runs of a label."""


def response_input(settings: PhSettings, comment: str) -> str:
    """Input of the response at Gamma to a field: dielectric tensor and Z* as dF/dE, no phonons.

    Args:
        settings: of the response.
        comment: title, at most 75 characters; it ties the run to its label.
    """
    keys = {
        "prefix": f"'{PREFIX}'",
        "outdir": f"'../{SCF}/{SCRATCH}'",
        "epsil": ".true.",
        "zeu": ".true.",
        "trans": ".false.",
        "tr2_ph": f"{settings.tr2_ph:g}",
        "alpha_mix(1)": f"{settings.alpha_mix:g}",
        "niter_ph": f"{settings.niter_ph}",
    }
    lines = [f"   {key:<16} = {value}" for key, value in keys.items()]
    return "\n".join([comment, "&INPUTPH", *lines, "/", "0.0 0.0 0.0", ""])


def dfpt_inputs_hash(
    settings: PwSettings, response: PhSettings, pseudopotentials: Mapping[str, Pseudopotential]
) -> str:
    """Hash of the level of theory: the SCF's, and the settings of the response."""
    scf = inputs_hash(CODE, settings, pseudopotentials, None)
    return content_hash({"code": "ph.x", "scf": scf, "response": response.identity()})


def dfpt_label_id(
    frame: Frame, settings: PwSettings, response: PhSettings, pseudopotentials: Mapping[str, Pseudopotential]
) -> str:
    """Name of a label: hash of the geometry and all that determines its numbers; no paths, no parallelism."""
    content = f"{frame.frame_id} {dfpt_inputs_hash(settings, response, pseudopotentials)}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]
