"""What goes wrong is told in one line, and no number comes from half a run, for every engine."""

import shutil

import pytest
from fieldloop.dft_inputs.consistency import MixedLabelsError, check_one_level
from fieldloop.dft_inputs.errors import ProgramNotFoundError
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.pseudopotentials import PseudopotentialError


def failed(engine, case, directory, frame=None):
    """The line of a label that must fail; nothing of it is left to train on."""
    labelled = label_frame(engine, frame or case.frame, case.stencil, directory)
    assert labelled.status == "failed"
    assert labelled.response.labels == ()
    assert labelled.failure
    assert "\n" not in labelled.failure
    assert len(labelled.failure) < 400
    return labelled.failure


def test_a_program_that_is_not_there(case, tmp_path):
    with pytest.raises(
        ProgramNotFoundError, match=rf"no-such-program not found: .*{case.engine.code.section}\.command"
    ):
        label_frame(case.run_by(command="no-such-program"), case.frame, case.stencil, tmp_path / "label")
    assert not (tmp_path / "label").exists()


def test_no_pseudopotential(case, tmp_path):
    (tmp_path / "empty").mkdir()
    engine = case.run_by(**{case.library: str(tmp_path / "empty")})
    with pytest.raises(PseudopotentialError) as caught:
        label_frame(engine, case.frame, case.stencil, tmp_path / "label")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "label").exists()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("echo 'libfoo.so: cannot open shared object file' >&2; exit 1", "libfoo.so: cannot open"),
        ("kill -9 $$", "was killed (signal 9) at zero"),
        ("exit 0", "at zero"),
        ("echo 'write error: No space left on device' >&2; exit 2", "No space left on device"),
    ],
)
def test_a_program_that_dies(case, launcher, tmp_path, end, reason):
    engine, log = launcher(case, every=end)
    line = failed(engine, case, tmp_path / "label")
    assert reason in line
    assert ("scratch_dir" in line) <= hasattr(engine.code, "scratch_dir"), "only what can be set is to be set"
    assert log.read_text().count("run") == 1


def test_a_program_that_takes_too_long(case, launcher, tmp_path):
    engine, _ = launcher(case, every="exec sleep 60")
    slow = case.run_by(launcher=engine.code.launcher, timeout=0.5)
    assert failed(slow, case, tmp_path / "label").endswith("exceeded its 0.5 s at zero")


def test_half_an_output_is_no_run(case, launcher, tmp_path):
    """The program ends with status 0, but its output is cut."""
    engine, _ = launcher(case, every=case.cut)
    assert "at zero" in failed(engine, case, tmp_path / "label")


def test_an_scf_that_does_not_converge(case, tmp_path):
    line = failed(case.with_settings(**case.hasty), case, tmp_path / "label")
    assert "not converged" in line
    assert "zero" in line


def test_a_metal(case, tmp_path):
    line = failed(case.engine, case, tmp_path / "label", case.metal)
    assert "metal" in line
    assert "insulator" in line


def test_outputs_cut_anywhere_are_no_runs(case, job, label, tmp_path):
    """Either the run is not there, or it says what it said when it was whole."""
    copy = shutil.copytree(job.directory, tmp_path / "label", symlinks=True)
    again = case.engine.prepare(case.frame, case.stencil, copy)
    whole = again.read("+z")
    assert whole == job.read("+z")
    for name in case.outputs:
        file = again.folder("+z") / name
        content = file.read_bytes()
        cuts = 0
        for end in range(0, len(content), max(1, len(content) // 20)):
            file.write_bytes(content[:end])
            cuts += again.read("+z") is None
            assert again.read("+z") in (None, whole)
        assert cuts >= 15
        file.unlink()
        assert again.read("+z") is None
        file.write_bytes(content)
    assert again.read("+z") == whole


def test_outputs_of_another_run_are_not_taken(case, job, label, displaced, home, tmp_path):
    """Of another field, and of another geometry: what names the input of a run is among its files."""
    copy = shutil.copytree(job.directory, tmp_path / "label", symlinks=True)
    again = case.engine.prepare(case.frame, case.stencil, copy)
    for source in (again.folder("+y"), home / "moved+1" / again.folder("+x").name):
        shutil.rmtree(again.folder("+x"))
        shutil.copytree(source, again.folder("+x"), symlinks=True)
        assert again.read("+x") is None
        assert again.read("+z") is not None


def test_points_of_another_level_of_theory_are_not_taken(case, job, label):
    """From the very directory of the label, of the same frame and fields."""
    for key, value in case.matters.items():
        other = case.with_settings(**{key: value}).prepare(case.frame, case.stencil, job.directory)
        assert [other.read(name) for name in job.fields] == [None] * len(job.fields), key
    assert all(job.read(name) for name in job.fields)


def test_labels_of_two_codes_do_not_mix(label):
    other = label.provenance.model_copy(update={"code": "another"})
    with pytest.raises(MixedLabelsError):
        check_one_level([label, label.model_copy(update={"provenance": other})])
