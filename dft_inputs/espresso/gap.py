"""The gap of a crystal before any label is paid for: one zero-field SCF with empty bands."""

from __future__ import annotations

from pathlib import Path

from ..errors import EngineError
from ..identity import inputs_hash
from ..insulators import BandGap, gap_of_bands, half_filled, judged
from ..program import lease
from ..records import Frame
from .code import PwCode
from .inputs import CODE, gap_input, occupied_bands
from .run import ended_point, link_pseudopotentials, run_point
from .scratch import drop_scratch
from .settings import PwSettings


def band_gap(frame: Frame, settings: PwSettings, code: PwCode, directory: Path | str) -> BandGap:
    """Band gap from one SCF with empty bands, without ``lelfield``; resumed where it is already on disk.

    An odd number of electrons needs no run: without spin polarization a band is then half filled.

    Raises:
        ProgramNotFoundError, PseudopotentialError: nothing was run.
        EngineError: pw.x failed.
        DirectoryBusyError: another process works in this directory.
    """
    code.argv()
    pseudopotentials = code.find_pseudopotentials(frame.species)
    electrons = sum(pseudopotentials[symbol].z_valence for symbol in frame.species)
    if odd := half_filled(electrons):
        return odd
    occupied, directory = occupied_bands(frame, pseudopotentials), Path(directory)
    comment = f"gap {inputs_hash(CODE, settings, pseudopotentials, None)[:16]} of {frame.frame_id}"
    text = gap_input(frame, settings, pseudopotentials, occupied + max(4, occupied // 5), comment)
    with lease(directory, code) as descriptor:
        link_pseudopotentials(directory, pseudopotentials)
        folder = directory / "gap"
        output = ended_point(folder, text, code) or run_point(
            folder, text, code, name="the gap run", lease_descriptor=descriptor
        )
        drop_scratch(folder)
    if output.eigenvalues.shape[1] <= occupied * output.nspin:
        raise EngineError("the gap run has no empty bands")
    return judged(gap_of_bands(output.eigenvalues, occupied, output.nspin))
