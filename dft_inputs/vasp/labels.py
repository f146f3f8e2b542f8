"""Labels from the VASP runs of a stencil of finite fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..branches import align_dipoles, align_enthalpies, string_counts, string_lattice
from ..espresso.gap import critical_fraction
from ..quality import DEFAULT_BOUNDS, QualityBounds, assemble
from ..records import ElectricResponse, FieldPoint, Frame, LabelledFrame, Proposal, Quality, imported_label_id
from ..stencil import ZERO, Stencil
from .inputs import FIELD_SIGN
from .outputs import electrons_per_quantum, vasp_point, vasp_provenance
from .run_output import VaspOutput, VaspOutputError, read_vasp_output

_DEAF = 0.02
"""e. Forces whose every derivative by the field is smaller do not feel the field."""


def label_vasp_runs(
    runs: Mapping[str, Path | str],
    stencil: Stencil,
    frame: Frame | None = None,
    *,
    proposal: Proposal | None = None,
    bounds: QualityBounds = DEFAULT_BOUNDS,
    field_sign: float = FIELD_SIGN,
) -> LabelledFrame:
    """Label from the runs of a stencil, each on a Berry-phase branch of its own.

    Args:
        runs: directory of each point of the stencil by name (``zero``, ``+x``, ...).
        stencil: the fields of those runs.
        frame: the geometry, with its order of atoms and unwrapped positions; that of the zero run where None.
        proposal: where they come from.
        bounds: what passes the checks.
        field_sign: EFIELD_PEAD over the field.

    Raises:
        VaspOutputError: a run is missing, unfinished, at another field or of another structure; a metal; or responses
            that show another sign of the field, or forces without it.
    """
    if missing := [name for name in stencil.points() if name not in runs]:
        raise VaspOutputError(f"no run given for {', '.join(missing)}; the stencil needs {', '.join(stencil.points())}")
    outputs = {name: read_vasp_output(runs[name], field_sign) for name in stencil.points()}
    zero = outputs[ZERO]
    frame = frame or zero.frame
    points = {}
    for name, field in stencil.points().items():
        output, where = outputs[name], runs[name]
        if np.abs(output.field - field).max() > 1e-3 * stencil.step:
            raise VaspOutputError(f"{where}: its field is {output.field} V/A, not {field} as {name} needs")
        if output.kpoints != zero.kpoints or output.titles != zero.titles:
            raise VaspOutputError(f"{where}: k-points or POTCAR files differ from those of the zero run")
        points[name] = vasp_point(name, output, frame, where)
    points, response, quality = _checked(points, zero, frame, stencil, bounds)
    return LabelledFrame(
        label_id=imported_label_id("vasp", frame, response),
        frame=frame,
        response=response,
        field_points=tuple(points.values()),
        lower_orders=stencil.differences(points),
        proposal=proposal or Proposal(origin="import"),
        provenance=vasp_provenance(*outputs.values()),
        quality=quality,
    )


def _checked(
    points: dict[str, FieldPoint], zero: VaspOutput, frame: Frame, stencil: Stencil, bounds: QualityBounds
) -> tuple[dict[str, FieldPoint], ElectricResponse, Quality]:
    """All points on one branch, the responses they give, and what tells a wrong convention."""
    mesh = zero.kpoints or (1, 1, 1)
    # The ions are the same in all runs, so electronic quanta alone matter.
    lattice = string_lattice(frame.cell, mesh, 2 // zero.nspin)
    aligned, repairs = align_dipoles(points, lattice)
    # An enthalpy holds the dipole that was printed with it, so it moves along.
    points = {name: _moved_along(point, points[name]) for name, point in aligned.items()}
    points, more = align_enthalpies(points, string_lattice(frame.cell, mesh), string_counts(mesh))
    fraction = None
    if zero.gap is not None and zero.kpoints is not None:
        if zero.gap <= 0:
            raise VaspOutputError("the zero-field run is a metal: fields need an insulator")
        fraction = max(critical_fraction(point.field, zero.gap, frame.cell, mesh) for point in points.values())
    response, quality = assemble(
        points,
        frame,
        stencil,
        electrons_per_quantum=electrons_per_quantum(zero),
        bounds=bounds,
        critical_field_fraction=fraction,
        repairs=(*repairs, *more),
    )
    assert response.polarizability is not None  # noqa: S101  (``assemble`` gives all labels)
    assert response.born_effective_charges is not None  # noqa: S101
    if np.trace(response.polarizability) < 0:
        raise VaspOutputError(
            "the polarizability is negative, so EFIELD_PEAD has the other sign in this VASP: "
            "confirm with fieldloop doctor --vasp"
        )
    if np.abs(response.born_effective_charges).max() < _DEAF:
        raise VaspOutputError(
            "the forces do not change with the field, so this VASP leaves the field out of them: "
            "see fieldloop doctor --vasp"
        )
    return points, response, quality


def _moved_along(point: FieldPoint, before: FieldPoint) -> FieldPoint:
    jump = float(point.field @ (point.polarization - before.polarization))
    return point.model_copy(update={"enthalpy": point.enthalpy - jump})
