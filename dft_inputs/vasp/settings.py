"""The settings that determine the numbers of a VASP label."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from ..meshes import Mesh, check_one_mesh, known_mesh, mesh_for_cell
from ..protocols import with_overrides

PotcarLibrary = Literal["PBE", "PBE_52", "PBE_54", "PBE_64", "LDA", "LDA_52", "LDA_54", "LDA_64", "PW91"]
"""Names of pymatgen."""
IncarValue = bool | int | float | str | tuple[float, ...]

OWN_TAGS = frozenset(
    {
        *("ALGO", "PREC", "ENCUT", "EDIFF", "NELM", "ISMEAR", "SIGMA", "GGA", "LREAL", "LASPH", "ISYM", "NSW"),
        *("IBRION", "ISIF", "LWAVE", "LCHARG", "LCALCPOL", "LCALCEPS", "LEPSILON", "LPEAD", "EFIELD_PEAD", "KSPACING"),
        *("KGAMMA", "EFIELD", "IDIPOL", "LDIPOL", "LMONO", "DIPOL", "LBERRY", "NELECT", "LRPA"),
        # Energies without -E.P, densities that stay as they are, two components of a spinor.
        *("SKIP_EDOTP", "ICHARG", "LNONCOLLINEAR", "LSORBIT"),
    }
)
"""Tags that a field, the quality of a label or another setting fixes."""
NEUTRAL_TAGS = frozenset(
    {
        *("NELM", "KPAR", "NCORE", "NPAR", "NSIM", "LPLANE", "LSCALAPACK", "LSCALU", "NCSHMEM", "NBLOCK_FOCK"),
        *("AMIX", "BMIX", "AMIX_MAG", "BMIX_MAG", "AMIN", "MAXMIX", "IMIX", "NELMIN", "NELMDL", "NWRITE"),
    }
)
"""Tags of parallelism, printing and the way to convergence, which change no converged number."""

_PROTOCOLS: dict[str, dict[str, Any]] = {
    # For smoke tests; neither cutoff nor mesh is converged.
    "fast": {"encut": 300.0, "kpoints": (2, 2, 2), "ediff": 1e-7},
    # 1.3 times the largest ENMAX of most PAW files, as Pulay stress asks; the mesh is that of ``standard`` for pw.x.
    "standard": {"encut": 520.0, "kpoint_density": 25.0, "ediff": 1e-8},
}


class VaspSettings(BaseModel):
    """Everything that determines the numbers of a label, apart from the frame, the POTCAR files and the stencil.

    Attributes:
        protocol: name of the level of theory, for people.
        encut: plane-wave cutoff, eV.
        kpoints: mesh of the parent crystal along its three lattice vectors, centred on Gamma.
        kpoint_density: instead of ``kpoints``: the least N_i |a_i| in A, one for all or one for each lattice vector.
        ediff: SCF threshold at zero field, eV; VASP takes a hundredth of it in a field.
        sigma: Gaussian smearing, eV; small, so that an insulator stays one.
        nelm: most SCF iterations.
        gga: functional that overrides that of the POTCAR files, e.g. ``PE``, ``PS``.
        potcar_functional: pymatgen's name of the POTCAR library, e.g. ``PBE_54``.
        potcars: POTCAR by element, e.g. ``{"Ti": "Ti_pv"}``; the element's own name where it is not given.
        incar: further tags, e.g. ``{"ISPIN": 2}`` or those of DFT+U, or of parallelism, e.g. ``{"KPAR": 4}``. Lists
            by species (LDAUU) or atom (MAGMOM) follow POSCAR: species in the order of their first atom.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: str = "custom"
    encut: PositiveFloat = 520.0
    kpoints: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    kpoint_density: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    ediff: Annotated[float, Field(gt=0, le=1e-5)] = 1e-7
    sigma: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    nelm: PositiveInt = 200
    gga: str | None = None
    potcar_functional: PotcarLibrary = "PBE_54"
    potcars: dict[str, str] = {}
    incar: dict[str, IncarValue] = {}

    @field_validator("incar")
    @classmethod
    def _only_free_tags(cls, value: dict[str, IncarValue]) -> dict[str, IncarValue]:
        tags = {tag.upper(): setting for tag, setting in value.items()}
        if taken := sorted(OWN_TAGS & set(tags)):
            raise ValueError(f"incar cannot set {taken[0]}: a field or another setting fixes it")
        return tags

    @model_validator(mode="after")
    def _one_mesh(self) -> VaspSettings:
        check_one_mesh(self.kpoints, self.kpoint_density)
        return self

    @classmethod
    def from_protocol(cls, name: str, **overrides: Any) -> VaspSettings:
        """A named level of theory, with single settings replaced.

        Raises:
            ValueError: unknown protocol, unknown or invalid setting.
        """
        if name not in _PROTOCOLS:
            raise ValueError(f"unknown protocol {name!r} of VASP; there are {', '.join(_PROTOCOLS)}")
        return cls(**with_overrides(name, _PROTOCOLS[name], overrides))

    @property
    def mesh(self) -> Mesh:
        """The k-mesh.

        Raises:
            ValueError: it follows from a density and a cell; see ``for_cell``.
        """
        return known_mesh(self.kpoints)

    @property
    def nspin(self) -> int:
        """1, or 2 with ISPIN."""
        return int(self.incar.get("ISPIN", 1))  # type: ignore[arg-type]

    def for_cell(self, cell: np.ndarray, parent_cell: np.ndarray | None = None) -> VaspSettings:
        """The settings with the mesh of one cell; arguments and errors of ``meshes.mesh_for_cell``."""
        mesh = mesh_for_cell(self.kpoints, self.kpoint_density, cell, parent_cell)
        return self.model_copy(update={"kpoints": mesh, "kpoint_density": None})

    def identity(self) -> dict[str, Any]:
        """What determines the converged numbers: not the protocol's name, nor the way to convergence.

        Raises:
            ValueError: the mesh is not known yet; see ``for_cell``.
        """
        dumped = self.model_dump(mode="json", exclude={"protocol", "nelm", "kpoint_density"})
        incar = {tag: value for tag, value in dumped["incar"].items() if tag not in NEUTRAL_TAGS}
        return {**dumped, "incar": incar, "kpoints": list(self.mesh)}
