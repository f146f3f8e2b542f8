"""The VASP engine beyond what all engines have in common; the program that runs is synthetic."""

import gzip

import numpy as np
import pytest
from case_vasp import vasp_program
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.pseudopotentials import PseudopotentialError
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.dft_inputs.vasp.code import VaspCode
from fieldloop.dft_inputs.vasp.engine import VaspEngine
from fieldloop.dft_inputs.vasp.settings import VaspSettings
from fieldloop.workflows.vasp import FiniteFieldVaspMaker
from pydantic import ValidationError
from pymatgen.core import SETTINGS

STENCIL = Stencil(step=0.01, order=1)


@pytest.fixture
def engine(synthetic, tmp_path):
    """VASP with faults (see ``vasp_std.main``) and other fields of its code."""
    program = vasp_program(tmp_path)

    def make(faults="", settings=None, **code):
        how = {**program.model_dump(), "environment": {"VASP_DOUBLE": faults}, **code}
        return VaspEngine(VaspSettings(kpoints=synthetic.MESH, **(settings or {})), VaspCode(**how))

    return make


def test_label_of_the_model(synthetic, engine, tmp_path):
    """Numbers of the model, whatever the order of the atoms in the frame; field points start from zero field."""
    crystal, order = synthetic.Crystal(), [3, 0, 2, 1]
    frame = crystal.frame.model_copy(
        update={
            "species": tuple(crystal.frame.species[i] for i in order),
            "positions": crystal.frame.positions[order],
        }
    )
    label = label_frame(engine(), frame, Stencil(step=0.01), tmp_path / "label")
    assert label.status == "done", label.failure
    assert label.response.born_effective_charges == pytest.approx(crystal.born[order], abs=2e-4)
    assert label.response.polarizability == pytest.approx(crystal.alpha, abs=2e-3)
    assert label.response.forces == pytest.approx(crystal.forces(np.zeros(3))[order], abs=1e-6)
    assert [point.scf_iterations for point in label.field_points] == [9, *[4] * 6]
    assert "POTCAR" in (tmp_path / "label" / "field+x" / "POTCAR").read_text()
    # Each run is on a branch of its own, which is told.
    assert sum("dipole moved" in line for line in label.quality.repairs) >= 3


def test_makers_give_the_same_name(synthetic, engine, tmp_path, monkeypatch):
    frame, one = synthetic.Crystal().frame, engine()
    maker = FiniteFieldVaspMaker(settings=one.settings, step=0.01, order=1)
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    by_name = maker.label_id(frame)
    assert by_name != one.label_id(frame, STENCIL)
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "potcars"))
    assert maker.label_id(frame) == one.label_id(frame, STENCIL)
    assert engine(potcar_dir=None).label_id(frame, STENCIL) == one.label_id(frame, STENCIL)


def test_remedy_of_an_scf_that_does_not_converge(synthetic, engine, tmp_path):
    frame = synthetic.Crystal().frame
    label = label_frame(engine("stubborn@field"), frame, STENCIL, tmp_path / "label")
    assert label.status == "done", label.failure
    (line,) = [line for line in label.quality.repairs if line.startswith("+y: SCF")]
    assert line == "+y: SCF not converged in 4 iterations at +y, then all bands at once (ALGO All, NELM 400)"
    assert [point.scf_iterations for point in label.field_points] == [9, 8, 8, 8]
    assert label.label_id == engine().label_id(frame, STENCIL)
    # Neither more iterations nor another distribution over the ranks makes finished points anew.
    others = engine("die", settings={"nelm": 300, "incar": {"KPAR": 2}})
    assert label_frame(others, frame, STENCIL, tmp_path / "label") == label
    assert label.provenance.cpu_seconds == 4 * 9.0


def test_a_failure_that_no_remedy_mends(synthetic, engine, tmp_path):
    label = label_frame(engine(settings={"nelm": 1}), synthetic.Crystal().frame, STENCIL, tmp_path / "label")
    first, second = (f"SCF not converged in {n} iterations at zero" for n in (1, 2))
    assert label.failure == f"{first}, nor with all bands at once: {second}"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("die@field", "failed (exit 1) at +x: VERY BAD NEWS! internal error in subroutine SGRCON"),
        ("mute@zero", "no complete output at zero: Error EDDDAV: Call to ZHEGV failed"),
        ("crash@field", "was killed (signal 6) at +x"),
    ],
)
def test_failures_in_words_of_vasp(synthetic, engine, tmp_path, fault, reason):
    label = label_frame(engine(fault), synthetic.Crystal().frame, STENCIL, tmp_path / "label")
    assert reason in label.failure
    assert label_frame(engine(), synthetic.Crystal().frame, STENCIL, tmp_path / "label").status == "done"


