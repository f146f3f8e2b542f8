"""The vocabulary of the project: frames, their labels, where they came from and how far they can be trusted.

Records are frozen pydantic models. Arrays are NumPy arrays inside and nested lists in JSON, and a record that was
written reads back equal. Units are those of ``docs/conventions.md``: eV, A, e, V/A.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, computed_field, model_validator

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

SCHEMA_VERSION = 1
"""Of every record that is stored as a document. Those written before records carried it count as version 0."""

LABELS = ("enthalpy", "forces", "stress", "polarization", "born_effective_charges", "polarizability")
"""Every quantity a frame may be labelled with, in the order of tables and reports."""


def _shaped(*shape: int | None) -> BeforeValidator:
    """Validate a finite float array of a fixed shape; None stands for any length (atoms)."""

    def validate(value: Any) -> np.ndarray:
        array = np.array(value, dtype=float)
        if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
            raise ValueError(f"expected an array of shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError("array has NaN or infinite entries")
        array.flags.writeable = False
        return array

    return BeforeValidator(validate)


_AS_LISTS = PlainSerializer(lambda array: array.tolist())

Vector = Annotated[np.ndarray, _shaped(3), _AS_LISTS]
Matrix = Annotated[np.ndarray, _shaped(3, 3), _AS_LISTS]
AtomVectors = Annotated[np.ndarray, _shaped(None, 3), _AS_LISTS]
AtomMatrices = Annotated[np.ndarray, _shaped(None, 3, 3), _AS_LISTS]


class Record(BaseModel):
    """Base of all records: frozen, closed to unknown keys, comparable by content."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_derived(cls, data: Any) -> Any:
        """Derived values are written for queries and computed again on reading."""
        if isinstance(data, dict):
            derived = cls.model_computed_fields
            return {key: value for key, value in data.items() if key not in derived and not key.startswith("@")}
        return data

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.model_dump() == other.model_dump()  # type: ignore[union-attr]

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


class StoredRecord(Record):
    """A record that a store keeps as a document of its own.

    Attributes:
        schema_version: of the schema it was written with; a newer one than ours is refused, an older one is read as far
            as defaults fill what it lacks, see ``workflows.migrations``.
    """

    schema_version: int = SCHEMA_VERSION

    @model_validator(mode="before")
    @classmethod
    def _not_newer(cls, data: Any) -> Any:
        version = data.get("schema_version", 0) if isinstance(data, dict) else 0
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ValueError(
                f"{cls.__name__} was written by a newer fieldloop (schema {version}, this one reads {SCHEMA_VERSION}): "
                "upgrade it"
            )
        return data


class Frame(Record):
    """One geometry.

    Attributes:
        species: chemical symbol of each atom, (N,).
        positions: Cartesian positions in A, (N, 3); unwrapped positions are kept, as P depends on them.
        cell: lattice vectors as rows in A, (3, 3).
        pbc: periodicity along each lattice vector.
    """

    species: tuple[str, ...]
    positions: AtomVectors
    cell: Matrix
    pbc: tuple[bool, bool, bool] = (True, True, True)

    @model_validator(mode="after")
    def _consistent(self) -> Frame:
        if len(self.species) != len(self.positions):
            raise ValueError(f"{len(self.species)} species but {len(self.positions)} positions")
        if not self.species:
            raise ValueError("a frame needs at least one atom")
        return self

    def __len__(self) -> int:
        return len(self.species)

    @computed_field
    @property
    def frame_id(self) -> str:
        """Content hash of the geometry alone: rounded to 1e-6 A, independent of the order of the atoms."""
        rows = np.round(self.positions * 1e6).astype(np.int64)
        atoms = sorted((symbol, *map(int, row)) for symbol, row in zip(self.species, rows, strict=True))
        cell = np.round(self.cell * 1e6).astype(np.int64).tolist()
        return hashlib.sha256(repr((atoms, cell, self.pbc)).encode()).hexdigest()[:16]

    @computed_field
    @property
    def formula(self) -> str:
        """Hill-free formula with species in alphabetical order, e.g. ``Al4As4``."""
        counts = Counter(self.species)
        return "".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))

    @property
    def volume(self) -> float:
        """Cell volume in A^3."""
        return float(abs(np.linalg.det(self.cell)))

    @classmethod
    def from_atoms(cls, atoms: Atoms) -> Frame:
        """Take the geometry of an ASE ``Atoms``."""
        return cls(
            species=tuple(atoms.get_chemical_symbols()),
            positions=atoms.get_positions(),
            cell=atoms.cell.array,
            pbc=tuple(bool(p) for p in atoms.pbc),  # type: ignore[arg-type]
        )

    @classmethod
    def from_structure(cls, structure: Structure) -> Frame:
        """Take the geometry of an ordered pymatgen ``Structure``."""
        return cls(
            species=tuple(site.specie.symbol for site in structure),
            positions=structure.cart_coords,
            cell=structure.lattice.matrix,
        )

    def to_atoms(self) -> Atoms:
        """The geometry as an ASE ``Atoms``."""
        from ase import Atoms  # noqa: PLC0415  (ASE takes half a second to import; records are read everywhere)

        return Atoms(list(self.species), positions=self.positions, cell=self.cell, pbc=self.pbc)


