"""ASE calculator: energy, forces, stress and electric responses of an enthalpy model in a static field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ...dft_inputs.records import Frame
from ..graph import build_graph
from ..interface import EnthalpyModel
from ..responses import compute_responses
from ..voltage import fixed_voltage_stress

_BORN = {"born_effective_charges", "polarizability"}


class EnthalpyCalculator(Calculator):
    """An enthalpy model as ASE sees it.

    The field is ``field`` or, where that is not given, ``atoms.info["field"]``, in V/A; zero without either. With
    ``voltages`` it follows the cell, E.a_i = V_i. Results:

    - ``energy`` = ``free_energy``: the electric enthalpy U(R, E), eV;
    - ``forces``: -dU/dR at fixed E, eV/A, (N, 3);
    - ``stress``: (1/V) dU/d(strain) at fixed Cartesian E (improper) or, with ``voltages``, at fixed voltages; eV/A^3,
      Voigt order of ASE, (6,);
    - ``polarization`` = ``dipole``: -dU/dE, the cell dipole, not divided by the volume, e A, (3,);
    - ``born_effective_charges``: dP_a/dr_ib, e, (N, 3, 3), index [atom, field a, displacement b];
    - ``polarizability``: dP_a/dE_b, e^2 A^2/eV, (3, 3).

    Stress, Born effective charges and polarizability are computed when asked for. P depends on unwrapped positions:
    do not wrap atoms between two values that you compare.
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
        field: Sequence[float] | np.ndarray | None = None,
        voltages: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: the electric enthalpy.
            field: V/A, (3,).
            voltages: across the cell along each lattice vector, E.a_i, V, (3,).

        Raises:
            ValueError: field or voltages that are not three finite numbers, or both of them.
        """
        super().__init__()
        if field is not None and voltages is not None:
            raise ValueError("a field and voltages were given: choose which of them is held")
        self.model = model
        self._fixed_field = None if field is None else _checked(field, "field")
        self._voltages = None if voltages is None else _checked(voltages, "voltages", "V")
        self._field_of_results: np.ndarray | None = None

    @property
    def field(self) -> np.ndarray | None:
        """The field given to the calculator, V/A, (3,); None where it is taken from the atoms."""
        return None if self._fixed_field is None else self._fixed_field.copy()

    @field.setter
    def field(self, field: Sequence[float] | np.ndarray | None) -> None:
        self._fixed_field = None if field is None else _checked(field, "field")

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
            ValueError: a field that is not three finite numbers, or one in the atoms and another in the calculator.
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
        model = self.model
        frame = Frame.from_atoms(atoms)
        graph = build_graph([frame], model.species, model.cutoff, field[None], model.dtype).to(model.device)
        out = compute_responses(model, graph, stress=stress, born=not _BORN.isdisjoint(properties))
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
            ValueError: no field of three finite numbers, or more than one.
        """
        given = atoms.info.get("field")
        if self._voltages is not None:
            if given is not None:
                raise ValueError('atoms.info["field"] and the calculator\'s voltages: remove one of them')
            return np.linalg.solve(atoms.cell.array, self._voltages)
        if given is None:
            return np.zeros(3) if self._fixed_field is None else self._fixed_field
        field = _checked(given, 'atoms.info["field"]')
        if self._fixed_field is not None and not np.array_equal(field, self._fixed_field):
            raise ValueError('atoms.info["field"] and the calculator\'s field differ: remove one of them')
        return field


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
