"""What is refused before anything is run, and what the input says."""

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.abinit import AbinitCode, AbinitEngine, AbinitSettings
from fieldloop.dft_inputs.abinit.inputs import field_input
from fieldloop.dft_inputs.pseudopotentials import PseudopotentialError, find_pseudopotentials
from fieldloop.dft_inputs.records import Frame
from pydantic import ValidationError

PSP8 = """Al    ONCVPSP-3.3.0  r_core=   1.76802   1.76802   1.70587
13.0000      3.0000      171102    zatom,zion,pspd
8   {functional}   2     4   600     0    pspcod,pspxc,lmax,lloc,mmax,r2well
5.99000000  5.00000000  0.00000000    rchrg fchrg qchrg
2     2     2     0     0    nproj
{extension}     1           extension_switch
"""


@pytest.fixture
def library(tmp_path):
    """A folder with one ONCV file of aluminium."""

    def library(extension=1, functional=-1012, code=8):
        text = PSP8.format(extension=extension, functional=functional)
        (tmp_path / "Al.psp8").write_text(text.replace("\n8 ", f"\n{code} "))
        return AbinitCode(pseudo_dir=str(tmp_path))

    return library


def test_an_oncv_file(library):
    found = library().find_pseudopotentials(["Al"])["Al"]
    assert (found.element, found.z_valence, found.functional, found.kind) == ("Al", 3.0, "PW", "NC")


def test_an_oncv_file_with_spin_orbit_projectors_is_refused(library):
    with pytest.raises(PseudopotentialError, match="spin-orbit"):
        library(extension=3).find_pseudopotentials(["Al"])


def test_a_file_of_another_kind_is_refused(library):
    with pytest.raises(PseudopotentialError, match=r"no readable \.psp8 file"):
        library(code=6).find_pseudopotentials(["Al"])


def test_upf_files_are_not_for_abinit(library, tmp_path):
    with pytest.raises(PseudopotentialError, match=r"take \.psp8, \.gth, \.hgh files, not Al\.upf"):
        library().model_copy(update={"pseudopotentials": {"Al": "Al.upf"}}).find_pseudopotentials(["Al"])
    with pytest.raises(PseudopotentialError, match="by file, not by path"):
        library().model_copy(update={"pseudopotentials": {"Al": "../Al.psp8"}}).find_pseudopotentials(["Al"])
    # And the other way round: pw.x does not see them.
    with pytest.raises(PseudopotentialError, match=r"put a Al\*\.upf or \.gth there"):
        find_pseudopotentials(tmp_path, ["Al"])


def test_missing_program_is_told_with_the_way_to_get_it(alas, files):
    engine = AbinitEngine(
        AbinitSettings(ecut=6, kpoints=(2, 2, 2)), AbinitCode(command="abinit-99", pseudo_dir=str(files))
    )
    with pytest.raises(RuntimeError, match=r"abinit-99 not found: .*apt-get install abinit.*codes\.abinit\.command"):
        engine.check(alas)


def test_odd_electrons_need_no_run(engine, tmp_path):
    aluminium = Frame.from_atoms(bulk("Al"))
    with pytest.raises(ValueError, match="3 electrons leave a band half filled"):
        engine.check(aluminium)
    assert engine.band_gap(aluminium, tmp_path / "gap").metallic
    assert not (tmp_path / "gap").exists()


def test_settings_name_one_mesh():
    with pytest.raises(ValidationError, match="one of kpoints"):
        AbinitSettings(ecut=10)
    settings = AbinitSettings.from_protocol("standard", ecut=20)
    assert settings.kpoints is None
    assert settings.for_cell(5 * np.eye(3)).mesh == (5, 5, 5)
    with pytest.raises(ValueError, match="unknown protocol"):
        AbinitSettings.from_protocol("slow")


def test_no_line_is_longer_than_abinit_reads(engine, files):
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65, cubic=True).repeat((4, 4, 4)))
    text = field_input(
        frame,
        engine.settings,
        engine.code.find_pseudopotentials(frame.species),
        np.array([0, 0, 1e-3]),
        comment="a label",
    )
    assert max(map(len, text.splitlines())) < 264
    assert str(files) not in text
