"""TorchSim's own integrators, optimizers and validation on a trained network, against the own engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

ts = pytest.importorskip("torch_sim", reason="TorchSim needs Python 3.12")

from ase.build import bulk  # noqa: E402
from fieldloop.dft_inputs.records import Frame  # noqa: E402
from fieldloop.model.dynamics import (  # noqa: E402
    DynamicsSettings,
    RampedField,
    SinusoidalField,
    StaticField,
    run_dynamics,
)
from fieldloop.model.files import load_model  # noqa: E402
from fieldloop.model.graph import build_graph  # noqa: E402
from fieldloop.model.interface import EnthalpyModel  # noqa: E402
from fieldloop.model.interfaces.torchsim import TorchSimModel, in_field  # noqa: E402
from fieldloop.model.network import EnthalpyNetwork  # noqa: E402
from fieldloop.model.responses import compute_responses  # noqa: E402
from fieldloop.model.settings import NetworkConfig  # noqa: E402
from torch_sim.models.interface import SerialSumModel, validate_model_outputs  # noqa: E402
from torch_sim.models.polarization import UniformPolarizationModel  # noqa: E402
from torch_sim.units import MetalUnits  # noqa: E402

MODEL = Path(__file__).parents[1] / "data" / "models" / "alas"
FS = 1e-3 * float(MetalUnits.time)  # of TorchSim's internal time
FIELDS = [
    StaticField(),
    StaticField(vector=(0.02, -0.05, 0.1)),
    SinusoidalField(amplitude=(0.0, 0.05, 0.1), period=60.0, phase=0.4),
]


@pytest.fixture(scope="module")
def network():
    return load_model(MODEL)


def frames_and_velocities():
    """Crystals of 8, 2 and 8 atoms, the last ones larger."""
    random = np.random.default_rng(3)
    cells = [bulk("AlAs", "zincblende", a=a, cubic=cubic) for a, cubic in [(5.62, True), (5.65, False), (5.7, True)]]
    for atoms in cells:
        atoms.positions += 0.02 * random.normal(size=(len(atoms), 3))
    return cells, [0.003 * random.normal(size=(len(atoms), 3)) for atoms in cells]


def state_of(cells):
    return ts.io.atoms_to_state(cells, torch.device("cpu"), torch.float64)


def test_the_same_trajectory_as_the_own_engine(network):
    """Three crystals in one batch: without a field, in a static one, in one that depends on time."""
    cells, velocities = frames_and_velocities()
    settings = DynamicsSettings(ensemble="nve", steps=100, save_every=1, fields=FIELDS)
    own = run_dynamics(network, [Frame.from_atoms(atoms) for atoms in cells], settings, velocities=velocities)
    model = TorchSimModel(network)
    state = state_of(cells)

    def fields_at(time):
        return torch.tensor(np.stack([field(time) for field in FIELDS]))

    state.store_model_extras({"external_E_field": fields_at(0.0)})
    state = ts.nve_init(state, model, kT=0.0)
    state.momenta = torch.tensor(np.concatenate(velocities)) / FS * state.masses[:, None]
    positions, energies, polarization = [state.positions.clone()], [state.energy], [state.total_polarization]
    for step in range(100):
        state.external_E_field = fields_at(step + 1.0)
        state = ts.nve_step(state, model, dt=FS)
        positions.append(state.positions.clone())
        energies.append(state.energy)
        polarization.append(state.total_polarization)
    for index, replica in enumerate(own.trajectory.replicas()):
        mine = torch.stack(positions)[:, state.system_idx == index].numpy()
        assert np.abs(mine - replica.positions).max() < 1e-6
        assert np.abs(mine[-1] - mine[0]).max() > 0.05
        assert torch.stack(energies)[:, index].numpy() == pytest.approx(replica.enthalpy, rel=1e-8)
        assert torch.stack(polarization)[:, index].numpy() == pytest.approx(replica.polarization, abs=1e-6)
    graph = build_graph(
        [replica.frame(-1) for replica in own.trajectory.replicas()],
        network.species,
        network.cutoff,
        fields_at(100.0).numpy(),
    )
    assert model(state)["stress"].numpy() == pytest.approx(
        compute_responses(network, graph, stress=True).stress.numpy(), rel=1e-6, abs=1e-9
    )


def test_integrate_in_a_field_that_depends_on_time(network):
    """Through TorchSim's runner, in two parts: the time is in the state."""
    atoms = bulk("AlAs", "zincblende", a=5.62)
    field = SinusoidalField(amplitude=(0.0, 0.0, 0.2), period=40.0)
    settings = DynamicsSettings(ensemble="nve", steps=30, save_every=1, fields=(field,))
    still = [np.zeros((2, 3))]
    own = run_dynamics(network, [Frame.from_atoms(atoms)], settings, velocities=still).trajectory.replica(0)
    model = TorchSimModel(network, compute_stress=False)
    initialize, step = in_field(field, ts.nve_init, ts.nve_step)
    options = {"model": model, "temperature": 0.0, "timestep": 0.001}
    state = ts.integrate(state_of([atoms]), integrator=(initialize, step), n_steps=12, **options)
    assert state.time.tolist() == pytest.approx([12.0])
    for _ in range(18):
        state = step(state=state, model=model, dt=FS)
    assert np.abs(state.positions.numpy() - own.positions[-1]).max() < 1e-9
    assert np.abs(own.positions[-1] - own.positions[0]).max() > 1e-3
    assert state.energy.item() == pytest.approx(own.enthalpy[-1], rel=1e-8)
    assert state.external_E_field[0].numpy() == pytest.approx(field(30.0))


