"""The settings that determine the numbers of a pw.x label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from ..meshes import Mesh, check_one_mesh, known_mesh, mesh_for_cell
from ..protocols import with_overrides
from ..pseudopotentials import Pseudopotential


def _mesh(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(
            f"k-points must be three integers, not {value!r}: pw.x has no finite field for a Gamma mesh; "
            "write [1, 1, 1] or more"
        )
    return value


_Magnetization = Annotated[float, Field(ge=-1, le=1)]


class PwSettings(BaseModel):
    """Everything that determines the numbers of a label, apart from the frame, pseudopotentials and stencil.

    Attributes:
        protocol: name of the level of theory, for people.
        ecutwfc: plane-wave cutoff, Ry.
        ecutrho: density cutoff, Ry; four times ``ecutwfc`` where None.
        kpoints: Monkhorst-Pack mesh of the parent crystal along its three lattice vectors, including Gamma.
        kpoint_density: instead of ``kpoints``: the least N_i |a_i| in A, one for all or one for each lattice vector of
            the parent; ``for_cell`` makes a mesh of it.
        conv_thr: SCF threshold on the estimated energy error, Ry.
        mixing_beta: SCF mixing.
        electron_maxstep: most SCF iterations.
        nberrycyc: SCF cycles, in each of which the field operator is built anew.
        input_dft: functional that overrides the files', e.g. ``PBE``.
        stress: compute the stress, at zero field only (pw.x has no field term in it).
        nspin: 2 for a spin-polarized insulator.
        starting_magnetization: by element, -1 to 1, where the SCF starts; several values are taken in turn by the atoms
            of the element, for antiferromagnets.
        tot_magnetization: of the cell, Bohr magnetons; with ``nspin`` 2 it is zero, as pw.x 6.7 differentiates a net
            moment wrongly in a field (measured: BH triplet, dP/dE 37 % off the enthalpy's second difference and Z* 14 %
            off dP/du, while states without a net moment, antiferromagnets too, agree within 0.1 %).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: str = "custom"
    ecutwfc: PositiveFloat
    ecutrho: PositiveFloat | None = None
    kpoints: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt] | None, BeforeValidator(_mesh)] = None
    kpoint_density: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    conv_thr: PositiveFloat = 1e-10
    mixing_beta: Annotated[float, Field(gt=0, le=1)] = 0.7
    electron_maxstep: PositiveInt = 100
    nberrycyc: PositiveInt = 1
    input_dft: str | None = None
    stress: bool = True
    nspin: Literal[1, 2] = 1
    starting_magnetization: dict[str, _Magnetization | tuple[_Magnetization, ...]] = {}
    tot_magnetization: float = 0.0

    @model_validator(mode="after")
    def _one_mesh(self) -> PwSettings:
        check_one_mesh(self.kpoints, self.kpoint_density)
        return self

    @model_validator(mode="after")
    def _spins(self) -> PwSettings:
        if self.tot_magnetization != 0:
            raise ValueError(
                f"tot_magnetization must be 0, not {self.tot_magnetization:g}: pw.x differentiates a state with a net "
                "moment wrongly in a field; antiferromagnetic and nonmagnetic insulators work"
            )
        if self.nspin == 1 and self.starting_magnetization:
            raise ValueError("starting_magnetization needs nspin: 2")
        if self.nspin == 2 and not self.starting_magnetization:
            raise ValueError("nspin: 2 needs starting_magnetization, e.g. {Ni: [0.5, -0.5]}, or it ends without spin")
        return self

    @property
    def mesh(self) -> Mesh:
        """The k-mesh.

        Raises:
            ValueError: it follows from a density and a cell; see ``for_cell``.
        """
        return known_mesh(self.kpoints)

    def for_cell(self, cell: np.ndarray, parent_cell: np.ndarray | None = None) -> PwSettings:
        """The settings with the mesh of one cell; arguments and errors as of ``meshes.mesh_for_cell``."""
        mesh = mesh_for_cell(self.kpoints, self.kpoint_density, cell, parent_cell)
        return self.model_copy(update={"kpoints": mesh, "kpoint_density": None})

    @classmethod
    def from_protocol(cls, name: str, **overrides: Any) -> PwSettings:
        """The named level of theory of ``dft_inputs/protocols``, with single settings replaced.

        Raises:
            ValueError: unknown protocol, unknown or invalid setting.
        """
        if name not in protocols():
            raise ValueError(f"unknown protocol {name!r}; there are {', '.join(protocols())}")
        return cls(**with_overrides(name, yaml.safe_load((_folder() / f"{name}.yaml").read_text()), overrides))

    def identity(self) -> dict[str, Any]:
        """What determines the converged numbers, resolved: not the protocol's name, nor the way to convergence.

        Raises:
            ValueError: the mesh is not known yet; see ``for_cell``.
        """
        spin = {"nspin", "starting_magnetization", "tot_magnetization"} if self.nspin == 1 else set()
        left_out = {"protocol", "mixing_beta", "electron_maxstep", "kpoint_density", *spin}
        dumped = self.model_dump(mode="json", exclude=left_out)
        return {**dumped, "kpoints": list(self.mesh), "ecutrho": self.ecutrho or 4 * self.ecutwfc}

    def check_cell(self, cell: np.ndarray) -> None:
        """Refuse a mesh on which pw.x would take a wrong reciprocal vector.

        With a single k-point along a lattice vector pw.x assumes that the vector lies along its Cartesian axis.

        Raises:
            ValueError: one k-point along a skew vector.
        """
        for axis, count in enumerate(self.mesh):
            across = [cell[axis, other] for other in range(3) if other != axis]
            across += [cell[other, axis] for other in range(3) if other != axis]
            if count == 1 and np.abs(across).max() > 1e-6:
                raise ValueError(
                    f"pw.x needs at least two k-points along lattice vector {axis + 1}, which is not along a Cartesian "
                    f"axis; raise kpoints from {list(self.mesh)}"
                )

    def check_electrons(self, species: Iterable[str], pseudopotentials: Mapping[str, Pseudopotential]) -> None:
        """Refuse an odd number of electrons, and magnetizations of elements that are not there.

        Cells are neutral: there is no setting for a charge.

        Raises:
            ValueError: a half-filled band, or a magnetization for no atom.
        """
        symbols = list(species)
        electrons = sum(pseudopotentials[symbol].z_valence for symbol in symbols)
        if abs(electrons - 2 * round(electrons / 2)) > 1e-6:
            raise ValueError(
                f"{electrons:g} electrons leave a band half filled, and fields need an insulator; label a cell with an "
                "even number of electrons (charged cells and net moments are not supported)"
            )
        if absent := sorted(set(self.starting_magnetization) - set(symbols)):
            raise ValueError(f"starting_magnetization names {absent[0]}, which the crystal does not hold")


def protocols() -> list[str]:
    """Names of the levels of theory that ship with the package."""
    return sorted(Path(entry.name).stem for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _folder() -> Any:
    return resources.files(__name__.rsplit(".", 2)[0]) / "protocols"