class ElectricResponse(Record):
    """The labels of a frame at one field. A missing label is None and is masked in training, never filled.

    Attributes:
        field: the field at which the labels hold, V/A, (3,).
        enthalpy: U(R, E) in eV, on the branch of ``polarization``.
        forces: -dU/dR in eV/A, (N, 3).
        stress: (1/V) dU/d(strain) at fixed Cartesian field in eV/A^3, ASE sign, (3, 3).
        polarization: P = -dU/dE, the cell dipole in e A, (3,), known modulo ``polarization_quanta``.
        polarization_quanta: rows span the lattice of quanta of P in e A, (3, 3).
        born_effective_charges: dP_a/dr_ib = dF_ib/dE_a in e, (N, 3, 3), index [atom, field a, displacement b].
        polarizability: dP_a/dE_b in e^2 A^2/eV, (3, 3).
    """

    field: Vector = np.zeros(3)
    enthalpy: float | None = None
    forces: AtomVectors | None = None
    stress: Matrix | None = None
    polarization: Vector | None = None
    polarization_quanta: Matrix | None = None
    born_effective_charges: AtomMatrices | None = None
    polarizability: Matrix | None = None

    @computed_field
    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels present."""
        return tuple(name for name in LABELS if getattr(self, name) is not None)


class FieldPoint(Record):
    """One SCF of a stencil, on the branch of the stencil's zero point.

    Attributes:
        name: ``zero``, ``+x``, ``-x``, ``+2x``, ...
        field: V/A, (3,).
        enthalpy: eV.
        forces: eV/A, (N, 3).
        polarization: e A, (3,).
        stress: eV/A^3, (3, 3); only where the code gives one (pw.x: at zero field).
        scf_accuracy: the code's estimate of the remaining energy error, eV.
        scf_iterations: iterations over all Berry cycles.
        seconds: wall time of the run.
        polarization_accuracy: how far P moved in the last SCF iteration, e A; None where there was no other.
        magnetization: of the cell, Bohr magnetons; None without spin polarization.
        absolute_magnetization: integral of its absolute value, Bohr magnetons; None without spin polarization.
        rotated_from: the point it follows from by the symmetry of the crystal; no SCF was run for it.
    """

    name: str
    field: Vector
    enthalpy: float
    forces: AtomVectors
    polarization: Vector
    stress: Matrix | None = None
    scf_accuracy: float = 0.0
    scf_iterations: int = 0
    seconds: float = 0.0
    polarization_accuracy: float | None = None
    magnetization: float | None = None
    absolute_magnetization: float | None = None
    rotated_from: str | None = None


class StencilDifferences(Record):
    """Responses by a stencil of a lower order, from some of the points of the label's own.

    Attributes:
        order: 2 beside a label of order 4.
        born_effective_charges: e, (N, 3, 3), index [atom, field a, displacement b].
        polarizability: e^2 A^2/eV, (3, 3).
    """

    order: int
    born_effective_charges: AtomMatrices
    polarizability: Matrix


class Quality(Record):
    """The checks of a label as numbers; ``flags`` names those that failed.

    A flagged frame is stored but not trained on.

    Attributes:
        scf_accuracy: largest remaining SCF energy error of the points, eV.
        critical_field_fraction: largest e |E.a_i| N_i / E_gap over the points; None where the gap is unknown.
        enthalpy_law_error: relative violation of H(+E) + H(-E) - 2 H(0) = -alpha E^2, largest direction.
        enthalpy_slope_error: violation of H(+E) - H(-E) = -2 P.E, e A, largest direction.
        polarizability_asymmetry: largest antisymmetric part of alpha over its mean diagonal.
        polarization_accuracy: what the last SCF iteration changed in P, e A, largest of the points.
        born_effective_charges_accuracy: error of Z* that the remaining SCF errors suggest, e.
        stencil_error: largest |Z* of order 4 - Z* of order 2|, e; None for other orders.
        magnetization_change: largest change of total or absolute magnetization between the points, Bohr magnetons:
            spins that flipped on the way; None without spin polarization.
        acoustic_sum_rule: largest component of the mean Z* of the atoms, e; None for codes that remove the net force.
        repairs: what was repaired (branch jumps), one line each.
        flags: names of the checks that failed.
    """

    scf_accuracy: float | None = None
    critical_field_fraction: float | None = None
    enthalpy_law_error: float | None = None
    enthalpy_slope_error: float | None = None
    polarizability_asymmetry: float | None = None
    polarization_accuracy: float | None = None
    born_effective_charges_accuracy: float | None = None
    stencil_error: float | None = None
    magnetization_change: float | None = None
    acoustic_sum_rule: float | None = None
    repairs: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @computed_field
    @property
    def passed(self) -> bool:
        """True where no check failed."""
        return not self.flags


class Provenance(Record):
    """How a label was computed. Paths and parallelism are kept apart from what identifies it.

    Attributes:
        code: ``pw.x``, ``abinit``, ``vasp``, ...; ``import`` where the label came from a file.
        code_version: as the code prints it.
        protocol: name of the level of theory.
        inputs_hash: hash of everything that determines the numbers: resolved inputs, pseudopotentials, stencil.
        settings_hash: hash of the settings that the labels of a data set share: without mesh, stencil and files.
        kpoints: the mesh of this cell.
        pseudopotentials: SHA-256 of the file of each element.
        pseudopotential_family: a hash over them.
        scf_count: runs of the code that the label took.
        scf_iterations: of all of them.
        seconds: wall time, s.
        cpu_seconds: processor time of one rank, s.
        directory: where the files lie, relative to the project.
    """

    code: str
    code_version: str = ""
    protocol: str = ""
    inputs_hash: str = ""
    settings_hash: str = ""
    kpoints: tuple[int, int, int] | None = None
    pseudopotentials: dict[str, str] = {}
    pseudopotential_family: str = ""
    scf_count: int = 0
    scf_iterations: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    directory: str = ""


class Proposal(Record):
    """Why a frame was labelled: where it came from, and what the model that proposed it thought of it.

    Attributes:
        origin: ``parent``, ``rattle``, ``dynamics``, ``import``, ...
        generation: 0 for the first frames.
        parent_frame_id: the frame it was made from.
        model_id: the model whose dynamics met it.
        temperature: K; ``field``: V/A, (3,); ``time``: fs into the run.
        uncertainty: calibrated uncertainty by label name, in the label's unit.
        reason: one line for people.
    """

    origin: str
    generation: int = 0
    parent_frame_id: str | None = None
    model_id: str | None = None
    temperature: float | None = None
    field: Vector | None = None
    time: float | None = None
    uncertainty: dict[str, float] = {}
    reason: str = ""


class LabelledFrame(StoredRecord):
    """A frame with its labels, or with the reason why it has none.

    Attributes:
        label_id: hash of the frame and of all that determines the label's numbers.
        frame: the geometry.
        status: ``done``, or ``failed`` with the reason in ``failure``.
        failure: one line; None for a finished label.
        response: the labels, those that there are.
        field_points: the runs of the stencil, each with what it gave.
        lower_orders: the responses of every lower order that the field points of a higher one contain.
        proposal: where the frame came from.
        provenance: how the label was computed.
        quality: the checks of the label.
    """

    label_id: str
    frame: Frame
    status: Literal["done", "failed"] = "done"
    failure: str | None = None
    response: ElectricResponse = ElectricResponse()
    field_points: tuple[FieldPoint, ...] = ()
    lower_orders: tuple[StencilDifferences, ...] = ()
    proposal: Proposal = Proposal(origin="import")
    provenance: Provenance
    quality: Quality = Quality()

    @property
    def trainable(self) -> bool:
        """True for a finished label whose checks all passed."""
        return self.status == "done" and self.quality.passed


def imported_label_id(code: str, frame: Frame, response: ElectricResponse) -> str:
    """Name of a label made elsewhere, whose inputs are not known in full: a hash of what it says of which frame."""
    content = f"{code} {frame.frame_id} {response.model_dump_json()}"
    return f"import-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
