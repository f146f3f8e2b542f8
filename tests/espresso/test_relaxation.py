"""Relaxations in a field, and the static dielectric constant of quartz from published ones."""

from __future__ import annotations

import gzip
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from ase.io.espresso import write_espresso_in
from fieldloop.dft_inputs.espresso import PwOutputError
from fieldloop.dft_inputs.espresso.relaxation import dielectric_constant, read_relaxation
from fieldloop.dft_inputs.units import RYDBERG_FIELD_IN_V_PER_ANGSTROM, VACUUM_PERMITTIVITY

ZERO, BIASED = "SiO2-E0.out.gz", "SiO2-Ez-1e-3.out.gz"


@pytest.fixture
def published(data):
    """Quartz relaxed at E = 0 and at E_z = 1e-3 Ry a.u."""
    return [read_relaxation(data / "allegro_pol" / "relax_SiO2" / name) for name in (ZERO, BIASED)]


def test_static_dielectric_constant_of_quartz(published):
    """Falletta et al., Nat. Commun. 16, 4031 (2025): 4.74 along the axis."""
    zero, biased = published
    assert (zero.steps, biased.steps) == (0, 10)
    assert biased.field / RYDBERG_FIELD_IN_V_PER_ANGSTROM == pytest.approx([0, 0, 1e-3])
    constant, change = dielectric_constant(zero, biased)
    assert constant == pytest.approx(4.74, rel=0.01)
    assert np.abs(change[:2]).max() < 1e-3 * change[2]


def test_any_branch_gives_the_same_constant(published):
    zero, biased = published
    expected, _ = dielectric_constant(zero, biased)
    assert np.allclose(np.diag(zero.branches), 2 * np.diag(zero.frame.cell) / 4)  # four k-strings along each axis
    for hops in ((1, 0, 0), (0, -2, 3), (5, 1, -4)):
        moved = replace(biased, polarization=biased.polarization + hops @ zero.branches)
        assert dielectric_constant(zero, moved)[0] == pytest.approx(expected, abs=1e-9)


def test_what_is_no_pair_is_refused(published):
    zero, biased = published
    with pytest.raises(ValueError, match="without a field first"):
        dielectric_constant(biased, zero)
    with pytest.raises(ValueError, match=r"with field has forces up to 0.0019.*relax it below 0.001"):
        dielectric_constant(replace(zero, forces=0 * zero.forces), biased, largest_force=1e-3)
    other = zero.frame.model_copy(update={"cell": zero.frame.cell * 1.01})
    with pytest.raises(ValueError, match="of different crystals"):
        dielectric_constant(replace(zero, frame=other), biased)


@pytest.mark.parametrize("name", [ZERO, BIASED])
def test_damaged_files(data, tmp_path, name):
    """Truncated anywhere: refused. A line lost: refused or of no matter."""
    source = data / "allegro_pol" / "relax_SiO2" / name
    text, expected = gzip.decompress(source.read_bytes()), read_relaxation(source)
    path = tmp_path / "relax.out"
    random = np.random.default_rng(1)
    for cut in random.integers(len(text.rstrip()), size=50):
        path.write_bytes(text[:cut])
        with pytest.raises(PwOutputError, match=r"relax\.out: "):
            read_relaxation(path)
    lines = text.splitlines(keepends=True)
    for start in random.integers(len(lines), size=100):
        path.write_bytes(b"".join(lines[:start] + lines[start + 1 :]))
        try:
            relaxation = read_relaxation(path)
        except PwOutputError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert np.array_equal(relaxation.frame.positions, expected.frame.positions)
            assert np.array_equal(relaxation.polarization, expected.polarization)
            assert np.array_equal(relaxation.forces, expected.forces)


@pytest.fixture(scope="module")
def alas_in_a_field(primitive, code, tmp_path_factory):
    """pw.x on primitive AlAs without a field, in a field with fixed ions, and relaxed in it."""
    home = tmp_path_factory.mktemp("relax")
    runs = {}
    for name, calculation, field in (("zero", "scf", 0.0), ("fixed", "scf", 2e-4), ("relaxed", "relax", 2e-4)):
        with (home / f"{name}.in").open("w") as file:
            write_espresso_in(
                file,
                primitive.to_atoms(),
                input_data={
                    "control": {
                        "calculation": calculation,
                        "outdir": f"./{name}",
                        "pseudo_dir": code.pseudo_dir,
                        "lelfield": True,
                        "nberrycyc": 1,
                        "tprnfor": True,
                        "forc_conv_thr": 1e-6,
                        "etot_conv_thr": 1e-10,
                    },
                    "system": {"ecutwfc": 12, "occupations": "fixed", "nosym": True},
                    "electrons": {"conv_thr": 1e-13, "efield_cart(3)": field, "startingwfc": "random"},
                },
                pseudopotentials={"Al": "Al.pz-vbc.UPF", "As": "As.pz-bhs.UPF"},
                kpts=(2, 2, 2),
            )
        settings = {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        with (home / f"{name}.out").open("w") as out:
            subprocess.run(
                [*code.argv(), "-in", f"{name}.in"], cwd=home, stdout=out, env={**os.environ, **settings}, check=True
            )
        runs[name] = read_relaxation(home / f"{name}.out")
    return runs


def test_enthalpy_gained_by_the_ions(alas_in_a_field):
    """Ions that follow a field lower the enthalpy by eps0 V (eps_0 - eps_inf) E^2 / 2."""
    zero, fixed, relaxed = (alas_in_a_field[name] for name in ("zero", "fixed", "relaxed"))
    assert relaxed.steps > 0
    assert relaxed.largest_force < fixed.largest_force / 50
    static, _ = dielectric_constant(zero, relaxed)
    electronic, _ = dielectric_constant(zero, fixed, largest_force=1)
    gained = (fixed.enthalpy - relaxed.enthalpy) / (
        VACUUM_PERMITTIVITY * zero.frame.volume * (fixed.field @ fixed.field)
    )
    assert static - electronic > 0.5
    assert 2 * gained == pytest.approx(static - electronic, rel=0.02)
