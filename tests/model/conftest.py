import numpy as np
import pytest
import torch
from ase.build import bulk
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Provenance
from fieldloop.model.graph import Graph, build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig

CHARGES = {"Al": 3, "As": -3}


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def rattled_alas(seed: int, stdev: float = 0.15, cubic: bool = True) -> Frame:
    atoms = bulk("AlAs", "zincblende", a=5.61, cubic=cubic)
    atoms.rattle(stdev, seed=seed)
    return Frame.from_atoms(atoms)


def small_config(**changes) -> NetworkConfig:
    settings = {"species": ("Al", "As"), "reference_charges": CHARGES, "cutoff": 4.2, "scalars": 16, "tensors": 4}
    return NetworkConfig(**{**settings, "neighbours": 16.0, **changes})


def network(seed: int = 0, **changes) -> EnthalpyNetwork:
    """A random network whose every term is switched on."""
    model = EnthalpyNetwork(small_config(**changes), seed)
    with torch.no_grad():
        model.polarizability_reference.copy_(torch.tensor([0.3, 1.1]))
        model.energy_reference.copy_(torch.tensor([-2.0, 1.0]))
        if model.many_body is not None:
            generator = torch.Generator().manual_seed(seed)
            layer = model.many_body
            for coefficients in (layer.pairs, layer.energy_triples, layer.dipole_triples):
                coefficients.copy_(0.1 * torch.randn(coefficients.shape, generator=generator))
            for coefficients in layer.products.coefficients:
                coefficients.copy_(0.003 * torch.randn(coefficients.shape, generator=generator))
    return model


def graph_of(model: EnthalpyNetwork, *frames: Frame, field=(0.0, 0.0, 0.0)) -> Graph:
    return build_graph(frames, model.species, model.cutoff, np.array(field), model.dtype)


def labelled(frame: Frame, teacher: EnthalpyNetwork, field=(0.0, 0.0, 0.0), **missing) -> LabelledFrame:
    """A frame with all labels of a teacher network."""
    responses = compute_responses(teacher, graph_of(teacher, frame, field=field), stress=True, born=True)
    labels = {
        "enthalpy": float(responses.enthalpy[0]),
        "forces": responses.forces.numpy(),
        "stress": responses.stress[0].numpy(),
        "polarization": responses.polarization[0].numpy(),
        "born_effective_charges": responses.born_effective_charges.numpy(),
        "polarizability": responses.polarizability[0].numpy(),
    }
    response = ElectricResponse(field=np.array(field), polarization_quanta=frame.cell, **{**labels, **missing})
    return LabelledFrame(label_id=frame.frame_id, frame=frame, response=response, provenance=Provenance(code="teacher"))


@pytest.fixture
def make_network():
    return network


@pytest.fixture
def make_graph():
    return graph_of


@pytest.fixture
def make_labelled():
    return labelled


@pytest.fixture
def make_frame():
    return rattled_alas
