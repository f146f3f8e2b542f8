"""From a frame to its label by DFPT: one SCF, one response; the same records as those of finite fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import EngineError, failure_words
from ...identity import settings_hash
from ...program import lease
from ...pseudopotentials import Pseudopotential, family_hash
from ...quality import DEFAULT_BOUNDS, QualityBounds
from ...records import ElectricResponse, Frame, LabelledFrame, Proposal, Provenance, Quality
from ...units import VACUUM_PERMITTIVITY
from ..goedecker import write_upf
from ..handlers import run_with_remedies
from ..inputs import plain_input
from ..outputs import PwOutput, PwOutputError
from ..run import ended_point, link_pseudopotentials
from ..scratch import drop_scratch, has_scratch
from ..settings import PwSettings
from .inputs import RESPONSE, SCF, dfpt_inputs_hash, dfpt_label_id, response_input
from .outputs import PhOutput
from .run import run_response, stored_response
from .settings import PhCode, PhSettings


@dataclass(frozen=True)
class DfptJob:
    """One frame to label, with all that its two runs need."""

    frame: Frame
    settings: PwSettings
    response: PhSettings
    code: PhCode
    pseudopotentials: dict[str, Pseudopotential]
    directory: Path
    label_id: str

    @property
    def texts(self) -> tuple[str, str]:
        """Inputs of pw.x and ph.x."""
        scf = plain_input(self.frame, self.settings, self.pseudopotentials, f"label {self.label_id}, SCF")
        return scf, response_input(self.response, f"label {self.label_id}, response to a field")


def label_frame_dfpt(
    frame: Frame,
    settings: PwSettings,
    response: PhSettings,
    code: PhCode,
    directory: Path | str,
    proposal: Proposal | None = None,
    *,
    bounds: QualityBounds = DEFAULT_BOUNDS,
) -> LabelledFrame:
    """Label a frame by DFPT: energy, forces and stress of the SCF, Z* and polarizability of ph.x; no P, no branches.

    Its k-points converge in another way than those of finite fields: on a coarse mesh the polarizability is too large
    instead of too small, and the charges violate the acoustic sum rule, which is a check here. Finished runs are
    found in ``directory``; a failure gives a record with ``status="failed"`` and the reason, and a second call resumes.

    Args:
        frame: the geometry.
        settings: level of theory, with the mesh.
        response: settings of the response.
        code: how to run pw.x and ph.x.
        directory: of this frame alone.
        proposal: why it is labelled.
        bounds: what passes the checks.

    Raises:
        ProgramNotFoundError, PseudopotentialError, ValueError: nothing was run; the message says what to do.
        DirectoryBusyError: another process labels in this directory.
    """
    code.pw.argv()
    code.ph.argv()
    settings = settings if settings.kpoints else settings.for_cell(frame.cell)
    pseudopotentials = code.pw.find_pseudopotentials(frame.species)
    settings.check_electrons(frame.species, pseudopotentials)
    identity = dfpt_label_id(frame, settings, response, pseudopotentials)
    pseudopotentials = tabulated(pseudopotentials, Path(directory) / "tabulated")
    job = DfptJob(frame, settings, response, code, pseudopotentials, Path(directory), identity)
    failure, outputs, labels, quality = None, None, ElectricResponse(), Quality()
    with lease(job.directory, code.ph) as descriptor:
        try:
            outputs = run_dfpt(job, descriptor)
            labels, quality = assemble_dfpt(*outputs, bounds)
        except (EngineError, OSError) as error:
            failure = failure_words(error)
    return LabelledFrame(
        label_id=identity,
        frame=frame,
        status="failed" if failure else "done",
        failure=failure,
        response=labels,
        proposal=proposal or Proposal(origin="import"),
        provenance=_provenance(job, outputs),
        quality=quality,
    )


def tabulated(pseudopotentials: dict[str, Pseudopotential], directory: Path) -> dict[str, Pseudopotential]:
    """Goedecker files as UPF, because ph.x 6.7 gives wrong responses with the analytic form; others as they are.

    Measured on silicon, 8x8x8: Z* of -0.59 e where symmetry wants 0 and eps_inf 17.2; tabulated -0.10 e and 14.4.

    Args:
        pseudopotentials: by element; the hashes stay those of the files given.
        directory: for the UPF files.
    """
    files = {}
    for element, pseudopotential in pseudopotentials.items():
        files[element] = pseudopotential
        if pseudopotential.path.suffix.lower() == ".gth":
            directory.mkdir(parents=True, exist_ok=True)
            path = write_upf(pseudopotential.path, directory / f"{pseudopotential.path.stem}.upf")
            files[element] = pseudopotential.model_copy(update={"path": path})
    return files


def run_dfpt(job: DfptJob, descriptor: int) -> tuple[PwOutput, PhOutput]:
    """Both runs, of which only those not on disk are made; large files go when all is done.

    Args:
        job: what to run.
        descriptor: from ``lease``.

    Raises:
        EngineError: a run failed.
    """
    scf, response = job.directory / SCF, job.directory / RESPONSE
    scf_text, response_text = job.texts
    ground, answer = ended_point(scf, scf_text, job.code.pw), stored_response(response, response_text)
    if ground is None or answer is None:
        link_pseudopotentials(job.directory, job.pseudopotentials)
        if ground is None or not has_scratch(scf):
            ground = run_with_remedies(scf, scf_text, job.code.pw, name=SCF, lease_descriptor=descriptor)
        answer = run_response(response, scf, response_text, job.code.ph, descriptor)
    drop_scratch(scf)
    return ground, answer


def assemble_dfpt(
    ground: PwOutput, answer: PhOutput, bounds: QualityBounds = DEFAULT_BOUNDS
) -> tuple[ElectricResponse, Quality]:
    """Labels and checks of an SCF and its response; a pure function.

    alpha = eps0 V (eps_inf - 1). Nothing is symmetrized, and the sum rule is not imposed.

    Raises:
        PwOutputError: the two are of different structures.
    """
    frame = ground.frame
    if answer.species != frame.species:
        raise PwOutputError("the runs of pw.x and ph.x are of different structures")
    polarizability = VACUUM_PERMITTIVITY * frame.volume * (answer.dielectric_tensor - np.eye(3))
    charges = answer.born_effective_charges
    labels = ElectricResponse(
        enthalpy=ground.enthalpy,
        forces=ground.forces,
        stress=ground.stress,
        born_effective_charges=charges,
        polarizability=polarizability,
    )
    asymmetry = np.abs(polarizability - polarizability.T).max() / 2
    checks = {
        "scf_accuracy": ground.scf_accuracy,
        "polarizability_asymmetry": float(asymmetry / abs(np.trace(polarizability) / 3)),
        "acoustic_sum_rule": float(np.abs(charges.mean(axis=0)).max()),
    }
    flags = tuple(name for name, value in checks.items() if not value <= getattr(bounds, name))
    return labels, Quality.model_validate({**checks, "flags": flags})


def _provenance(job: DfptJob, outputs: tuple[PwOutput, PhOutput] | None) -> Provenance:
    return Provenance(
        code="ph.x",
        code_version=outputs[1].version if outputs else "",
        protocol=job.settings.protocol,
        inputs_hash=dfpt_inputs_hash(job.settings, job.response, job.pseudopotentials),
        settings_hash=settings_hash(job.settings),
        kpoints=job.settings.mesh,
        pseudopotentials={element: p.sha256 for element, p in job.pseudopotentials.items()},
        pseudopotential_family=family_hash(job.pseudopotentials),
        scf_count=1 if outputs else 0,
        scf_iterations=sum(output.iterations for output in outputs or ()),
        seconds=sum(output.wall_time for output in outputs or ()),
        cpu_seconds=sum(output.cpu_time for output in outputs or ()),
        directory=str(job.directory),
    )
