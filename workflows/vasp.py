"""Labelling with VASP as jobs: atomate2's Makers, input sets and custodian run it, the labels are those of any code.

Needs the extra ``vasp``. atomate2 is imported when a flow is made, so that everything else works without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jobflow.core.flow import Flow
from jobflow.core.job import Job, JobConfig, job
from jobflow.core.maker import Maker
from jobflow.core.reference import OnMissing
from pymatgen.core import Lattice, Structure

from ..dft_inputs.errors import failure_words
from ..dft_inputs.pseudopotentials import Pseudopotential
from ..dft_inputs.records import Frame, LabelledFrame, Proposal
from ..dft_inputs.stencil import ZERO, Stencil
from ..dft_inputs.vasp.inputs import (
    VASP_STEP,
    Incar,
    Method,
    check_lists,
    field_incar,
    grouped,
    planned_provenance,
    response_incar,
    vasp_label_id,
)
from ..dft_inputs.vasp.labels import label_vasp_runs
from ..dft_inputs.vasp.outputs import read_vasp_label
from ..dft_inputs.vasp.potcars import find_potcars, potcar_library
from ..dft_inputs.vasp.results import VaspOutputError
from ..dft_inputs.vasp.settings import VaspSettings
from .keys import content_job, content_key
from .labelling import as_frame, label_key
from .paths import recorded


class AtomateNotFoundError(ImportError):
    """atomate2 is not installed; the message says how to get it."""


def _default_settings() -> VaspSettings:
    return VaspSettings(protocol="vasp", kpoint_density=25.0)


@dataclass
class VaspLabelMaker(Maker):
    """What the two makers below share.

    Attributes:
        settings: level of theory; its mesh, or density of k-points, is that of the parent crystal.
        parent_cell: lattice vectors of the parent crystal in A, as for ``LabelMaker``.
        run_vasp_kwargs: for atomate2's ``run_vasp``: ``vasp_cmd``, handlers and limits of custodian.
    """

    name: str = "VASP"  # pyright: ignore[reportIncompatibleMethodOverride]
    settings: VaspSettings = field(default_factory=_default_settings)
    parent_cell: tuple[tuple[float, ...], ...] | None = None
    run_vasp_kwargs: dict[str, Any] = field(default_factory=dict)

    def settings_for(self, frame: Frame) -> VaspSettings:
        """The settings with the mesh of the frame's cell.

        Raises:
            ValueError: a cell that can have no mesh with the N_i |a_i| of the parent, or see ``check_lists``.
        """
        check_lists(frame, self.settings)
        return self.settings.for_cell(frame.cell, None if self.parent_cell is None else np.array(self.parent_cell))

    def for_parent(self, parent: Frame) -> VaspLabelMaker:
        """This maker for the frames of one data set, whose mesh is that of the parent."""
        return replace(self, parent_cell=tuple(tuple(map(float, vector)) for vector in parent.cell))

    def potcars(self, frame: Frame) -> dict[str, Pseudopotential]:
        """The POTCAR files of pymatgen's library here, so that the label has the name that an engine gives it.

        Empty where there is no library: it may lie on the machine that runs VASP alone, and names are all one knows.

        Raises:
            PseudopotentialError: there is one, but not with these files.
        """
        return find_potcars(None, frame.species, self.settings) if potcar_library() else {}

    def _plan(self, frame: Frame, stencil: Stencil | Method, proposal: Proposal | None) -> LabelledFrame:
        """The label as far as it is known before anything is run; it has failed until the runs say otherwise."""
        settings, potcars = self.settings_for(frame), self.potcars(frame)
        return LabelledFrame(
            label_id=vasp_label_id(frame, settings, stencil, potcars),
            frame=frame,
            status="failed",
            proposal=proposal or Proposal(origin="import"),
            provenance=planned_provenance(settings, stencil, potcars),
        )

    def _run(self, frame: Frame, incar: Incar, point: str, identity: str, prev_dir: Any = None) -> Job:
        """One run of VASP by atomate2, known by its content."""
        try:
            from atomate2.vasp.jobs.core import StaticMaker  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise AtomateNotFoundError(
                f"labels with VASP need atomate2 ({error}): python -m pip install 'fieldloop[vasp]'"
            ) from error
        # The program for Gamma alone takes orbitals as real, which leaves no Berry phases.
        job_kwargs = {**self.run_vasp_kwargs.get("vasp_job_kwargs", {}), "auto_gamma": False}
        maker = StaticMaker(
            name=f"VASP {point}",
            input_set_generator=input_set_generator(self.settings_for(frame), incar, frame.species),
            copy_vasp_kwargs={"additional_vasp_files": ("WAVECAR",)},
            run_vasp_kwargs={**self.run_vasp_kwargs, "vasp_job_kwargs": job_kwargs},
            # Labels are read from the files; states would ask for a store of their own.
            task_document_kwargs={"parse_dos": False, "parse_bandstructure": False},
        )
        run = maker.make(_structure(frame), prev_dir=prev_dir)
        return content_job(run, content_key("vasp run", identity, point), f"labels/{identity}/{point}")  # pyright: ignore[reportArgumentType]  (a @job method returns a Job)


@dataclass
class FiniteFieldVaspMaker(VaspLabelMaker):
    """Label frames by finite fields: one run for each point of a stencil, then the label from all of them.

    Attributes:
        step: field step, V/A. VASP prints dipoles with five decimals, which is why it is larger than for pw.x.
        order: order of the stencil, 2 or 4.
    """

    name: str = "label with VASP"  # pyright: ignore[reportIncompatibleMethodOverride]
    step: float = VASP_STEP
    order: int = 2

    def stencil_at(self, base: Sequence[float] = (0.0, 0.0, 0.0)) -> Stencil:
        """The field points about a base field, V/A, (3,)."""
        x, y, z = map(float, base)
        return Stencil(step=self.step, order=self.order, base=(x, y, z))  # type: ignore[arg-type]

    def label_id(self, frame: Frame, field: Sequence[float] = (0.0, 0.0, 0.0)) -> str:
        """Identity of the label of a frame at this level of theory.

        Raises:
            ValueError: no mesh for this cell.
        """
        return vasp_label_id(frame, self.settings_for(frame), self.stencil_at(field), self.potcars(frame))

    def make(
        self,
        frame: Frame | Atoms | Structure,
        proposal: Proposal | None = None,
        field: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Flow:
        """A flow whose output is the ``LabelledFrame``; finished runs are found in the store.

        Field points start from the wavefunctions of the zero point.

        Args:
            frame: the geometry.
            proposal: why it is labelled.
            field: about which it is labelled, V/A, (3,).

        Raises:
            AtomateNotFoundError: no atomate2.
            ValueError: a field too small for VASP, or no mesh for this cell.
        """
        frame, base = as_frame(frame), tuple(map(float, field))
        settings, stencil = self.settings_for(frame), self.stencil_at(base)
        plan = self._plan(frame, stencil, proposal)
        runs: dict[str, Job] = {}
        for name, applied in stencil.points().items():
            start = runs[ZERO].output.dir_name if runs else None
            runs[name] = self._run(frame, field_incar(settings, applied), name, plan.label_id, start)
        folders = {name: run.output.dir_name for name, run in runs.items()}
        return _flow(runs, _collect_stencil(self, plan, base, folders), plan.label_id, self.name)


@dataclass
class VaspDfptLabelMaker(VaspLabelMaker):
    """Label frames by one run that gives Z* and polarizability: DFPT, or VASP's own finite fields for hybrids.

    Attributes:
        method: ``dfpt`` (LEPSILON) or ``finite-field`` (LCALCEPS).
    """

    name: str = "label by DFPT with VASP"  # pyright: ignore[reportIncompatibleMethodOverride]
    method: Method = "dfpt"

    def label_id(self, frame: Frame) -> str:
        """Identity of the label of a frame at this level of theory.

        Raises:
            ValueError: no mesh for this cell.
        """
        return vasp_label_id(frame, self.settings_for(frame), self.method, self.potcars(frame))

    def make(self, frame: Frame | Atoms | Structure, proposal: Proposal | None = None) -> Flow:
        """A flow whose output is the ``LabelledFrame``; a finished run is found in the store.

        Args:
            frame: the geometry.
            proposal: why it is labelled.

        Raises:
            AtomateNotFoundError: no atomate2.
            ValueError: no mesh for this cell.
        """
        frame = as_frame(frame)
        plan = self._plan(frame, self.method, proposal)
        run = self._run(frame, response_incar(self.settings_for(frame), self.method), "response", plan.label_id)
        return _flow({"response": run}, _collect_response(plan, run.output.dir_name), plan.label_id, self.name)


def input_set_generator(settings: VaspSettings, incar: Incar, species: Sequence[str]) -> Any:
    """atomate2's generator for exactly these tags, mesh and POTCAR files: no defaults of a set are added.

    Args:
        settings: level of theory, with a mesh.
        incar: tags of the run.
        species: that need a POTCAR; the element's own name where the settings give no other.
    """
    from atomate2.vasp.sets.base import VaspInputGenerator  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    from pymatgen.io.vasp import Kpoints  # noqa: PLC0415  (slow to import)

    tags = {tag: list(value) if isinstance(value, tuple) else value for tag, value in incar.items()}
    potcars = {element: settings.potcars.get(element, element) for element in dict.fromkeys(species)}
    library = settings.potcar_functional
    return VaspInputGenerator(
        config_dict={"INCAR": {}, "KPOINTS": {}, "POTCAR": potcars, "POTCAR_FUNCTIONAL": library},
        user_incar_settings=tags,
        user_kpoints_settings=Kpoints.gamma_automatic(settings.mesh),  # pyright: ignore[reportArgumentType]  (pymatgen takes both)
        sort_structure=False,
        auto_ismear=False,
        inherit_incar=False,
    )


def _structure(frame: Frame) -> Structure:
    """The frame with its species together, as POSCAR wants them."""
    order = grouped(frame)
    species = [frame.species[atom] for atom in order]
    return Structure(Lattice(frame.cell), species, frame.positions[order], coords_are_cartesian=True)


def _flow(runs: dict[str, Job], collecting: Job, identity: str, name: str) -> Flow:
    # A run that failed gives a label that says so.
    collecting.config = JobConfig(on_missing_references=OnMissing.NONE)
    collecting.name = name
    content_job(collecting, label_key(identity), f"labels/{identity}")
    return Flow([*runs.values(), collecting], output=collecting.output, name=name)


@job
def _collect_stencil(
    maker: FiniteFieldVaspMaker,
    plan: LabelledFrame,
    field: tuple[float, float, float],
    folders: dict[str, str | None],
) -> LabelledFrame:
    """The label from the runs of a stencil, or why there is none."""
    try:
        runs = {name: _folder(folder, name) for name, folder in folders.items()}
        label = label_vasp_runs(runs, maker.stencil_at(field), plan.frame, proposal=plan.proposal)
        return _identified(label, plan)
    except VaspOutputError as error:
        return _failed(plan, error)


@job
def _collect_response(plan: LabelledFrame, folder: str | None) -> LabelledFrame:
    """The label from a response run, or why there is none."""
    try:
        label = read_vasp_label(_folder(folder, "response"), plan.frame, proposal=plan.proposal)
        if label.response.born_effective_charges is None or label.response.polarizability is None:
            raise VaspOutputError(f"{folder}: the run has no Born charges or no dielectric tensor")
        return _identified(label, plan)
    except VaspOutputError as error:
        return _failed(plan, error)


def _folder(folder: str | None, point: str) -> Path:
    """atomate2 writes ``host:path``."""
    if folder is None:
        raise VaspOutputError(f"the run at {point} has failed; see its job")
    return Path(folder.split(":", 1)[-1])


def _identified(label: LabelledFrame, plan: LabelledFrame) -> LabelledFrame:
    """The label under its name, with what was known of it before.

    Raises:
        VaspOutputError: custodian ran it on another mesh.
    """
    planned = plan.provenance
    if label.provenance.kpoints not in (None, planned.kpoints):
        raise VaspOutputError(f"the mesh of the runs is {label.provenance.kpoints}, not {planned.kpoints}")
    known = {
        "protocol": planned.protocol,
        "inputs_hash": planned.inputs_hash,
        "settings_hash": planned.settings_hash,
        "kpoints": planned.kpoints,
        # The titles of the files stay where their content is not at hand.
        "pseudopotentials": planned.pseudopotentials or label.provenance.pseudopotentials,
        "pseudopotential_family": planned.pseudopotential_family,
        "directory": recorded(Path.cwd()),
    }
    return label.model_copy(update={"label_id": plan.label_id, "provenance": label.provenance.model_copy(update=known)})


def _failed(plan: LabelledFrame, error: VaspOutputError) -> LabelledFrame:
    return _identified(plan.model_copy(update={"failure": failure_words(error)}), plan)
