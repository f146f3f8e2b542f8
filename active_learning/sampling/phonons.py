"""Thermal displacements of the harmonic crystal, classical or quantum, from phonopy's or a model's force constants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from warnings import catch_warnings

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from pydantic import Field, PositiveInt, model_validator

from ...dft_inputs.quantities import Length, Temperature
from ...dft_inputs.records import Frame, Proposal
from ...dft_inputs.units import AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV, BOLTZMANN, REDUCED_PLANCK
from .frames import Sampled, SeedError, SourceSettings, distinct_frames, moved
from .structures import matched, strain_between

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

_THZ = 1e3 / (2 * np.pi)
"""From rad/fs to THz."""
_STILL = 1e-6
"""THz; a mode below it does not move at all."""
_BESIDE = ("FORCE_SETS", "FORCE_CONSTANTS", "force_constants.hdf5")
_SAME_SITE = 0.1
"""A, and strain of 1 %: within it the crystal of a phonopy file is the parent."""


class PhononSettings(SourceSettings):
    """Harmonic thermal motion about the parent.

    Attributes:
        force_constants: file of phonopy that holds or leads to force constants (``phonopy_params.yaml``, or
            ``phonopy_disp.yaml`` beside FORCE_SETS); or
        model: folder of a model, whose forces are differenced.
        supercell: copies of the parent along its lattice vectors, with ``model``.
        displacement: of the finite differences, A.
        temperatures: taken in turn.
        statistics: ``quantum`` (zero-point motion included) or ``classical``.
        imaginary: ``refuse`` a crystal with imaginary modes, or ``freeze`` these modes, so that nothing moves along
            them.
        softest: modes below it move as one of this frequency would, THz, as the harmonic amplitude of a soft mode
            means nothing.
        max_force: largest force on an atom of the parent with ``model``, eV/A; relax a parent that has more.
    """

    kind: Literal["phonon"] = "phonon"
    force_constants: Path | None = None
    model: Path | None = None
    supercell: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1)
    displacement: Annotated[Length, Field(gt=0.0, le=0.1)] = 0.01
    temperatures: tuple[Annotated[Temperature, Field(ge=0.0)], ...] = Field(default=(300.0,), min_length=1)
    statistics: Literal["quantum", "classical"] = "quantum"
    imaginary: Literal["refuse", "freeze"] = "refuse"
    softest: float = Field(default=0.3, ge=0.0)
    max_force: float = Field(default=0.1, gt=0.0)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of phonopy with those beside it that it may lead to, or the model."""
        if self.force_constants is not None:
            beside = (self.force_constants.parent / name for name in _BESIDE)
            return (self.force_constants, *(path for path in beside if path.is_file()))
        return tuple(sorted(self.model.glob("*.*"))) if self.model is not None else ()

    @model_validator(mode="after")
    def _one_origin(self) -> PhononSettings:
        if (self.force_constants is None) == (self.model is None):
            raise ValueError("phonons need either force_constants (a file of phonopy) or model (a folder)")
        return self


@dataclass(frozen=True)
class HarmonicCrystal:
    """A crystal and its force constants.

    Attributes:
        frame: at rest, N atoms.
        force_constants: d2U/dr_ia dr_jb, eV/A^2, (N, N, 3, 3).
    """

    frame: Frame
    force_constants: np.ndarray


@dataclass(frozen=True)
class NormalModes:
    """Modes of a periodic crystal, the three translations left out.

    Attributes:
        frequencies: THz, (M,); imaginary ones negative.
        patterns: displacements in A for a normal coordinate of 1 sqrt(u) A, (M, N, 3).
    """

    frequencies: np.ndarray
    patterns: np.ndarray


def phonon_frames(parent: Frame, settings: PhononSettings) -> list[Sampled]:
    """Frames of the thermal ensemble of the harmonic crystal.

    Raises:
        SeedError: unreadable force constants, a parent far from rest, imaginary modes where they are refused, or
            displacements so large that atoms overlap.
    """
    if settings.force_constants is not None:
        crystal = phonopy_crystal(settings.force_constants, parent)
    else:
        crystal = differenced_crystal(parent, _model_calculator(settings.model), settings)
    return harmonic_frames(parent, crystal, settings)


