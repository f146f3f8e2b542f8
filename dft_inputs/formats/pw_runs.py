"""Folders of pw.x runs made elsewhere: runs of one structure at several fields become one label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..conventions import ConventionError
from ..espresso.ingest import ingest
from ..espresso.outputs import PwOutput, PwOutputError, read_pw_output
from ..espresso.points import check_neutral
from ..polarization import quantum_lattice
from ..records import ElectricResponse, LabelledFrame, Proposal, Provenance, imported_label_id
from ..stencil import Stencil
from .entries import Unreadable

_OUTPUTS = ("*.out", "*.out.gz")
_TOLERANCE = 1e-3
"""Of the step: how far a field may lie from its place in a stencil."""


def read_labels(path: Path) -> Iterator[LabelledFrame | Unreadable]:
    """Labels of all runs in a folder and below it; runs that form no label are told.

    Raises:
        ConventionError: no output of pw.x there.
    """
    folders = sorted({file.parent for pattern in _OUTPUTS for file in path.rglob(pattern)})
    if not folders:
        raise ConventionError(f"{path}: there is no output of pw.x (*.out beside *.xml) in this folder or below it")
    groups: dict[tuple, dict[Path, np.ndarray]] = {}
    for folder in folders:
        try:
            output = read_pw_output(folder)
        except PwOutputError as error:
            yield Unreadable(str(folder), str(error))
            continue
        key = (output.frame.frame_id, output.frame.species, output.kpoints, output.version)
        groups.setdefault(key, {})[folder] = output.field
    for fields in groups.values():
        yield _label(fields)


def _label(fields: dict[Path, np.ndarray]) -> LabelledFrame | Unreadable:
    where = str(next(iter(fields)))
    try:
        if len(fields) == 1:
            return _single(read_pw_output(where))
        stencil, runs = find_stencil(fields)
        return ingest(runs, stencil)
    except (PwOutputError, ConventionError, ValueError) as error:
        return Unreadable(where if len(fields) == 1 else f"{where} and {len(fields) - 1} more", str(error))


def _single(output: PwOutput) -> LabelledFrame:
    """One SCF is a label without derivatives by the field."""
    check_neutral(output)
    dipole = None
    if output.electronic_dipole is not None and output.ionic_dipole is not None:
        dipole = output.electronic_dipole + output.ionic_dipole
    response = ElectricResponse(
        field=output.field,
        enthalpy=output.enthalpy,
        forces=output.forces,
        stress=output.stress,
        polarization=dipole,
        polarization_quanta=None if dipole is None else quantum_lattice(output.frame.cell),
    )
    return LabelledFrame(
        label_id=imported_label_id("pw.x", output.frame, response),
        frame=output.frame,
        response=response,
        proposal=Proposal(origin="import"),
        provenance=Provenance(code="pw.x", code_version=output.version, protocol="import"),
    )


def find_stencil(fields: dict[Path, np.ndarray]) -> tuple[Stencil, dict[str, Path]]:
    """The stencil that a set of runs at several fields forms, and the run of each of its points.

    Args:
        fields: field of each run, V/A, (3,).

    Raises:
        ConventionError: they form none.
    """
    for order in (4, 2, 1):
        for base in fields.values():
            distances = [np.linalg.norm(field - base) for field in fields.values()]
            step = min((d for d in distances if d > 1e-8), default=0.0)
            if not 0 < step < 1:
                continue
            stencil = Stencil(step=float(step), order=order, base=(float(base[0]), float(base[1]), float(base[2])))
            if runs := _matched(stencil, fields):
                return stencil, runs
    listed = "; ".join(" ".join(f"{component:.4g}" for component in field) for field in fields.values())
    raise ConventionError(f"its runs form no stencil in the field (their fields in V/A: {listed})")


def _matched(stencil: Stencil, fields: dict[Path, np.ndarray]) -> dict[str, Path] | None:
    """The run of each point; None where a point has none or two, or a run is left over."""
    points = stencil.points()
    runs: dict[str, Path] = {}
    for path, field in fields.items():
        names = [name for name, at in points.items() if np.abs(field - at).max() < _TOLERANCE * stencil.step]
        if len(names) != 1 or names[0] in runs:
            return None
        runs[names[0]] = path
    return runs if len(runs) == len(points) else None
