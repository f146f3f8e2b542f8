"""ASE calculator: energy, forces, stress and electric responses of an enthalpy model in any field.

Evaluations go the way of the own engine: its neighbour list, geometry in float64, blocks of atoms for large systems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.md.md import MolecularDynamics
from ase.stress import full_3x3_to_voigt_6_stress
from pydantic import TypeAdapter, ValidationError

from ...dft_inputs.records import Frame
from ..blocks import responses_in_blocks
from ..compiled import CompiledModel
from ..dynamics.batch import sees_the_field
from ..dynamics.fields import AnyField, FieldProtocol, StaticField
from ..dynamics.neighbours import SkinNeighbours
from ..files import load_model, read_label_range
from ..graph import Graph
from ..interface import EnthalpyModel
from ..voltage import fixed_voltage_stress

_BORN = {"born_effective_charges", "polarizability"}
_SKIN = 0.5
"""Of the neighbour list, A, as in the engine."""

GivenField = Sequence[float] | np.ndarray | FieldProtocol
"""Three numbers in V/A, or E(t) in V/A with t in fs."""


class EnthalpyCalculator(Calculator):
    """An enthalpy model as ASE sees it.

    The field is ``field`` or, where that is not given, ``atoms.info["field"]``, in V/A; zero without either. A field
    that depends on time is taken at ``time``: ``follow`` lets molecular dynamics set it. With ``voltages`` the field
    follows the cell, E.a_i = V_i. Results:

    - ``energy`` = ``free_energy``: the electric enthalpy U(R, E), eV;
    - ``forces``: -dU/dR at fixed E, eV/A, (N, 3);
    - ``stress``: (1/V) dU/d(strain) at fixed Cartesian E (improper) or, with ``voltages``, at fixed voltages; eV/A^3,
      Voigt order of ASE, (6,);
    - ``polarization`` = ``dipole``: -dU/dE, e A, (3,): the dipole of a molecule; of a crystal that of the cell, not
      divided by the volume, of which only changes along a path have a meaning;
    - ``born_effective_charges``: dP_a/dr_ib, e, (N, 3, 3), index [atom, field a, displacement b];
    - ``polarizability``: dP_a/dE_b, e^2 A^2/eV, (3, 3).

    Stress, Born effective charges and polarizability are computed when asked for. P depends on unwrapped positions:
    do not wrap atoms between two values that you compare.

    Attributes:
        time: at which a field that depends on time is taken, fs; None until it is set.
    """

    implemented_properties = [  # noqa: RUF012  (the base class declares it so)
        "energy",
        "free_energy",
        "forces",
        "stress",
        "dipole",
        "polarization",
        "born_effective_charges",
        "polarizability",
    ]

    def __init__(
        self,
        model: EnthalpyModel,
        field: GivenField | None = None,
        voltages: Sequence[float] | np.ndarray | None = None,
        largest_field: float | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: the electric enthalpy.
            field: V/A, (3,), or a function of the time in fs that returns it.
            voltages: across the cell along each lattice vector, E.a_i, V, (3,).
            largest_field: |E| beyond which an evaluation is refused, V/A; None for no bound.

        Raises:
            ValueError: field or voltages that are not three finite numbers, or both of them.
        """
        super().__init__()
        if field is not None and voltages is not None:
            raise ValueError("a field and voltages were given: choose which of them is held")
        self.model = model
        self.time: float | None = None
        self.field = field
        self._voltages = None if voltages is None else _checked(voltages, "voltages", "V")
        self._largest_field = largest_field
        self._field_of_results: np.ndarray | None = None
        self._sees_the_field: bool | None = None
        self._listed: tuple[Frame, SkinNeighbours] | None = None

    @property
    def field(self) -> np.ndarray | FieldProtocol | None:
        """The field given to the calculator, V/A, (3,), or E(t); None where it is taken from the atoms."""
        given = self._given_field
        return given.copy() if isinstance(given, np.ndarray) else given

    @field.setter
    def field(self, field: GivenField | None) -> None:
        if isinstance(field, StaticField):
            field = field.vector
        self._given_field = field if field is None or callable(field) else _checked(field, "field")

    def follow(self, dynamics: MolecularDynamics, start: float = 0.0) -> None:
        """Let molecular dynamics of ASE set the time: that of its steps, and E(t + dt) at the end of each.

        Forces at the end of a step are evaluated after the positions were moved, before ASE counts the step. Each step
        is therefore given the forces at its start, and the time goes on before it. Call it once, before the first step.

        Args:
            dynamics: an integrator whose ``step`` takes forces: ``VelocityVerlet``, ``Langevin``, ``Bussi``,
                ``Andersen``, ``NVTBerendsen``.
            start: time of the steps that are already done, fs.

        Raises:
            ValueError: an integrator whose steps take no forces, or that follows the field already.
        """
        step: Callable[..., Any] = dynamics.step  # pyright: ignore[reportAttributeAccessIssue]  (of its subclasses)
        if "forces" not in signature(step).parameters:
            raise ValueError(
                f"{type(dynamics).__name__} evaluates forces at the start of its steps by itself: in a field that "
                "depends on time use VelocityVerlet, Langevin or Bussi"
            )
        if "step" in vars(dynamics):
            raise ValueError("these dynamics follow a field already")
        first, timestep = dynamics.nsteps, dynamics.dt / units.fs
        self.time = start

        def step_in_field(forces: np.ndarray | None = None) -> Any:
            if forces is None:
                forces = dynamics.atoms.get_forces(md=True)
            self.time = start + (dynamics.nsteps + 1 - first) * timestep
            return step(forces=forces)

        vars(dynamics)["step"] = step_in_field

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last results, the field included."""
        changes = super().check_state(atoms, tol=tol)
        if self._field_of_results is None or not np.array_equal(self.field_of(atoms), self._field_of_results):
            changes.append("field")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute what was asked for, and what comes with it for free.

        Raises:
            ValueError: a field that is not three finite numbers, one in the atoms and another in the calculator, one
                that depends on time without a time, one beyond ``largest_field``, or one for a model that has no field
                as input.
            PropertyNotImplementedError: the stress of a system that is not periodic in all directions.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        atoms = self.atoms
        if atoms is None:
            raise ValueError("the calculator has no atoms to work on")
        if system_changes:
            self.results = {}
        stress = "stress" in properties
        if stress and not all(atoms.pbc):
            raise PropertyNotImplementedError("stress is defined for systems periodic in all three directions only")
        field = self.field_of(atoms)
        graph = self._graph(Frame.from_atoms(atoms), field)
        out = responses_in_blocks(self.model, graph, stress=stress, born=not _BORN.isdisjoint(properties))
        enthalpy, polarization = float(out.enthalpy[0]), _array(out.polarization[0])
        results: dict[str, Any] = {
            "energy": enthalpy,
            "free_energy": enthalpy,
            "forces": _array(out.forces),
            "dipole": polarization,
            "polarization": polarization.copy(),
        }
        if out.stress is not None:
            sigma = out.stress
            if self._voltages is not None:
                sigma = fixed_voltage_stress(sigma, graph.field, out.polarization, graph.volume())
            results["stress"] = full_3x3_to_voigt_6_stress(_array(sigma[0]))
        if out.born_effective_charges is not None and out.polarizability is not None:
            results["born_effective_charges"] = _array(out.born_effective_charges)
            results["polarizability"] = _array(out.polarizability[0])
        self.results.update(results)
        self._field_of_results = field

    def field_of(self, atoms: Atoms) -> np.ndarray:
        """The field that these atoms are in, V/A, (3,).

        Raises:
            ValueError: no field of three finite numbers, more than one, or one that depends on time without a time.
        """
        given = atoms.info.get("field")
        if self._voltages is not None:
            if given is not None:
                raise ValueError('atoms.info["field"] and the calculator\'s voltages: remove one of them')
            return np.linalg.solve(atoms.cell.array, self._voltages)
        if given is None:
            return np.zeros(3) if self._given_field is None else self._field_now(self._given_field)
        if callable(given):
            raise ValueError('atoms.info["field"] is three numbers: give a function of time to the calculator')
        field = _checked(given, 'atoms.info["field"]')
        if self._given_field is not None and not np.array_equal(field, self._field_now(self._given_field)):
            raise ValueError('atoms.info["field"] and the calculator\'s field differ: remove one of them')
        return field

    def _field_now(self, field: np.ndarray | FieldProtocol) -> np.ndarray:
        if isinstance(field, np.ndarray):
            return field
        if self.time is None:
            raise ValueError(
                "the field depends on time: call follow(dynamics), or set the time of the calculator in fs"
            )
        return _checked(field(self.time), f"the field at {self.time:g} fs")

    def _graph(self, frame: Frame, field: np.ndarray) -> Graph:
        """The frame as the model sees it, by a neighbour list that holds as long as the cell does not change."""
        self._require_range(frame, field)
        device = self.model.device
        positions = torch.tensor(frame.positions, device=device)
        if self._listed is None or not _same_crystal(frame, self._listed[0]):
            self._listed = frame, SkinNeighbours(self.model, [frame], _SKIN, positions)
        return self._listed[1].graph(positions, torch.tensor(field[None], device=device))

    def _require_range(self, frame: Frame, field: np.ndarray) -> None:
        """Refuse a field that the model cannot honour."""
        strength = float(np.linalg.norm(field))
        if strength and self._sees_the_field is None:
            self._sees_the_field = sees_the_field(self.model, frame)
        if strength and not self._sees_the_field:
            raise ValueError("the model has no field as input: train one that has, or run without a field")
        if self._largest_field is not None and strength > self._largest_field * (1 + 1e-6):
            raise ValueError(
                f"the field is {strength:.3g} V/A, the labels of the model reach {self._largest_field:.3g} V/A: train "
                "it on labels at such fields, or give beyond_range=True"
            )


def load_calculator(
    model: Path | str,
    field: Any = None,
    voltages: Sequence[float] | None = None,
    device: str | None = None,
    compiled: bool = False,
    beyond_range: bool = False,
) -> EnthalpyCalculator:
    """A calculator from arguments that JSON can hold, as workflow managers need it.

    Args:
        model: folder of a model.
        field: three numbers in V/A, or a mapping as in a settings file, such as ``{"kind": "sinusoidal", ...}``.
        voltages: instead of the field, E.a_i, V, (3,).
        device: of the model, ``cpu`` or ``cuda``; a GPU where there is one by default.
        compiled: compile the derivatives, which takes a minute or more at the start.
        beyond_range: evaluate also in fields that the labels of the model do not reach.

    Raises:
        ModelFileError: no readable model.
        ValueError: no such field, or both field and voltages.
    """
    network: EnthalpyModel = load_model(model)
    labels = None if beyond_range else read_label_range(model)
    network = network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return EnthalpyCalculator(
        CompiledModel(network) if compiled else network,  # type: ignore[arg-type]
        field=None if field is None else read_field(field),
        voltages=voltages,
        largest_field=None if labels is None else labels.largest_field,
    )


def read_field(field: Any) -> FieldProtocol:
    """A field as settings files spell it.

    Args:
        field: three numbers in V/A or texts with a unit, or a mapping with a ``kind``.

    Raises:
        ValueError: no such field; one line.
    """
    try:
        return TypeAdapter(AnyField).validate_python(field)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"field: {place + ': ' if place else ''}{first['msg']}") from error


def _same_crystal(one: Frame, other: Frame) -> bool:
    """Do they differ by the positions at most?"""
    return one.species == other.species and one.pbc == other.pbc and np.array_equal(one.cell, other.cell)


def _checked(field: Any, name: str, unit: str = "V/A") -> np.ndarray:
    try:
        array = np.array(field, dtype=float)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise ValueError(f"{name} must be three finite numbers in {unit}, not {field!r}")
    return array


def _array(tensor: Any) -> np.ndarray:
    return tensor.double().cpu().numpy()
