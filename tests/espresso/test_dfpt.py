"""DFPT labels by ph.x against finite fields by pw.x, two routes that share no code; failures; damaged outputs."""

from __future__ import annotations

import gzip
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwOutputError, PwSettings
from fieldloop.dft_inputs.espresso.dfpt import PhCode, PhSettings, label_frame_dfpt, read_ph_output
from fieldloop.dft_inputs.espresso.dfpt.inputs import dfpt_label_id
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.records import Frame, LabelledFrame
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.dft_inputs.units import VACUUM_PERMITTIVITY

FILES = ("ph.out", "tensors.xml")


@pytest.fixture(scope="module")
def silane() -> Frame:
    """Bent SiH4 molecules in a small cell: no symmetry, a wide gap, Z* far from symmetric."""
    corners = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    atoms = Atoms("SiH4", positions=corners * 1.48 / np.sqrt(3), cell=[4.2] * 3, pbc=True)
    atoms.rattle(0.12, seed=3)
    return Frame.from_atoms(atoms)


@pytest.fixture(scope="module")
def settings() -> PwSettings:
    return PwSettings(ecutwfc=12, kpoints=(3, 3, 3), conv_thr=1e-12)


@pytest.fixture(scope="module")
def silane_code(code) -> PwCode:
    return code.model_copy(update={"pseudopotentials": {"H": "H.pz-vbc.UPF", "Si": "Si.pz-vbc.UPF"}})


@pytest.fixture(scope="module")
def labelled(silane, settings, silane_code, tmp_path_factory):
    """The same frame by both routes, and the directory of the DFPT one."""
    home = tmp_path_factory.mktemp("silane")
    response = label_frame_dfpt(silane, settings, PhSettings(), PhCode(pw=silane_code), home / "dfpt")
    assert response.status == "done", response.failure
    return response, label_frame(PwEngine(settings, silane_code), silane, Stencil(), home / "fields"), home / "dfpt"


def test_charges_agree_with_finite_fields(labelled):
    """The index order too: transposed charges are seven times farther off."""
    dfpt, fields_, _ = labelled
    found, expected = dfpt.response.born_effective_charges, fields_.response.born_effective_charges
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(found.transpose(0, 2, 1) - expected).max() > 0.07
    assert np.abs(expected - expected.transpose(0, 2, 1)).max() > 0.05


def test_same_ground_state_as_finite_fields(labelled):
    dfpt, fields_, _ = labelled
    assert dfpt.response.enthalpy == pytest.approx(fields_.response.enthalpy, abs=1e-7)
    assert np.allclose(dfpt.response.forces, fields_.response.forces, atol=1e-4)
    assert np.allclose(dfpt.response.stress, fields_.response.stress, atol=1e-5)


def test_polarizability_brackets_that_of_finite_fields(labelled):
    """On a coarse mesh DFPT lies above and finite fields below the converged value; here they differ by 14 %."""
    dfpt, fields_, _ = labelled
    above, below = (np.diag(label.response.polarizability) for label in (dfpt, fields_))
    assert (above > below).all()
    assert (above < 1.2 * below).all()
    assert dfpt.quality.polarizability_asymmetry < 1e-5


def test_record(labelled):
    dfpt, fields_, directory = labelled
    assert dfpt.response.labels == ("enthalpy", "forces", "stress", "born_effective_charges", "polarizability")
    assert dfpt.quality.acoustic_sum_rule < 0.01
    assert dfpt.quality.passed
    assert dfpt.trainable
    assert dfpt.provenance.code == "ph.x"
    assert dfpt.provenance.code_version.startswith("6.7")
    assert dfpt.provenance.scf_iterations > 10
    assert dfpt.label_id != fields_.label_id
    assert LabelledFrame.model_validate_json(dfpt.model_dump_json()) == dfpt
    epsilon = read_ph_output(directory / "response").dielectric_tensor
    expected = VACUUM_PERMITTIVITY * dfpt.frame.volume * (epsilon - np.eye(3))
    assert np.allclose(dfpt.response.polarizability, expected)
    assert not (directory / "scf" / "scratch").exists()


def test_second_call_runs_nothing(labelled, silane, settings, silane_code):
    dfpt, _, directory = labelled
    nothing = silane_code.model_copy(update={"launcher": ("false",)})
    again = label_frame_dfpt(silane, settings, PhSettings(), PhCode(pw=nothing), directory)
    assert again.model_dump() == dfpt.model_dump()


def test_unconverged_response_then_more_iterations(labelled, silane, settings, silane_code, counted, tmp_path):
    """ph.x prints JOB DONE and the end of its calculation though it is not converged; the SCF is kept."""
    launched, log = counted
    code = PhCode(pw=silane_code.model_copy(update={"launcher": launched.launcher}))
    few = label_frame_dfpt(silane, settings, PhSettings(niter_ph=2), code, tmp_path / "label")
    assert few.status == "failed"
    assert "response not converged in 2 iterations at response" in few.failure
    text = (tmp_path / "label" / "response" / "ph.out").read_text()
    assert "JOB DONE" in text
    assert log.read_text().count("start") == 2
    whole = label_frame_dfpt(silane, settings, PhSettings(), code, tmp_path / "label")
    assert log.read_text().count("start") == 3
    assert whole.label_id == few.label_id
    expected = labelled[0].response.born_effective_charges
    assert np.allclose(whole.response.born_effective_charges, expected, atol=1e-6)


