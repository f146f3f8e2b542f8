"""Labels from the VASP runs of a stencil of finite fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..labelling import assemble_points, on_branch_of_zero
from ..quality import DEFAULT_BOUNDS, QualityBounds
from ..records import ElectricResponse, Frame, LabelledFrame, Proposal, imported_label_id
from ..stencil import ZERO, Stencil
from .inputs import CODE, FIELD_SIGN
from .outputs import at_field, electrons_per_quantum, vasp_point, vasp_provenance
from .results import VaspOutputError
from .run_output import read_vasp_output

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
        where = runs[name]
        output = at_field(outputs[name], field, where)
        if output.kpoints != zero.kpoints or output.titles != zero.titles:
            raise VaspOutputError(f"{where}: k-points or POTCAR files differ from those of the zero run")
        points[name] = vasp_point(name, output, frame, where)
    mesh = zero.kpoints or (1, 1, 1)
    if zero.gap is not None and zero.gap <= 0:
        raise VaspOutputError("the zero-field run is a metal: fields need an insulator")
    points, repairs = on_branch_of_zero(points, frame.cell, mesh, zero.nspin)
    labels = assemble_points(
        points,
        frame,
        stencil,
        mesh,
        gap=zero.gap if zero.kpoints else None,
        electrons_per_quantum=electrons_per_quantum(zero),
        bounds=bounds,
        repairs=repairs,
    )
    check_conventions(labels.response)
    return LabelledFrame(
        label_id=imported_label_id(CODE, frame, labels.response),
        frame=frame,
        response=labels.response,
        field_points=tuple(labels.points.values()),
        lower_orders=stencil.differences(labels.points),
        proposal=proposal or Proposal(origin="import"),
        provenance=vasp_provenance(*outputs.values()),
        quality=labels.quality,
    )


def check_conventions(response: ElectricResponse) -> None:
    """Refuse responses by which VASP shows that its field is not what is assumed here.

    Raises:
        VaspOutputError: another sign of the field, or forces without it.
    """
    alpha, charges = response.polarizability, response.born_effective_charges
    if alpha is not None and np.trace(alpha) < 0:
        raise VaspOutputError(
            "the polarizability is negative, so EFIELD_PEAD has the other sign in this VASP: "
            "confirm with fieldloop doctor --vasp"
        )
    if charges is not None and np.abs(charges).max() < _DEAF:
        raise VaspOutputError(
            "the forces do not change with the field, so this VASP leaves the field out of them: "
            "see fieldloop doctor --vasp"
        )
