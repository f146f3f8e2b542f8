"""Physical constants and conversions into the units used everywhere inside: eV, A, e, fs, V/A.

Values are CODATA 2018 (Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021)). A constant named ``A_IN_B`` is the
number of units B in one A.
"""

from math import sqrt

BOHR_IN_ANGSTROM = 0.529177210903
HARTREE_IN_EV = 27.211386245988
RYDBERG_IN_EV = HARTREE_IN_EV / 2

HARTREE_FIELD_IN_V_PER_ANGSTROM = HARTREE_IN_EV / BOHR_IN_ANGSTROM
# Rydberg units carry e^2 = 2, so their field is the Hartree one over sqrt(2) (pw.x ``efield_cart``).
RYDBERG_FIELD_IN_V_PER_ANGSTROM = HARTREE_FIELD_IN_V_PER_ANGSTROM / sqrt(2)
# A dipole printed by pw.x in Rydberg units is sqrt(2) times the dipole in e bohr.
RYDBERG_DIPOLE_IN_E_ANGSTROM = BOHR_IN_ANGSTROM / sqrt(2)
RYDBERG_FORCE_IN_EV_PER_ANGSTROM = RYDBERG_IN_EV / BOHR_IN_ANGSTROM

MV_PER_CM_IN_V_PER_ANGSTROM = 0.01
KBAR_IN_EV_PER_CUBIC_ANGSTROM = 1.0 / 1602.176634
E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM = 1602.176634

VACUUM_PERMITTIVITY = 5.526349358e-3
"""eps0 in e/(V A)."""

BOLTZMANN = 8.617333262e-5
"""eV/K."""

REDUCED_PLANCK = 0.6582119569
"""eV fs."""

AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV = 103.642696562
"""Kinetic energy: 1 u (A/fs)^2 in eV."""