def harmonic_frames(parent: Frame, crystal: HarmonicCrystal, settings: PhononSettings) -> list[Sampled]:
    """Frames of a harmonic crystal at the temperatures of the settings, taken in turn.

    Raises:
        SeedError: imaginary modes where they are refused, or displacements so large that atoms overlap.
    """
    modes = normal_modes(crystal)
    imaginary = int((modes.frequencies < -_STILL).sum())
    if imaginary and settings.imaginary == "refuse":
        raise SeedError(
            f"{crystal.frame.formula} has {imaginary} imaginary modes, down to {-modes.frequencies.min():.2f}i THz, so "
            "no harmonic thermal motion: relax the structure, or set imaginary: freeze"
        )

    def draw(rng: np.random.Generator, index: int) -> Sampled:
        temperature = settings.temperatures[index % len(settings.temperatures)]
        amplitudes = mode_amplitudes(modes.frequencies, temperature, settings.statistics, settings.softest)
        moves = np.einsum("m,mia->ia", amplitudes * rng.normal(size=len(amplitudes)), modes.patterns)
        reason = f"{settings.statistics} harmonic motion at {temperature:g} K"
        reason += f", {imaginary} imaginary modes frozen" if imaginary else ""
        proposal = Proposal(origin="phonon", parent_frame_id=parent.frame_id, temperature=temperature, reason=reason)
        return moved(crystal.frame, moves), proposal

    hint = f"at {max(settings.temperatures):g} K: lower the temperatures, or raise softest"
    return distinct_frames(crystal.frame, settings, settings.kind, draw, hint)


def normal_modes(crystal: HarmonicCrystal) -> NormalModes:
    """Diagonalize the dynamical matrix of a cell at its Gamma point, the common translation projected out."""
    masses = atomic_masses[[atomic_numbers[symbol] for symbol in crystal.frame.species]]
    roots = np.repeat(np.sqrt(masses), 3)
    size = len(roots)
    dynamical = crystal.force_constants.transpose(0, 2, 1, 3).reshape(size, size) / np.outer(roots, roots)
    shifts = np.tile(np.eye(3), (len(masses), 1)) * roots[:, None] / np.sqrt(masses.sum())
    # The complement of the translations, as an orthonormal basis.
    basis = np.linalg.svd(shifts)[0][:, 3:]
    values, vectors = np.linalg.eigh(basis.T @ ((dynamical + dynamical.T) / 2) @ basis)
    squares = values / AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV
    patterns = (basis @ vectors / roots[:, None]).T.reshape(-1, len(masses), 3)
    return NormalModes(np.sign(squares) * np.sqrt(np.abs(squares)) * _THZ, patterns)


def mode_amplitudes(
    frequencies: np.ndarray, temperature: float, statistics: Literal["quantum", "classical"], softest: float = 0.0
) -> np.ndarray:
    """Standard deviation of each normal coordinate, sqrt(u) A, (M,).

    Quantum: hbar / (2 w) coth(hbar w / 2 k T); classical: k T / w^2. Imaginary modes have none, nor have modes of
    zero frequency.

    Args:
        frequencies: THz, (M,).
        temperature: K.
        statistics: of the oscillators.
        softest: lower frequencies count as this one, THz.
    """
    moving = np.asarray(frequencies) > _STILL
    omega = np.maximum(np.where(moving, frequencies, 1.0), softest) / _THZ
    thermal = BOLTZMANN * temperature
    if statistics == "classical":
        square = thermal / omega**2
    else:
        # coth(x) = 1 / tanh(x), which is 1 at zero temperature
        occupation = 1.0 if temperature == 0 else 1 / np.tanh(REDUCED_PLANCK * omega / (2 * thermal))
        square = REDUCED_PLANCK / (2 * omega) * occupation
    return np.where(moving, np.sqrt(square / AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV), 0.0)


