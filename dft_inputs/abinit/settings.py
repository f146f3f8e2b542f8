"""The settings that determine the numbers of an ABINIT label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from ..insulators import half_filled
from ..meshes import Mesh, check_one_mesh, known_mesh, mesh_for_cell
from ..protocols import with_overrides
from ..pseudopotentials import Pseudopotential

_PROTOCOLS: dict[str, dict[str, Any]] = {
    "fast": {"ecut": 6.0, "kpoints": (2, 2, 2)},
    "standard": {"ecut": 30.0, "kpoint_density": 25.0},
    "paper": {"ecut": 50.0, "kpoint_density": 17.0, "ixc": 11},
}
"""Cutoffs, meshes and functionals of the protocols of pw.x; see the notes in ``protocols/*.yaml``."""


class AbinitSettings(BaseModel):
    """Everything that determines the numbers of a label, apart from the frame, pseudopotentials and stencil.

    Attributes:
        protocol: name of the level of theory, for people.
        ecut: plane-wave cutoff, Ha (half the ``ecutwfc`` of pw.x).
        kpoints: mesh of the parent crystal along its three lattice vectors, including Gamma.
        kpoint_density: instead of ``kpoints``: the least N_i |a_i| in A, one for all or one for each lattice vector.
        tolvrs: SCF threshold on the squared residual of the potential. Measured on eight atoms of AlAs: 1e-12 leaves
            5e-5 e in Z* and 6e-6 e^2 A^2/eV in alpha at a step of 0.36 MV/cm, 1e-10 nearly 1e-3 e.
        nstep: most SCF iterations.
        diemac: macroscopic dielectric constant that the mixing assumes; it steers the way to convergence alone.
        ixc: functional in ABINIT's numbers, where it is not to be that of the pseudopotential files; with Goedecker's
            (1, a fit of the LDA by Teter) 2 is the Perdew-Zunger form that pw.x takes for them.
        stress: compute the stress, at every field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: str = "custom"
    ecut: PositiveFloat
    kpoints: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    kpoint_density: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    tolvrs: Annotated[float, Field(gt=0, le=1e-8)] = 1e-12
    nstep: PositiveInt = 60
    diemac: Annotated[float, Field(ge=1)] = 6.0
    ixc: int | None = None
    stress: bool = True

    @model_validator(mode="after")
    def _one_mesh(self) -> AbinitSettings:
        check_one_mesh(self.kpoints, self.kpoint_density)
        return self

    @classmethod
    def from_protocol(cls, name: str, **overrides: Any) -> AbinitSettings:
        """A named level of theory, with single settings replaced.

        Raises:
            ValueError: unknown protocol, unknown or invalid setting.
        """
        if name not in _PROTOCOLS:
            raise ValueError(f"unknown protocol {name!r} of ABINIT; there are {', '.join(_PROTOCOLS)}")
        return cls(**with_overrides(name, _PROTOCOLS[name], overrides))

    @property
    def nspin(self) -> int:
        """Labels are without spin polarization."""
        return 1

    @property
    def mesh(self) -> Mesh:
        """The k-mesh.

        Raises:
            ValueError: it follows from a density and a cell; see ``for_cell``.
        """
        return known_mesh(self.kpoints)

    def for_cell(self, cell: np.ndarray, parent_cell: np.ndarray | None = None) -> AbinitSettings:
        """The settings with the mesh of one cell; arguments and errors as of ``meshes.mesh_for_cell``."""
        mesh = mesh_for_cell(self.kpoints, self.kpoint_density, cell, parent_cell)
        return self.model_copy(update={"kpoints": mesh, "kpoint_density": None})

    def identity(self) -> dict[str, Any]:
        """What determines the converged numbers, resolved: not the protocol's name, nor the way to convergence.

        Raises:
            ValueError: the mesh is not known yet; see ``for_cell``.
        """
        dumped = self.model_dump(mode="json", exclude={"protocol", "nstep", "diemac", "kpoint_density"})
        return {**dumped, "kpoints": list(self.mesh)}

    def check_electrons(self, species: Iterable[str], pseudopotentials: Mapping[str, Pseudopotential]) -> None:
        """Refuse an odd number of electrons; cells are neutral.

        Raises:
            ValueError: a half-filled band.
        """
        if half := half_filled(sum(pseudopotentials[symbol].z_valence for symbol in species)):
            raise ValueError(f"{half.reason}; label a cell with an even number of electrons")