def test_batches_of_torchsim_take_their_time_with_them(network):
    """Systems that are run one after another, as they do not fit together, and in another order."""
    cells, _ = frames_and_velocities()
    model = TorchSimModel(network, compute_stress=False)
    batcher = ts.autobatching.BinningAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=10)
    options = {"model": model, "n_steps": 5, "temperature": 0.0, "timestep": 0.001}
    integrator = in_field(FIELDS[2], ts.nve_init, ts.nve_step)
    together = ts.integrate(state_of(cells), integrator=integrator, **options)
    apart = ts.integrate(state_of(cells), integrator=integrator, autobatcher=batcher, **options)
    assert torch.allclose(apart.positions, together.positions, rtol=0, atol=1e-10)
    assert apart.time.tolist() == pytest.approx([5.0] * 3)
    assert torch.allclose(apart.total_polarization, together.total_polarization, rtol=0, atol=1e-8)


def test_responses_are_those_of_the_model(network):
    cells, _ = frames_and_velocities()
    state = state_of(cells)
    fields = np.stack([field(7.0) for field in FIELDS])
    state.store_model_extras({"external_E_field": torch.tensor(fields)})
    mine = TorchSimModel(network, compute_born=True)(state)
    graph = build_graph([Frame.from_atoms(atoms) for atoms in cells], network.species, network.cutoff, fields)
    out = compute_responses(network, graph, stress=True, born=True)
    assert mine["stress"].numpy() == pytest.approx(out.stress.numpy(), rel=1e-8, abs=1e-10)
    assert mine["born_effective_charges"].numpy() == pytest.approx(out.born_effective_charges.numpy(), abs=1e-9)
    assert mine["polarizability"].numpy() == pytest.approx(out.polarizability.numpy(), abs=1e-9)


def test_the_field_of_torchsim_is_the_first_terms_of_ours(network):
    """Its model of a uniform field, fed with our responses at zero field, differs in the third order of the field."""
    atoms = frames_and_velocities()[0][0]
    uniform = UniformPolarizationModel(compute_stress=False)
    serial = SerialSumModel(AtZeroField(network), uniform)
    misses = []
    for strength in (0.001, 0.002):
        state = state_of([atoms])
        state.store_model_extras({"external_E_field": torch.tensor([[0.0, 0.6, 0.8]]).double() * strength})
        in_full = TorchSimModel(network)(state)
        misses.append(abs((serial(state)["energy"] - in_full["energy"]).item()))
    assert misses[1] < 1e-8
    assert misses[1] / misses[0] == pytest.approx(8, rel=0.2)


class AtZeroField(TorchSimModel):
    """As a model that does not know of fields."""

    def __init__(self, model):
        super().__init__(model, compute_stress=False, compute_born=True)

    def forward(self, state, **kwargs):
        state = state.clone()
        state.external_E_field = torch.zeros((state.n_systems, 3), dtype=state.dtype)
        return super().forward(state, **kwargs)


def test_cells_relax_in_a_field(network):
    """The stress is zero in the end, at the field of the state."""
    state = state_of([bulk("AlAs", "zincblende", a=5.75)])
    state.store_model_extras({"external_E_field": torch.tensor([[0.0, 0.0, 0.05]]).double()})
    model = TorchSimModel(network)
    relaxed = ts.optimize(
        state,
        model,
        optimizer=ts.Optimizer.fire,
        convergence_fn=ts.generate_force_convergence_fn(force_tol=1e-3, include_cell_forces=True),
        max_steps=400,
        init_kwargs={"cell_filter": ts.CellFilter.frechet},
    )
    out = model(relaxed)
    assert out["stress"].abs().max() < 1e-4
    assert out["forces"].abs().max() < 2e-3


def test_the_validation_of_torchsim():
    """On silicon, magnesium, iron and benzene, by a random network of these species."""
    config = NetworkConfig(species=("Si", "Mg", "Fe", "C", "H"), cutoff=3.0, scalars=8, tensors=4, radial=4)
    model = TorchSimModel(EnthalpyNetwork(config, seed=1))
    validate_model_outputs(model, torch.device("cpu"), torch.float64)
    assert model.memory_scales_with == "n_atoms_x_density"


class Blind(EnthalpyModel):
    """Springs that no field reaches."""

    species = ("Al", "As")
    cutoff = 3.0

    def forward(self, graph):
        return graph.sum_structures((graph.positions**2).sum(-1))


def test_what_cannot_be_honoured_is_refused(network):
    atoms = bulk("AlAs", "zincblende", a=5.62)
    vector = torch.tensor([[0.0, 0.0, 0.1]]).double()

    def state_with(name, value):
        state = state_of([atoms])
        state.system_extras[name] = value
        return state

    with pytest.raises(ValueError, match="no field as input"):
        TorchSimModel(Blind())(state_with("external_E_field", vector))
    model = TorchSimModel(network)
    with pytest.raises(ValueError, match="three finite numbers"):
        model(state_with("external_E_field", vector[0]))
    with pytest.raises(ValueError, match="three finite numbers"):
        model(state_with("external_E_field", torch.nan * vector))
    with pytest.raises(ValueError, match="magnetic"):
        model(state_with("external_H_field", vector))
    with pytest.raises(ValueError, match="external_E_field"):
        model(state_of([atoms]), field=vector)
    initialize, _ = in_field(RampedField(start=(0, 0, 0), end=(0, 0, 0.1), duration=10), ts.nve_init, ts.nve_step)
    with pytest.raises(ValueError, match="remove one"):
        initialize(state_with("external_E_field", vector), model, kT=0.0)
