"""What a pw.x label is made with: the settings that determine its numbers, and the code that runs it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt

from ..pseudopotentials import Pseudopotential, PseudopotentialError, find_pseudopotentials


class PwNotFoundError(RuntimeError):
    """pw.x, or what launches it, is not on this machine; the message says how to get it."""


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


class PwCode(BaseModel):
    """How pw.x is run here. None of this changes the numbers, so none of it enters a label's hash.

    Attributes:
        command: the program, e.g. ``pw.x`` or ``/opt/qe/bin/pw.x``.
        launcher: what runs it in parallel, e.g. ``mpirun -np 4``; a string is split like a shell line.
        timeout: most seconds for one SCF; None for no limit.
        environment: further environment variables.
        pseudo_dir: folder of the pseudopotential files.
        pseudopotentials: file name by element, where the folder holds several.
        lease_timeout: seconds to wait for a directory in which another process is at work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Annotated[str, Field(min_length=1)] = "pw.x"
    launcher: Annotated[tuple[str, ...], BeforeValidator(lambda v: shlex.split(v) if isinstance(v, str) else v)] = ()
    timeout: PositiveFloat | None = None
    environment: dict[str, str] = {}
    pseudo_dir: str = "/usr/share/espresso/pseudo"
    pseudopotentials: dict[str, str] = {}
    lease_timeout: float = 20.0

    @property
    def program(self) -> str:
        """Name of the executable as the system lists it; the ``.x`` file where a container's command precedes it."""
        names = [Path(word).name for word in shlex.split(self.command)]
        return next((name for name in names if name.endswith(".x")), names[0])

    def argv(self) -> list[str]:
        """The command line up to ``-in``.

        Raises:
            PwNotFoundError: the program or its launcher is missing.
        """
        return [word for part in (self.launcher, shlex.split(self.command)) for word in self._found(part)]

    def _found(self, words: Sequence[str]) -> list[str]:
        """The words with the program at its absolute path, as pw.x runs in another directory."""
        if not words:
            return []
        program = shutil.which(words[0], path=self.environment.get("PATH", os.environ.get("PATH")))
        if program is None:
            raise PwNotFoundError(
                f"{words[0]} not found: load the module of Quantum ESPRESSO, or install it "
                "(conda install -c conda-forge qe; apt-get install quantum-espresso), or set codes.pw.command"
            )
        return [str(Path(program).absolute()), *words[1:]]

    def find_pseudopotentials(self, elements: Iterable[str]) -> dict[str, Pseudopotential]:
        """One checked file per element.

        Raises:
            PseudopotentialError: see ``find_pseudopotentials``; also for names of files that are not used by mistake.
        """
        unknown = [name for name in self.pseudopotentials.values() if Path(name).name != name]
        if unknown:
            raise PseudopotentialError(f"name pseudopotentials by file, not by path: {unknown[0]}; set pseudo_dir")
        return find_pseudopotentials(self.pseudo_dir, elements, self.pseudopotentials)


def protocols() -> list[str]:
    """Names of the levels of theory that ship with the package."""
    return sorted(Path(entry.name).stem for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _folder() -> Any:
    return resources.files(__name__.rsplit(".", 2)[0]) / "protocols"
