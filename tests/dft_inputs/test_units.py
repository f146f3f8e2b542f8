"""Constants against an independent table (scipy carries a later CODATA set; they agree to its changes)."""

import numpy as np
import pytest
from fieldloop.dft_inputs import units
from scipy import constants as si

ANGSTROM = si.angstrom
E = si.e
BOHR = si.value("Bohr radius")
HARTREE = si.value("Hartree energy")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BOHR_IN_ANGSTROM", BOHR / ANGSTROM),
        ("HARTREE_IN_EV", HARTREE / E),
        ("RYDBERG_IN_EV", si.value("Rydberg constant times hc in eV")),
        ("HARTREE_FIELD_IN_V_PER_ANGSTROM", si.value("atomic unit of electric field") * ANGSTROM),
        ("RYDBERG_FORCE_IN_EV_PER_ANGSTROM", HARTREE / 2 / BOHR * ANGSTROM / E),
        ("MV_PER_CM_IN_V_PER_ANGSTROM", si.mega / si.centi * ANGSTROM),
        ("KBAR_IN_EV_PER_CUBIC_ANGSTROM", si.kilo * si.bar * ANGSTROM**3 / E),
        ("E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM", E / ANGSTROM**2 / (si.micro / si.centi**2)),
        ("VACUUM_PERMITTIVITY", si.epsilon_0 * ANGSTROM / E),
        ("BOLTZMANN", si.k / E),
        ("REDUCED_PLANCK", si.hbar / E / si.femto),
        ("AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV", si.atomic_mass * (ANGSTROM / si.femto) ** 2 / E),
    ],
)
def test_constants(name, value):
    assert getattr(units, name) == pytest.approx(value, rel=2e-9)


def test_rydberg_field_and_dipole_are_conjugate():
    """Field times dipole is an energy in any unit system: in Rydberg units 1 x 1 is 1 Ry."""
    product = units.RYDBERG_FIELD_IN_V_PER_ANGSTROM * units.RYDBERG_DIPOLE_IN_E_ANGSTROM
    assert product == pytest.approx(units.RYDBERG_IN_EV, rel=1e-12)


def test_rydberg_field_in_practical_units():
    """1e-4 Ry a.u. is 0.36 MV/cm (pw.x ``efield_cart``)."""
    field = 1e-4 * units.RYDBERG_FIELD_IN_V_PER_ANGSTROM / units.MV_PER_CM_IN_V_PER_ANGSTROM
    assert field == pytest.approx(0.363609, rel=1e-5)


def test_clausius_mossotti_of_a_hydrogen_atom():
    """eps0 in e/(V A): alpha = 4.5 bohr^3 (Gaussian) is 4 pi eps0 4.5 a0^3 in e^2 A^2/eV, by two routes."""
    gaussian = 4.5 * units.BOHR_IN_ANGSTROM**3
    atomic = 4.5 * units.BOHR_IN_ANGSTROM**2 / units.HARTREE_IN_EV
    assert 4 * np.pi * units.VACUUM_PERMITTIVITY * gaussian == pytest.approx(atomic, rel=2e-9)


def test_thermal_velocity_of_hydrogen():
    """Kinetic energy 1/2 m v^2 of H at sqrt(kT/m), 300 K: v = 1573 m/s, 12.9 meV."""
    v = np.sqrt(si.k * 300 / (1.008 * si.atomic_mass)) / ANGSTROM * si.femto
    energy = 0.5 * 1.008 * v**2 * units.AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV
    assert energy == pytest.approx(0.5 * units.BOLTZMANN * 300, rel=2e-9)
