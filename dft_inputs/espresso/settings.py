"""The settings that determine the numbers of a pw.x label."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt


def _mesh(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(
            f"k-points must be three integers, not {value!r}: pw.x has no finite field for a Gamma mesh; "
            "write [1, 1, 1] or more"
        )
    return value


class PwSettings(BaseModel):
    """Everything that determines the numbers of a label, apart from the frame, pseudopotentials and stencil.

    Attributes:
        protocol: name of the level of theory, for people.
        ecutwfc: plane-wave cutoff, Ry.
        ecutrho: density cutoff, Ry; four times ``ecutwfc`` where None.
        kpoints: Monkhorst-Pack mesh along the three lattice vectors, including Gamma.
        conv_thr: SCF threshold on the estimated energy error, Ry.
        mixing_beta: SCF mixing.
        electron_maxstep: most SCF iterations.
        nberrycyc: SCF cycles, in each of which the field operator is built anew.
        input_dft: functional that overrides the files', e.g. ``PBE``.
        stress: compute the stress, at zero field only (pw.x has no field term in it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: str = "custom"
    ecutwfc: PositiveFloat
    ecutrho: PositiveFloat | None = None
    kpoints: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], BeforeValidator(_mesh)]
    conv_thr: PositiveFloat = 1e-10
    mixing_beta: Annotated[float, Field(gt=0, le=1)] = 0.7
    electron_maxstep: PositiveInt = 100
    nberrycyc: PositiveInt = 1
    input_dft: str | None = None
    stress: bool = True

    @classmethod
    def from_protocol(cls, name: str, **overrides: Any) -> PwSettings:
        """The named level of theory of ``dft_inputs/protocols``, with single settings replaced.

        Raises:
            ValueError: unknown protocol, unknown or invalid setting.
        """
        if name not in protocols():
            raise ValueError(f"unknown protocol {name!r}; there are {', '.join(protocols())}")
        text = (_folder() / f"{name}.yaml").read_text()
        return cls(**{"protocol": name, **yaml.safe_load(text), **overrides})

    def identity(self) -> dict[str, Any]:
        """What determines the converged numbers, resolved: not the protocol's name, nor the way to convergence."""
        dumped = self.model_dump(mode="json", exclude={"protocol", "mixing_beta", "electron_maxstep"})
        return {**dumped, "ecutrho": self.ecutrho or 4 * self.ecutwfc}

    def check_cell(self, cell: np.ndarray) -> None:
        """Refuse a mesh on which pw.x would take a wrong reciprocal vector.

        With a single k-point along a lattice vector pw.x assumes that the vector lies along its Cartesian axis.

        Raises:
            ValueError: one k-point along a skew vector.
        """
        for axis, count in enumerate(self.kpoints):
            across = [cell[axis, other] for other in range(3) if other != axis]
            across += [cell[other, axis] for other in range(3) if other != axis]
            if count == 1 and np.abs(across).max() > 1e-6:
                raise ValueError(
                    f"pw.x needs at least two k-points along lattice vector {axis + 1}, which is not along a Cartesian "
                    f"axis; raise kpoints from {list(self.kpoints)}"
                )


def protocols() -> list[str]:
    """Names of the levels of theory that ship with the package."""
    return sorted(Path(entry.name).stem for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _folder() -> Any:
    return resources.files(__name__.rsplit(".", 2)[0]) / "protocols"
