"""The i-PI driver on a real socket, against ASE's server of the same protocol."""

import json
import socket
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.socketio import SocketIOCalculator, SocketServer
from ase.md.verlet import VelocityVerlet
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, run_dynamics
from fieldloop.model.interfaces.ase import load_calculator
from fieldloop.model.interfaces.ipi import IpiServer, run_driver
from fieldloop.workflows.cli import app
from typer.testing import CliRunner

MODEL = Path(__file__).parents[1] / "data" / "models" / "alas"
FIELD = (0.02, -0.05, 0.1)


@pytest.fixture
def crystal():
    atoms = bulk("AlAs", "zincblende", a=5.62, cubic=True)
    random = np.random.default_rng(3)
    atoms.positions += 0.02 * random.normal(size=(8, 3))
    atoms.set_velocities(0.003 / units.fs * random.normal(size=(8, 3)))
    return atoms


@pytest.fixture
def calculator():
    return load_calculator(MODEL, field=FIELD, device="cpu")


class Driver(threading.Thread):
    """``run_driver`` beside the server."""

    def __init__(self, *arguments, **options):
        super().__init__(daemon=True)
        self.arguments, self.options = arguments, options
        self.count, self.error = None, None
        self.start()

    def run(self):
        try:
            self.count = run_driver(*self.arguments, **self.options)
        except (ValueError, OSError) as error:
            self.error = error

    def ended(self):
        self.join(timeout=30)
        assert not self.is_alive()
        return self


def name():
    return f"fieldloop_{uuid.uuid4().hex[:8]}"


def test_the_same_trajectory_as_the_own_engine(crystal, calculator):
    """Positions go to the driver and forces come back in atomic units."""
    settings = DynamicsSettings(ensemble="nve", steps=40, save_every=1, fields=(FIELD,))
    velocities = [crystal.get_velocities() * units.fs]
    run = run_dynamics(calculator.model, [Frame.from_atoms(crystal)], settings, velocities=velocities)
    own = run.trajectory.replica(0)
    server = IpiServer(socket=name())
    driver = Driver(calculator, crystal, server)
    energies = []
    with SocketIOCalculator(unixsocket=server.socket, timeout=30) as remote:
        crystal.calc = remote
        dynamics = VelocityVerlet(crystal, timestep=units.fs)
        dynamics.attach(lambda: energies.append(crystal.get_potential_energy()))
        dynamics.run(40)
    assert driver.ended().error is None
    assert driver.count == 41
    assert np.abs(crystal.positions - own.positions[-1]).max() < 1e-6
    assert energies == pytest.approx(own.enthalpy, rel=1e-8)


def test_virial_and_extras(crystal, calculator):
    """What i-PI reads: virial, and P, Z* and the field as JSON."""
    server = IpiServer(socket=name())
    driver = Driver(calculator, crystal, server, born=True)
    with SocketServer(unixsocket=server.socket, timeout=30) as remote:
        results = remote.calculate(crystal)
        remote.protocol.end()
    assert driver.ended().error is None
    crystal.calc = load_calculator(MODEL, field=FIELD, device="cpu")
    born = crystal.calc.get_property("born_effective_charges", crystal)
    assert results["energy"] == pytest.approx(crystal.get_potential_energy(), rel=1e-12)
    virial = -crystal.get_volume() * crystal.get_stress(voigt=False)
    assert results["virial"] == pytest.approx(virial, rel=1e-8, abs=1e-10)
    extras = json.loads(bytes(results["morebytes"]))
    assert extras["field"] == list(FIELD)
    assert extras["dipole"] == pytest.approx(crystal.get_dipole_moment() / units.Bohr)
    bec = np.array(extras["BEC"]).reshape(8, 3, 3)
    assert bec[5, 1, 2] == pytest.approx(born[5, 2, 1])
    assert np.abs(born[5, 2, 1] - born[5, 1, 2]) > 1e-4


def answer_of(driver_atoms, sent_atoms, calculator):
    """What becomes of a driver that is sent other atoms than it was told of."""
    server = IpiServer(socket=name())
    driver = Driver(calculator, driver_atoms, server)
    with SocketServer(unixsocket=server.socket, timeout=30) as remote, pytest.raises(OSError):
        remote.calculate(sent_atoms)
    return str(driver.ended().error)


def test_wrapped_atoms_are_refused_in_a_field(crystal, calculator):
    wrapped = crystal.copy()
    wrapped.positions[3] += crystal.cell[1]
    assert "pbc='False'" in answer_of(crystal, wrapped, calculator)


def test_another_orientation_is_refused_in_a_field(crystal, calculator):
    turned = crystal.copy()
    turned.rotate(30, "z", rotate_cell=True)
    assert "turned" in answer_of(crystal, turned, calculator)


def test_another_number_of_atoms_is_refused(crystal, calculator):
    assert "i-PI sends 7 atoms, the structure has 8" in answer_of(crystal, crystal[:7], calculator)


def test_a_field_in_time_is_refused(crystal, calculator):
    calculator.field = SinusoidalField(amplitude=(0, 0, 0.1), period=60.0)
    with pytest.raises(ValueError, match="no time"):
        run_driver(calculator, crystal, IpiServer(socket=name()))


def test_no_server_is_one_line(crystal, tmp_path):
    crystal.write(tmp_path / "start.xyz")
    command = ["ipi", str(MODEL), "-x", str(tmp_path / "start.xyz"), "--wait", "0.1", "--socket", "nobody"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "no i-PI server at /tmp/ipi_nobody: start i-PI first" in result.stderr


def test_the_command_drives_over_a_port(crystal, tmp_path):
    crystal.write(tmp_path / "start.xyz")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["ipi", str(MODEL), "-x", str(tmp_path / "start.xyz"), "--port", str(port), "--field", "[0, 0, 5 MV/cm]"]
    results = []
    runner = threading.Thread(target=lambda: results.append(CliRunner().invoke(app, command)), daemon=True)
    runner.start()
    with SocketIOCalculator(port=port, timeout=30) as remote:
        crystal.calc = remote
        energy = crystal.get_potential_energy()
    runner.join(timeout=30)
    assert "1 evaluations" in results[0].stdout
    crystal.calc = load_calculator(MODEL, field=[0, 0, 0.05])
    assert energy == pytest.approx(crystal.get_potential_energy(), rel=1e-10)
