"""TorchSim: an enthalpy model as one of its models, the field as its state extra ``external_E_field``.

Needs torch-sim-atomistic 0.6 and, with it, Python 3.12. TorchSim is imported here alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from ...dft_inputs.records import Frame
from ..blocks import responses_in_blocks
from ..dynamics.batch import sees_the_field
from ..dynamics.fields import FieldProtocol
from ..dynamics.neighbours import SkinNeighbours
from ..graph import Graph
from ..interface import EnthalpyModel

try:
    from torch_sim.models.interface import ModelInterface  # pyright: ignore[reportMissingImports]
    from torch_sim.state import SimState  # pyright: ignore[reportMissingImports]
    from torch_sim.typing import AtomExtras, SystemExtras  # pyright: ignore[reportMissingImports]
    from torch_sim.units import MetalUnits  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError(
        "TorchSim is not here, or too old: pip install 'torch-sim-atomistic>=0.6' under Python 3.12 or later"
    ) from error

_SKIN = 0.5
"""Of the neighbour list, A, as in the engine."""

_FIELD, _POLARIZATION = SystemExtras.EXTERNAL_E_FIELD.value, SystemExtras.TOTAL_POLARIZATION.value
_MAGNETIC = SystemExtras.EXTERNAL_H_FIELD.value
_ALPHA, _BORN = SystemExtras.POLARIZABILITY.value, AtomExtras.BORN_EFFECTIVE_CHARGES.value
_TIME = "time"

Initialize = Callable[..., Any]
Step = Callable[..., Any]


class TorchSimModel(ModelInterface):
    """An enthalpy model as TorchSim sees it.

    Each system is in the field of the state's extra ``external_E_field``, V/A, (n_systems, 3); in none without it.
    Outputs, with the names of TorchSim:

    - ``energy``: the electric enthalpy U(R, E), eV, (n_systems,);
    - ``forces``: -dU/dR at fixed E, eV/A, (n_atoms, 3);
    - ``stress``: (1/V) dU/d(strain) at fixed Cartesian E (improper), eV/A^3, (n_systems, 3, 3); NaN for systems that
      are not periodic in all directions;
    - ``total_polarization``: -dU/dE, the cell dipole, e A, (n_systems, 3);
    - ``polarizability``: dP_a/dE_b, e^2 A^2/eV, (n_systems, 3, 3), and ``born_effective_charges``: dP_a/dr_ib, e,
      (n_atoms, 3, 3), index [atom, field a, displacement b], with ``compute_born``.

    The field is in all of them, at any strength: TorchSim's ``UniformPolarizationModel`` would count it twice.
    TorchSim's integrators keep the extras of the last evaluation in the state. States are float64 whatever the model's
    precision, as in the own engine.
    """

    def __init__(self, model: EnthalpyModel, *, compute_stress: bool = True, compute_born: bool = False) -> None:
        """Wrap a model.

        Args:
            model: the electric enthalpy; compiled ones as well.
            compute_stress: also the stress.
            compute_born: also Born effective charges and polarizability, three more derivatives in every evaluation.
        """
        super().__init__()
        self.model = model
        self.compute_born = compute_born
        self._compute_stress, self._compute_forces = compute_stress, True
        self._dtype = torch.float64
        self._memory_scales_with = "n_atoms_x_density"
        self._sees_the_field: bool | None = None
        self._listed: tuple[tuple[Tensor, ...], SkinNeighbours] | None = None

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.device

    @property
    def compute_stress(self) -> bool:
        """Is the stress computed?"""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        self._compute_stress = value

    def forward(self, state: SimState, **kwargs: Any) -> dict[str, Tensor]:
        """Evaluate all systems of a state.

        Raises:
            ValueError: a field that is not one finite vector for each system, a field for a model that has none as
                input, a magnetic field, unknown species, or arguments besides the state.
        """
        if kwargs:
            raise ValueError(f"the model takes a state alone, not {', '.join(kwargs)}: a field is its extra {_FIELD}")
        field = self._field(state)
        graph = self._graph(state, field)
        stress = self._compute_stress and bool(state.pbc.all())
        with torch.enable_grad():
            out = responses_in_blocks(self.model, graph, stress=stress, born=self.compute_born)
        results: dict[str, Tensor | None] = {
            "energy": out.enthalpy,
            "forces": out.forces,
            _POLARIZATION: out.polarization,
            _BORN: out.born_effective_charges,
            _ALPHA: out.polarizability,
        }
        if self._compute_stress:
            results["stress"] = out.stress if stress else torch.full_like(graph.cell, torch.nan)
        return {name: value.to(state.dtype) for name, value in results.items() if value is not None}

    def _field(self, state: SimState) -> Tensor:
        """V/A, (n_systems, 3), float64."""
        if state.has_extras(_MAGNETIC) and bool(getattr(state, _MAGNETIC).any()):
            raise ValueError(f"the model knows no magnetic field: remove {_MAGNETIC} from the state")
        if not state.has_extras(_FIELD):
            return torch.zeros((state.n_systems, 3), dtype=torch.float64, device=state.device)
        field = getattr(state, _FIELD).double()
        if field.shape != (state.n_systems, 3) or not bool(field.isfinite().all()):
            raise ValueError(
                f"{_FIELD} must be three finite numbers in V/A for each of {state.n_systems} systems, not of shape "
                f"{tuple(field.shape)}"
            )
        if bool(field.any()):
            if self._sees_the_field is None:
                self._sees_the_field = sees_the_field(self.model, _frames(state)[0])
            if not self._sees_the_field:
                raise ValueError("the model has no field as input: train one that has, or run without a field")
        return field

    def _graph(self, state: SimState, field: Tensor) -> Graph:
        """The state as the model sees it, by a neighbour list that holds as long as its atoms are the same."""
        positions = state.positions.detach().double()
        # TorchSim's cells have lattice vectors as columns. Without a periodic direction the cell plays no part.
        periodic = bool(state.pbc.any())
        cell = state.cell.detach().double().transpose(1, 2).contiguous() if periodic else None
        atoms = (state.atomic_numbers, state.system_idx, state.pbc)
        if self._listed is None or not _equal(self._listed[0], atoms):
            neighbours = SkinNeighbours(self.model, _frames(state), _SKIN, positions, cell)
            self._listed = tuple(part.clone() for part in atoms), neighbours
        return self._listed[1].graph(positions, field, cell)


def in_field(field: FieldProtocol, initialize: Initialize, step: Step) -> tuple[Initialize, Step]:
    """An integrator of TorchSim in a field that depends on time, for ``torch_sim.integrate(integrator=...)``.

    Forces are evaluated at the end of a step, so the step from t is given E(t + dt). The time is kept in the state as
    its extra ``time``, fs, (n_systems,), and goes on from there. Keyword arguments of the integrator, such as friction,
    are in TorchSim's internal units, as it converts those of its own integrators alone.

    Args:
        field: of all systems. For other fields set ``state.external_E_field`` before each step by hand.
        initialize: such as ``torch_sim.nve_init``.
        step: such as ``torch_sim.nve_step``: one with a single evaluation, at its end.

    Raises:
        ValueError: by the first function, where the state has a field already.
    """

    def set_field(state: SimState, time: Tensor) -> None:
        rows = np.stack([field(moment) for moment in time.tolist()])
        vectors = torch.tensor(rows, dtype=state.dtype, device=state.device)
        state.store_model_extras({_TIME: time, _FIELD: vectors})

    def initialized(state: SimState, model: ModelInterface, **kwargs: Any) -> Any:
        if state.has_extras(_FIELD) and bool(getattr(state, _FIELD).any()) and not state.has_extras(_TIME):
            raise ValueError(f"the state's {_FIELD} and a field that depends on time: remove one of them")
        state = state.clone()
        at_zero = torch.zeros(state.n_systems, dtype=torch.float64, device=state.device)
        set_field(state, getattr(state, _TIME) if state.has_extras(_TIME) else at_zero)
        return initialize(state=state, model=model, **kwargs)

    def stepped(state: SimState, model: ModelInterface, *, dt: Any, **kwargs: Any) -> Any:
        timestep = torch.as_tensor(dt, dtype=torch.float64, device=state.device) / (1e-3 * MetalUnits.time)
        set_field(state, getattr(state, _TIME) + timestep)
        return step(state=state, model=model, dt=dt, **kwargs)

    return initialized, stepped


def _equal(ones: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    return all(
        one.shape == other.shape and one.device == other.device and bool((one == other).all())
        for one, other in zip(ones, others, strict=True)
    )


def _frames(state: SimState) -> list[Frame]:
    """The systems of a state."""
    pbc = tuple(bool(periodic) for periodic in state.pbc.tolist())
    cells = state.cell.detach().double().transpose(1, 2).cpu().numpy()
    positions, numbers = state.positions.detach().double().cpu().numpy(), state.atomic_numbers.cpu().numpy()
    systems = state.system_idx.cpu().numpy()
    return [
        Frame(
            species=tuple(chemical_symbols[number] for number in numbers[systems == index]),
            positions=positions[systems == index],
            cell=cell,
            pbc=pbc,  # type: ignore[arg-type]
        )
        for index, cell in enumerate(cells)
    ]