def phonopy_crystal(path: Path, parent: Frame) -> HarmonicCrystal:
    """The supercell of a phonopy file; in the order and at the place of the parent where it is the parent.

    Raises:
        SeedError: phonopy is missing, or cannot make force constants from the file.
    """
    phonopy = _phonopy()
    try:
        phonons = phonopy.load(path, is_compact_fc=False, log_level=0)
    except Exception as error:  # phonopy raises whatever it stumbles over
        raise SeedError(
            f"phonopy cannot read {path}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if phonons.force_constants is None:
        raise SeedError(f"{path} leads to no force constants: put FORCE_SETS or FORCE_CONSTANTS beside it")
    cell = phonons.supercell
    frame = Frame(species=tuple(cell.symbols), positions=cell.positions, cell=cell.cell)
    crystal = HarmonicCrystal(frame, np.array(phonons.force_constants))
    return _as_parent(crystal, parent)


def _as_parent(crystal: HarmonicCrystal, parent: Frame) -> HarmonicCrystal:
    """The force constants on the parent's own atoms, where crystal and parent are the same."""
    frame = crystal.frame
    if sorted(frame.species) != sorted(parent.species) or strain_between(parent, frame) > _SAME_SITE / 10:
        return crystal
    here = frame.positions @ np.linalg.solve(frame.cell, parent.cell)
    order, moves = matched(parent, here, frame.species)
    if np.linalg.norm(moves - moves.mean(axis=0), axis=1).max() > _SAME_SITE:
        return crystal
    return HarmonicCrystal(parent, crystal.force_constants[np.ix_(order, order)])


def differenced_crystal(parent: Frame, calculator: Calculator, settings: PhononSettings) -> HarmonicCrystal:
    """Force constants by finite differences of a calculator's forces, as few as symmetry allows (by phonopy).

    Args:
        parent: the crystal at rest.
        calculator: any of ASE.
        settings: supercell, displacement and largest force.

    Raises:
        SeedError: phonopy is missing, or the parent is not at rest.
    """
    phonopy = _phonopy()
    from phonopy.structure.atoms import PhonopyAtoms  # noqa: PLC0415  (optional)

    cell = PhonopyAtoms(symbols=list(parent.species), cell=parent.cell, positions=parent.positions)
    with catch_warnings(action="ignore"):  # a supercell with fewer symmetries than its crystal is no concern
        phonons = phonopy.Phonopy(
            cell, supercell_matrix=np.diag(settings.supercell), primitive_matrix=np.eye(3), log_level=0
        )
    rest = _forces(phonons.supercell, calculator)
    if (largest := float(np.linalg.norm(rest, axis=1).max())) > settings.max_force:
        raise SeedError(
            f"{parent.formula} is not at rest with this calculator, forces up to {largest:.2f} eV/A: "
            "relax it, or raise max_force"
        )
    phonons.generate_displacements(distance=settings.displacement)
    # Phonopy assumes forces that vanish at rest.
    phonons.forces = [_forces(cell, calculator) - rest for cell in phonons.supercells_with_displacements or ()]
    phonons.produce_force_constants(show_drift=False)
    phonons.symmetrize_force_constants(show_drift=False)
    supercell = phonons.supercell
    frame = Frame(species=tuple(supercell.symbols), positions=supercell.positions, cell=supercell.cell)
    return _as_parent(HarmonicCrystal(frame, np.array(phonons.force_constants)), parent)


def _forces(cell: Any, calculator: Calculator) -> np.ndarray:
    from ase import Atoms  # noqa: PLC0415

    atoms = Atoms(cell.symbols, positions=cell.positions, cell=cell.cell, pbc=True, calculator=calculator)
    return atoms.get_forces()


def _model_calculator(folder: Path | None) -> Calculator:
    # torch takes seconds to import, and no other source needs it.
    from ...model.files import ModelFileError, load_model  # noqa: PLC0415
    from ...model.interfaces.ase import EnthalpyCalculator  # noqa: PLC0415

    if folder is None:
        raise SeedError("phonons need a model")
    try:
        return EnthalpyCalculator(load_model(folder).eval())
    except ModelFileError as error:
        raise SeedError(str(error)) from error


def _phonopy() -> Any:
    try:
        import phonopy  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise SeedError("phonon sources need phonopy: pip install 'fieldloop[phonons]'") from error
    return phonopy
