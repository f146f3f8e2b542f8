"""The list with a skin against fresh lists and direct lattice sums."""

import numpy as np
import pytest
import torch
from fieldloop.model.dynamics.neighbours import SkinNeighbours
from fieldloop.model.graph import build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig


def neighbours_of(graph):
    """Sorted (centre, neighbour, x, y, z) of all real entries."""
    vectors = graph.vectors()[graph.mask].numpy()
    centre, column = torch.nonzero(graph.mask, as_tuple=True)
    rows = np.column_stack([centre.numpy(), graph.neighbours[centre, column].numpy(), np.round(vectors, 6)])
    return rows[np.lexsort(rows.T)]


def moved(frame, positions):
    return frame.model_copy(update={"positions": positions})


def test_equals_a_fresh_list_along_a_walk(morse, crystal):
    frames = [crystal(rattle=0.05), crystal(repeat=(2, 1, 1), rattle=0.1, seed=3)]
    positions = torch.tensor(np.concatenate([frame.positions for frame in frames]))
    field = torch.zeros((2, 3), dtype=torch.float64)
    skin = SkinNeighbours(morse, frames, 0.6, positions)
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        positions = positions + 0.06 * torch.randn(positions.shape, generator=random, dtype=torch.float64)
        fresh = build_graph(
            [moved(frames[0], positions[:8].numpy()), moved(frames[1], positions[8:].numpy())],
            morse.species,
            morse.cutoff,
        )
        assert np.array_equal(neighbours_of(skin.graph(positions, field)), neighbours_of(fresh))
    assert 2 + 6 < skin.rebuilds < 2 * 60


def test_only_the_replica_that_moved_is_listed_again(morse, crystal):
    frames = [crystal(), crystal()]
    positions = torch.tensor(np.concatenate([frame.positions for frame in frames]))
    field = torch.zeros((2, 3), dtype=torch.float64)
    skin = SkinNeighbours(morse, frames, 0.5, positions)
    assert skin.rebuilds == 2
    positions = positions.clone()
    positions[3, 0] += 0.2
    skin.graph(positions, field)
    assert skin.rebuilds == 2
    positions[3, 0] += 0.2
    skin.graph(positions, field)
    assert skin.rebuilds == 3
    assert torch.equal(skin.reference[:8], positions[:8])


def test_a_list_built_at_the_reference_is_the_same_list(morse, crystal):
    """Bitwise resume rests on this."""
    frame = crystal(rattle=0.1)
    positions = torch.tensor(frame.positions.copy())
    field = torch.zeros((1, 3), dtype=torch.float64)
    first = SkinNeighbours(morse, [frame], 0.5, positions)
    second = SkinNeighbours(morse, [crystal()], 0.5, first.reference)
    shifted = positions + 0.1
    one, two = first.graph(shifted, field), second.graph(shifted, field)
    for name in ("neighbours", "shifts", "mask"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_a_cell_thinner_than_the_cutoff_sums_over_its_images(morse, crystal):
    """The primitive cell against a supercell thick enough, both a little off their list's reference."""
    from ase.build import bulk
    from fieldloop.dft_inputs.records import Frame

    morse.cutoff = 6.5
    atoms = bulk("AlAs", "zincblende", a=5.66)
    atoms.positions[1] += [0.05, -0.02, 0.1]
    enthalpies = []
    for repeat in (1, 5):
        frame = Frame.from_atoms(atoms * (repeat, repeat, repeat))
        skin = SkinNeighbours(morse, [frame], 0.5, torch.tensor(frame.positions.copy()))
        positions = frame.positions.copy()
        positions[np.array(frame.species) == "As"] += [0.04, 0.1, -0.1]
        graph = skin.graph(torch.tensor(positions), torch.tensor([[0.0, 0.1, 0.2]], dtype=torch.float64))
        enthalpies.append(float(compute_responses(morse, graph).enthalpy) / repeat**3)
        assert skin.rebuilds == 1
    # -E.q r of the supercell is the same per cell, as the cell is neutral
    assert enthalpies[0] == pytest.approx(enthalpies[1], rel=1e-10)


def test_unwrapped_atoms_keep_their_forces_and_carry_P(morse, crystal):
    frame = crystal(rattle=0.05)
    field = torch.zeros((1, 3), dtype=torch.float64)
    unwrapped = frame.positions.copy()
    unwrapped[2] += 3 * frame.cell[0] - 2 * frame.cell[2]
    out = []
    for positions in (frame.positions.copy(), unwrapped):
        skin = SkinNeighbours(morse, [frame], 0.5, torch.tensor(positions))
        out.append(compute_responses(morse, skin.graph(torch.tensor(positions), field)))
    charge = float(morse.charges[morse.species.index(frame.species[2])])
    assert torch.allclose(out[0].forces, out[1].forces, atol=1e-12)
    jump = (out[1].polarization - out[0].polarization)[0].numpy()
    assert jump == pytest.approx(charge * (3 * frame.cell[0] - 2 * frame.cell[2]), abs=1e-9)


def test_a_graph_holds_neighbours_within_the_cutoff_alone(morse, crystal):
    """What the skin adds is no work for the model; padding points to the atom itself."""
    frame = crystal(rattle=0.1, repeat=(2, 1, 1))
    positions = torch.tensor(frame.positions.copy())
    graph = SkinNeighbours(morse, [frame], 3.0, positions).graph(positions, torch.zeros((1, 3), dtype=torch.float64))
    counts = graph.mask.sum(1)
    assert graph.mask.shape[1] == int(counts.max())
    assert bool((graph.mask == (torch.arange(graph.mask.shape[1]) < counts[:, None])).all())
    atoms = torch.arange(len(frame))[:, None].expand_as(graph.mask)
    assert torch.equal(graph.neighbours[~graph.mask], atoms[~graph.mask])
    fresh = build_graph([frame], morse.species, morse.cutoff)
    assert np.array_equal(neighbours_of(graph), neighbours_of(fresh))


def test_a_single_precision_model_sees_differences_of_double_positions(crystal):
    """Far from the origin a float32 position is off by 1e-3 A; forces are those of the same atoms at the origin."""
    config = NetworkConfig(species=("Al", "As"), cutoff=4.0, scalars=8, tensors=2, neighbours=16.0, dtype="float32")
    model, frame = EnthalpyNetwork(config, seed=1), crystal(rattle=0.1)
    forces = []
    for origin in (0.0, 1e4):
        positions = torch.tensor(frame.positions + origin)
        graph = SkinNeighbours(model, [frame], 0.5, positions).graph(positions, torch.zeros((1, 3)).double())
        forces.append(compute_responses(model, graph).forces)
    assert forces[0].dtype == torch.float64
    assert float((forces[1] - forces[0]).abs().max()) < 1e-5 * float(forces[0].abs().max())