def test_a_run_stops_at_its_time_limit_and_goes_on(synthetic, engine, tmp_path):
    """LABORT in STOPCAR; the next call starts from the WAVECAR that was left."""
    slow = engine("slow", max_seconds=0.3)
    label = label_frame(slow, synthetic.Crystal().frame, STENCIL, tmp_path / "label")
    assert label.failure == "stopped at its time limit at zero after 4 iterations; run again to resume"
    again = label_frame(slow, synthetic.Crystal().frame, STENCIL, tmp_path / "label")
    assert again.status == "done", again.failure
    assert "zero: resumed 1 time after its time limit" in again.quality.repairs
    assert again.field_points[0].scf_iterations == 4 + 4


def test_potcars_are_found_where_pymatgen_looks(synthetic, engine, tmp_path):
    """Flat or in folders, of functionals or not, gzipped or not: the same content, the same label."""
    frame, expected = synthetic.Crystal().frame, engine().label_id(synthetic.Crystal().frame, STENCIL)
    text = {symbol: synthetic.potcar_text(symbol).encode() for symbol in synthetic.VALENCES}
    for number, (oxygen, magnesium) in enumerate(
        [("POTCAR.O", "Mg/POTCAR.gz"), ("POT_GGA_PAW_PBE_54/POTCAR.O.gz", "POT_GGA_PAW_PBE_54/Mg/POTCAR")]
    ):
        library = tmp_path / f"library{number}"
        for symbol, name in (("O", oxygen), ("Mg", magnesium)):
            (library / name).parent.mkdir(parents=True, exist_ok=True)
            (library / name).write_bytes(gzip.compress(text[symbol]) if name.endswith("gz") else text[symbol])
        assert engine(potcar_dir=str(library)).label_id(frame, STENCIL) == expected


def test_potcars_that_cannot_be_used(synthetic, engine, tmp_path, monkeypatch):
    frame = synthetic.Crystal().frame
    with pytest.raises(PseudopotentialError, match=r"no POTCAR Mg_pv for Mg \(PBE_54\).*set codes\.vasp\.potcar_dir"):
        engine(settings={"potcars": {"Mg": "Mg_pv"}}).check(frame)
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    with pytest.raises(PseudopotentialError, match="no library of POTCAR files"):
        engine(potcar_dir=None).check(frame)
    file = tmp_path / "potcars" / "Mg" / "POTCAR"
    file.write_text(synthetic.potcar_text("O"))
    with pytest.raises(PseudopotentialError, match=r"is the POTCAR of O \(PAW_PBE O 08Apr2002\), not of Mg"):
        engine().check(frame)
    file.write_text(2 * synthetic.potcar_text("Mg"))
    with pytest.raises(PseudopotentialError, match="no POTCAR of a single element: it names 2"):
        engine().check(frame)


def test_potcar_of_a_run_follows_poscar(synthetic, engine, tmp_path):
    """Species in the order in which POSCAR has them; one file for all points of the label."""
    crystal = synthetic.Crystal().frame
    order = [1, 0, 2, 3]
    species, positions = tuple(crystal.species[i] for i in order), crystal.positions[order]
    frame = crystal.model_copy(update={"species": species, "positions": positions})
    job = engine().prepare(frame, STENCIL, tmp_path / "label")
    job.write("zero")
    text = (tmp_path / "label" / "zero" / "POTCAR").read_text()
    assert text == synthetic.potcar_text("Mg") + synthetic.potcar_text("O")
    assert (tmp_path / "label" / "zero" / "POSCAR").read_text().splitlines()[5] == "Mg O"


def test_what_is_refused_before_anything_runs(synthetic, engine, tmp_path):
    frame = synthetic.Crystal().frame
    with pytest.raises(ValidationError, match="vasp_gam takes orbitals as real"):
        VaspCode(command="apptainer exec vasp.sif /opt/vasp/bin/vasp_gam")
    with pytest.raises(ValueError, match="are lost in VASP"):
        label_frame(engine(), frame, Stencil(step=5e-5), tmp_path / "label")
    file = tmp_path / "potcars" / "Mg" / "POTCAR"
    file.write_text(file.read_text().replace("2.000    mass", "3.000    mass"))
    odd = frame.model_copy(update={"species": frame.species[:3], "positions": frame.positions[:3]})
    with pytest.raises(ValueError, match="15 electrons leave a band half filled"):
        label_frame(engine(), odd, STENCIL, tmp_path / "label")
    assert not (tmp_path / "label").exists()


def test_moments_of_atoms_in_another_order_are_refused(synthetic, engine, tmp_path):
    """The atoms of this frame are mixed, those of POSCAR are not."""
    crystal = synthetic.Crystal()
    assert tuple(range(len(crystal.frame))) != synthetic.GROUPED
    incar = {"ISPIN": 2, "MAGMOM": (1.0, -1.0, 0.0, 0.0)}
    with pytest.raises(ValueError, match="sort its atoms by species"):
        engine(settings={"incar": incar}).prepare(crystal.frame, Stencil(step=0.01), tmp_path)
    with pytest.raises(ValueError, match="sort its atoms by species"):
        FiniteFieldVaspMaker(settings=VaspSettings(kpoints=(2, 2, 2), incar=incar)).make(crystal.frame)
