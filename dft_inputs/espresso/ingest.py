"""Labels from pw.x runs made elsewhere, each on a Berry-phase branch of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..branches import align_dipoles, string_lattice
from ..labelling import assemble_points
from ..quality import DEFAULT_BOUNDS, QualityBounds
from ..records import FieldPoint, LabelledFrame, Proposal, Provenance, imported_label_id
from ..stencil import ZERO, Stencil
from .outputs import PwOutput, PwOutputError, read_pw_output
from .points import check_neutral, electrons_per_quantum, field_point


def ingest(
    runs: Mapping[str, Path | str],
    stencil: Stencil,
    *,
    proposal: Proposal | None = None,
    bounds: QualityBounds = DEFAULT_BOUNDS,
) -> LabelledFrame:
    """Label from pw.x runs made elsewhere without shared string phases, each on a branch of its own.

    Args:
        runs: directory of each point of the stencil by name (``zero``, ``+x``, ...).
        stencil: the fields of those runs.
        proposal: where they come from.
        bounds: what passes the checks.

    Raises:
        PwOutputError: a run is missing, unfinished, at another field or of another structure.
    """
    if missing := sorted(set(stencil.points()) - set(runs)):
        raise PwOutputError(f"no run given for {', '.join(missing)}; the stencil needs {', '.join(stencil.points())}")
    outputs = {name: read_pw_output(Path(runs[name])) for name in stencil.points()}
    zero = outputs[ZERO]
    check_neutral(zero)
    for name, field in stencil.points().items():
        if np.abs(outputs[name].field - field).max() > 1e-3 * stencil.step:
            raise PwOutputError(f"{runs[name]}: its field is {outputs[name].field} V/A, not {field} as {name} needs")
        if outputs[name].frame.frame_id != zero.frame.frame_id or outputs[name].kpoints != zero.kpoints:
            raise PwOutputError(f"{runs[name]}: structure or k-points differ from those of the zero run")
    # The ions are the same in all runs, so electronic quanta alone matter.
    lattice = string_lattice(zero.frame.cell, zero.kpoints, 2 // zero.nspin)
    points, repairs = align_dipoles({name: _own_branch(name, output) for name, output in outputs.items()}, lattice)
    points, response, quality = assemble_points(
        points,
        zero.frame,
        stencil,
        zero.kpoints,
        electrons_per_quantum=electrons_per_quantum(zero),
        bounds=bounds,
        repairs=repairs,
    )
    provenance = Provenance(
        code="pw.x",
        code_version=zero.version,
        protocol="import",
        kpoints=zero.kpoints,
        scf_count=len(outputs),
        scf_iterations=sum(output.iterations for output in outputs.values()),
        seconds=sum(output.wall_time for output in outputs.values()),
        cpu_seconds=sum(output.cpu_time for output in outputs.values()),
    )
    return LabelledFrame(
        label_id=imported_label_id("pw.x", zero.frame, response),
        frame=zero.frame,
        response=response,
        field_points=tuple(points.values()),
        lower_orders=stencil.differences(points),
        proposal=proposal or Proposal(origin="import"),
        provenance=provenance,
        quality=quality,
    )


def _own_branch(name: str, output: PwOutput) -> FieldPoint:
    """A point of a run that shares no phases: dipole and enthalpy are as printed."""
    if output.electronic_dipole is None:
        raise PwOutputError(f"the run at {name} has no dipole: set lelfield")
    return field_point(name, output, output.electronic_dipole, relative=False)
