"""How ABINIT is run: limits of time, second attempts, ranks, runs that end as their parent is killed."""

import gzip
import shutil
from dataclasses import replace

import pytest
from ase.build import bulk
from fieldloop.dft_inputs.abinit.outputs import AbinitOutputError, read_abinit_output
from fieldloop.dft_inputs.errors import EngineError, Failure
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil


@pytest.fixture(scope="module")
def finished(engine, alas, runs, tmp_path_factory):
    """Folder and result of zero field and +x."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, runs(engine, alas, folder, "zero", "+x")


@pytest.fixture
def copy(finished, engine, alas, tmp_path):
    """A job on a copy of it."""
    folder = shutil.copytree(finished[0], tmp_path / "copy", symlinks=True)
    return engine.prepare(alas, Stencil(), folder)


def with_code(engine, **changes):
    return replace(engine, code=engine.code.model_copy(update=changes))


def test_a_run_that_stops_at_its_time_limit_goes_on_from_there(engine, alas, tmp_path):
    pause = tmp_path / "pause.sh"
    begun = "until grep -q 'ETOT  1' abinit.abo; do kill -0 $! || break; sleep 0.01; done 2>/dev/null"
    pause.write_text(f'#!/bin/bash\n"$@" & {begun}; kill -STOP $!; sleep 1; kill -CONT $!; wait $!\n')
    pause.chmod(0o755)
    long = replace(engine, settings=engine.settings.model_copy(update={"kpoints": (3, 3, 3), "tolvrs": 1e-16}))
    hasty = with_code(long, max_seconds=1, launcher=(str(pause),))
    job = hasty.prepare(alas, Stencil(), tmp_path)
    with lease(tmp_path, job.code) as descriptor:
        with pytest.raises(EngineError, match="stopped at its time limit at zero; run again to resume") as caught:
            job.run("zero", descriptor)
        assert caught.value.kind is Failure.TIME_LIMIT
        assert job.read("zero") is None
        job = long.prepare(alas, Stencil(), tmp_path)
        run = job.run("zero", descriptor)
    again = (job.folder("zero") / "as_run.abi").read_text()
    assert 'getwfk_filepath "start_WFK"' in again
    assert run.repairs == ()
    assert run.point.scf_iterations > read_abinit_output(job.folder("zero")).iterations
    assert job.read("zero") == run


def test_a_slow_scf_gets_a_second_attempt(engine, alas, runs, finished, tmp_path):
    slow = replace(engine, settings=engine.settings.model_copy(update={"nstep": 5}))
    run = runs(slow, alas, tmp_path, "zero")["zero"]
    assert run.repairs == ("zero: SCF not converged at first, went on for longer with diemac 50",)
    assert run.point.enthalpy == pytest.approx(finished[1]["zero"].point.enthalpy, abs=1e-8)
    assert run.point.scf_iterations > 5


def test_ranks_change_no_number(copy, engine, alas, runs, finished):
    """In a field too, from wavefunctions that a single process wrote."""
    shutil.rmtree(copy.folder("+x"))
    two = with_code(engine, launcher=("mpirun", "--oversubscribe", "-np", "{ranks}"), ranks=2)
    point, one = runs(two, alas, copy.directory, "+x")["+x"].point, finished[1]["+x"].point
    assert point.enthalpy == pytest.approx(one.enthalpy, abs=1e-8)
    assert point.forces == pytest.approx(one.forces, abs=1e-6)
    assert "mpi_nproc: 2" in (copy.folder("+x") / "abinit.abo").read_text()


def test_ranks_that_did_not_come_are_told(engine, alas, runs, tmp_path):
    alone = with_code(engine, launcher=("env", "RANKS={ranks}"), ranks=2)
    with pytest.raises(EngineError, match=r"ran on 1 of 2 ranks at zero.*codes\.abinit\.launcher"):
        runs(alone, alas, tmp_path, "zero")


def test_a_run_that_ended_as_its_parent_was_killed_is_marked_now(copy, finished):
    folder = copy.folder("+x")
    mark = folder / "abinit_GSR.nc.gz"
    (folder / "abinit_GSR.nc").write_bytes(gzip.decompress(mark.read_bytes()))
    mark.unlink()
    assert copy.read("+x") == finished[1]["+x"]
    assert mark.exists()
    assert not (folder / "abinit_GSR.nc").exists()


@pytest.mark.parametrize("ending", [" Calculation completed.", "=>converged", "+Overall time"])
def test_a_run_that_does_not_say_that_it_ended_well_is_none(copy, ending):
    file = copy.folder("+x") / "abinit.abo"
    text = file.read_text()
    assert ending in text
    file.write_text(text.replace(ending, ""))
    assert copy.read("+x") is None


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("abinit.abo", "ETOT  6  -8.", "ETOT  6  -8.9", "energy"),
        ("abinit.abo", "Electronic Berry phase     2.", "Electronic Berry phase     3.", "Berry phases"),
        ("abinit.abo", "    1     -0.0", "    1     -0.1", "forces"),
        ("abinit.log", "  2       -0.", "  2       -0.9", "Berry phases"),
    ],
)
def test_files_that_disagree_are_told(copy, file, old, new, reason):
    path = copy.folder("+x") / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(AbinitOutputError, match=f"disagree on the (total )?{reason}"):
        read_abinit_output(copy.folder("+x"))


def test_a_metal_is_told_by_its_bands_but_not_by_those_of_a_killed_run(engine, tmp_path):
    metal = Frame.from_atoms(bulk("Al", "hcp", a=2.86, c=4.67))
    assert engine.band_gap(metal, tmp_path / "gap").metallic
    script = tmp_path / "killed.sh"
    script.write_text('#!/bin/bash\n"$@"\nkill -9 $$\n')
    script.chmod(0o755)
    with pytest.raises(EngineError, match=r"killed \(signal 9\) at zero"):
        with_code(engine, launcher=(str(script),)).band_gap(metal, tmp_path / "killed")


def test_abinit_is_quoted_in_one_line(engine, alas, runs, files, tmp_path):
    """A pseudopotential whose header is right and whose body is not."""
    library = shutil.copytree(files, tmp_path / "library")
    text = (library / "Al.gth").read_text()
    (library / "Al.gth").write_text("\n".join(text.splitlines()[:5]))
    with pytest.raises(EngineError) as caught:
        runs(with_code(engine, pseudo_dir=str(library)), alas, tmp_path / "label", "zero")
    line = str(caught.value)
    assert "\n" not in line
    assert "pseudo/Al.gth" in line
    assert line.endswith("error: End of file at zero")


def test_a_disk_that_is_too_small_is_told_before_anything_is_run(engine, alas, tmp_path):
    vast = replace(engine, settings=engine.settings.model_copy(update={"ecut": 1e6, "kpoints": (99, 99, 99)}))
    with pytest.raises(EngineError, match=r"needs about .* GB free: make room, or lower kpoints or ecut") as caught:
        vast.prepare(alas, Stencil(), tmp_path / "label").require_space()
    assert caught.value.kind is Failure.DISK
