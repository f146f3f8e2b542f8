"""The file of a convergence study: a base level of theory, what is varied about it, and the accuracy wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from ...dft_inputs.engine import LevelOfTheory
from ...dft_inputs.espresso.settings import PwSettings
from ...dft_inputs.quantities import Charge, FieldStrength, Force, Share
from ..config import ConfigError, ProjectConfig, Section, first_error, load_project

FILE = "converge.yaml"
"""What the file is called where only its folder is named."""

Parameter = Literal["kpoints", "ecutwfc", "ecut", "encut", "field_step", "conv_thr", "tolvrs", "ediff"]
PARAMETERS: tuple[Parameter, ...] = get_args(Parameter)
CUTOFFS: dict[Parameter, str] = {"ecutwfc": "Ry", "ecut": "Ha", "encut": "eV"}
"""Plane-wave cutoff of each code, as its settings call it, and its unit."""
THRESHOLDS: dict[Parameter, str] = {"conv_thr": "Ry", "tolvrs": "", "ediff": "eV"}
"""SCF threshold of each code, as its settings call it, and its unit."""


def _mesh(value: Any) -> Any:
    """One number stands for all three directions."""
    return (value,) * 3 if isinstance(value, int) and not isinstance(value, bool) else value


Mesh = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], BeforeValidator(_mesh)]
Value = Mesh | float


class VarySection(Section):
    """Values of each parameter, tried one at a time; that of the base level of theory is added by itself.

    Attributes:
        kpoints: meshes; one number stands for all three directions.
        ecutwfc: plane-wave cutoffs of pw.x, Ry. A density cutoff of the base keeps its ratio.
        ecut, encut: those of ABINIT, Ha, and of VASP, eV.
        field_step: steps of the field stencil, V/A.
        conv_thr: SCF thresholds of pw.x, Ry.
        tolvrs, ediff: those of ABINIT, on the squared residual of the potential, and of VASP, eV.
    """

    kpoints: tuple[Mesh, ...] = ()
    ecutwfc: tuple[PositiveFloat, ...] = ()
    ecut: tuple[PositiveFloat, ...] = ()
    encut: tuple[PositiveFloat, ...] = ()
    field_step: tuple[Annotated[FieldStrength, Field(gt=0)], ...] = ()
    conv_thr: tuple[PositiveFloat, ...] = ()
    tolvrs: tuple[PositiveFloat, ...] = ()
    ediff: tuple[PositiveFloat, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> VarySection:
        if not self.parameters:
            raise ValueError(f"give values of at least one of {', '.join(PARAMETERS)}")
        return self

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Those that are varied."""
        return tuple(name for name in PARAMETERS if getattr(self, name))

    def series(self, parameter: Parameter, base: Value) -> list[Value]:
        """All values of a parameter in the order of the tables; empty where it is not varied.

        Towards convergence: denser meshes, higher cutoffs, tighter thresholds. Field steps go from large to small,
        of which neither end is the better one.
        """
        values = getattr(self, parameter)
        if not values:
            return []
        distinct: list[Value] = []
        for value in (base, *values):
            if not any(same(value, other) for other in distinct):
                distinct.append(value)
        if parameter == "kpoints":
            return sorted(distinct, key=lambda mesh: (np.prod(mesh), mesh))
        return sorted(distinct, reverse=parameter not in CUTOFFS)  # type: ignore[type-var]


def same(one: Value, other: Value) -> bool:
    """Two values are the same setting: numbers up to rounding, as they may come in different units."""
    return bool(np.allclose(one, other, rtol=1e-9, atol=0))


class Tolerances(Section):
    """Largest errors wanted of a label; those not given are reported but not judged.

    Attributes:
        born_effective_charges: of any component of Z*, e.
        dielectric: of any component of eps_inf over its mean diagonal.
        forces: of any component at zero field, eV/A.
    """

    born_effective_charges: Annotated[Charge, Field(gt=0)] | None = None
    dielectric: Annotated[Share, Field(gt=0, lt=1)] | None = None
    forces: Annotated[Force, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Tolerances:
        if not self.model_dump(exclude_none=True):
            raise ValueError("give at least one, e.g. {born_effective_charges: 0.01 e, dielectric: 1 %}")
        return self


class ConvergenceConfig(ProjectConfig):
    """A convergence study. ``label`` is the base, about which one parameter at a time is varied.

    Attributes:
        vary: the values.
        tolerances: the accuracy wanted.
    """

    directory: Path = Path("run/convergence")
    workers: PositiveInt = 1
    vary: VarySection
    tolerances: Tolerances


def load_convergence(path: Path) -> ConvergenceConfig:
    """Read the file of a study, or the ``converge.yaml`` of a folder.

    Raises:
        ConfigError: see ``load_project``.
    """
    return load_project(path / FILE if path.is_dir() else path, ConvergenceConfig)


def varied_settings(base: LevelOfTheory, parameter: Parameter, value: Value) -> LevelOfTheory:
    """The base settings with one of them changed.

    Raises:
        ConfigError: a value that the code cannot do.
    """
    changes: dict[str, Any] = {parameter: value}
    if parameter == "kpoints":
        changes["kpoint_density"] = None
    if isinstance(base, PwSettings) and base.ecutrho and parameter == "ecutwfc" and isinstance(value, float):
        changes["ecutrho"] = base.ecutrho * value / base.ecutwfc
    try:
        return type(base)(**{**base.model_dump(), **changes})
    except ValueError as error:
        raise ConfigError(f"vary.{parameter}: {first_error(error)}") from error


def value_text(parameter: Parameter, value: Value) -> str:
    """A value for people, with its unit."""
    if isinstance(value, Sequence):
        return "x".join(map(str, value))
    if parameter == "field_step":
        return f"{value * 100:.4g} MV/cm"
    if parameter in CUTOFFS:
        return f"{value:g} {CUTOFFS[parameter]}"
    return f"{value:.3g} {THRESHOLDS[parameter]}".replace("e-0", "e-").rstrip()
