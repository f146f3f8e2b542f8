"""Folders of VASP runs: every geometry of every OUTCAR or vasprun.xml in a folder or below it is one label.

Runs of one geometry at fields that form a stencil are one label together, with the responses that they give.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..conventions import ConventionError, one_line
from ..records import Frame, LabelledFrame, Proposal
from ..vasp.labels import label_vasp_runs
from ..vasp.outputs import vasp_label
from ..vasp.results import VaspOutput
from ..vasp.run_output import read_vasp_steps
from .entries import Unreadable
from .pw_runs import find_stencil

_NAMES = ("OUTCAR", "OUTCAR.gz", "vasprun.xml", "vasprun.xml.gz")
_UNREADABLE = (ValueError, RuntimeError, OSError, KeyError)


def read_labels(path: Path) -> Iterator[LabelledFrame | Unreadable]:
    """Labels of all runs of VASP at a path; what cannot be read is told and passed over.

    Of a relaxation or dynamics each geometry with a converged SCF is a label, with P only where it was computed; all
    name the first as the frame they come from, so that they stay together in splits by lineage.

    Raises:
        ConventionError: no output of VASP there.
    """
    found = [path] if path.is_file() else sorted(file for name in _NAMES for file in path.rglob(name))
    runs = found if path.is_file() else sorted({file.parent for file in found})
    if not runs:
        raise ConventionError(f"{path}: there is no OUTCAR or vasprun.xml in this folder or below it")
    groups: dict[tuple, dict[Path, LabelledFrame]] = {}
    for run in runs:
        for item in _labels(run):
            if isinstance(item, LabelledFrame) and item.response.polarization is not None and not item.proposal.reason:
                made_by = item.provenance
                key = (item.frame.frame_id, made_by.kpoints, tuple(made_by.pseudopotentials.items()))
                groups.setdefault(key, {})[run] = item
            else:
                yield item
    for group in groups.values():
        yield from _united(group)


def _united(group: dict[Path, LabelledFrame]) -> Iterator[LabelledFrame | Unreadable]:
    """One label of runs of one geometry at the fields of a stencil; each by itself where they are at no such fields."""
    try:
        stencil, runs = find_stencil({run: label.response.field for run, label in group.items()})
    except ConventionError:
        yield from group.values()
        return
    try:
        yield label_vasp_runs(runs, stencil)
    except _UNREADABLE as error:
        yield Unreadable(f"{next(iter(group))} and {len(group) - 1} more", one_line(error))


def _labels(path: Path) -> Iterator[LabelledFrame | Unreadable]:
    try:
        run = read_vasp_steps(path)
    except _UNREADABLE as error:
        yield Unreadable(str(path), one_line(error))
        return
    first = run.outputs[0].frame
    for output in run.outputs:
        where = str(path) if output.steps == 1 else f"{path}, geometry {output.step}"
        if output.step in run.unconverged:
            yield Unreadable(where, f"SCF not converged in {output.iterations} iterations")
            continue
        try:
            yield vasp_label(output, where, proposal=_proposal(output, first, path.name))
        except _UNREADABLE as error:
            yield Unreadable(where, one_line(error))
    if run.fault:
        yield Unreadable(f"{path}, what follows geometry {len(run.outputs)}", run.fault)


def _proposal(output: VaspOutput, first: Frame, run: str) -> Proposal:
    if output.steps == 1:
        return Proposal(origin="import")
    reason = f"{output.steps} geometries of {run}"
    parent = None if output.step == 1 else first.frame_id
    return Proposal(origin="import", parent_frame_id=parent, reason=reason)