def test_time_limit_is_resumed(labelled, silane, settings, silane_code, tmp_path):
    """Each call goes on from the last iteration of the one before; one iteration at least is made."""
    label_frame_dfpt(silane, settings, PhSettings(), PhCode(pw=silane_code, command="false"), tmp_path / "label")
    for limit in (0.3, 0.3, None):
        code = PhCode(pw=silane_code.model_copy(update={"max_seconds": limit}))
        label = label_frame_dfpt(silane, settings, PhSettings(), code, tmp_path / "label")
        if limit:
            assert label.failure == "ph.x stopped at its time limit; run again to resume"
    assert label.status == "done"
    text = (tmp_path / "label" / "response" / "ph.out").read_text()
    assert "Restart in Electric Field calculation" in text
    assert "iter #   1 " not in text
    for name in ("born_effective_charges", "polarizability"):
        assert np.allclose(getattr(label.response, name), getattr(labelled[0].response, name), atol=1e-5)


@pytest.mark.parametrize(
    ("body", "reason"),
    [("kill -9 $$", "killed (signal 9) at response"), ("echo begun", "incomplete output, the run did not end")],
)
def test_broken_ph_gives_a_failed_record(silane, settings, silane_code, tmp_path, body, reason):
    script = tmp_path / "broken.sh"
    script.write_text(f"#!/bin/bash\n{body}\n")
    script.chmod(0o755)
    code = PhCode(pw=silane_code, command=str(script))
    label = label_frame_dfpt(silane, settings.model_copy(update={"kpoints": (1, 1, 1)}), PhSettings(), code, tmp_path)
    assert label.status == "failed"
    assert reason in label.failure
    assert label.response.labels == ()


def test_goedecker_files_are_tabulated(code, goedecker, tmp_path):
    """Silicon has no Z*: with the analytic form ph.x 6.7 gives -0.59 e on this mesh."""
    frame = Frame.from_atoms(bulk("Si", "diamond", a=5.40))
    settings = PwSettings(ecutwfc=24, kpoints=(8, 8, 8), conv_thr=1e-11)
    silicon = code.model_copy(update={"pseudo_dir": str(goedecker)})
    label = label_frame_dfpt(frame, settings, PhSettings(tr2_ph=1e-12), PhCode(pw=silicon), tmp_path / "label")
    assert label.status == "done", label.failure
    assert np.abs(label.response.born_effective_charges).max() < 0.12
    epsilon = 1 + label.response.polarizability[0, 0] / (VACUUM_PERMITTIVITY * frame.volume)
    assert epsilon == pytest.approx(14.4, abs=0.2)
    assert label.provenance.pseudopotentials["Si"] == silicon.find_pseudopotentials(["Si"])["Si"].sha256


def test_identity(silane, settings, silane_code):
    pseudopotentials = silane_code.find_pseudopotentials(silane.species)

    def identity(response=PhSettings(), **changes):  # noqa: B008
        return dfpt_label_id(silane, settings.model_copy(update=changes), response, pseudopotentials)

    others = [
        identity(ecutwfc=13.0),
        identity(kpoints=(3, 3, 4)),
        identity(PhSettings(tr2_ph=1e-15)),
        identity(PhSettings(alpha_mix=0.5)),
    ]
    assert len({identity(), *others}) == 5
    assert identity() == identity(mixing_beta=0.3) == identity(PhSettings(niter_ph=7))


def test_command_of_ph_follows_that_of_pw():
    assert PhCode(pw=PwCode(command="/opt/qe/bin/pw.x")).ph.command == "/opt/qe/bin/ph.x"
    assert PhCode(pw=PwCode(command="apptainer exec qe.sif pw.x")).ph.command == "apptainer exec qe.sif ph.x"
    assert PhCode(command="other/ph.x").ph.command == "other/ph.x"


@pytest.fixture
def whole(data):
    folder = data / "dfpt" / "silane"
    return {name: gzip.decompress((folder / f"{name}.gz").read_bytes()) for name in FILES}, read_ph_output(folder)


def judge(folder: Path, files: dict[str, bytes], expected) -> str:
    """Read a damaged run; anything but a clear error or the very same numbers fails the test."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        output = read_ph_output(folder)
    except PwOutputError as error:
        assert str(error).startswith(str(folder))
        assert any(name in str(error) for name in FILES)
        assert "\n" not in str(error)
        return "refused"
    for field in fields(output):
        assert np.array_equal(getattr(output, field.name), getattr(expected, field.name)), field.name
    return "read"


@pytest.mark.parametrize("name", FILES)
def test_truncated_outputs(whole, tmp_path, name):
    files, expected = whole
    for cut in np.random.default_rng(1).integers(len(files[name].rstrip()), size=200):
        assert judge(tmp_path, {**files, name: files[name][:cut]}, expected) == "refused"


@pytest.mark.parametrize("name", FILES)
def test_lost_lines(whole, tmp_path, name):
    """Every single line, and blocks."""
    files, expected = whole
    lines = files[name].splitlines(keepends=True)
    random = np.random.default_rng(2)
    cuts = [(start, 1) for start in range(len(lines))]
    cuts += [(int(random.integers(len(lines))), int(random.integers(2, 60))) for _ in range(200)]
    for start, count in cuts:
        damaged = b"".join(lines[:start] + lines[start + count :])
        judge(tmp_path, {**files, name: damaged}, expected)


@pytest.mark.parametrize("name", FILES)
def test_garbage(whole, tmp_path, name):
    files, expected = whole
    random = np.random.default_rng(3)
    for start in random.integers(len(files[name]), size=200):
        garbage = random.integers(256, size=int(random.integers(6, 100)), dtype=np.uint8).tobytes()
        damaged = files[name][:start] + garbage + files[name][start + len(garbage) :]
        judge(tmp_path, {**files, name: damaged}, expected)
