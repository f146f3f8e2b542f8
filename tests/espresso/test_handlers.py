"""What goes wrong with real runs, and what is done about it: each failure is produced by pw.x itself."""

import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import psutil
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.attempts import read_attempts
from fieldloop.dft_inputs.branches import align_dipoles, align_enthalpies, string_counts, string_lattice
from fieldloop.dft_inputs.errors import EngineError, Failure
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings
from fieldloop.dft_inputs.espresso.failures import falls, scf_accuracies, stagnates, wall_seconds
from fieldloop.dft_inputs.espresso.handlers import LADDER, closed_gap, next_remedy
from fieldloop.dft_inputs.espresso.namelists import with_keys
from fieldloop.dft_inputs.espresso.scratch import drop_scratch, has_scratch, make_scratch, scratch_bytes
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil
from pydantic import ValidationError

FORWARD = Stencil(order=1)


def assert_same_numbers(label, reference, charges=2e-3):
    """Equal but for what the SCF threshold leaves open."""
    assert label.label_id == reference.label_id
    assert label.response.enthalpy == pytest.approx(reference.response.enthalpy, abs=1e-9)
    mine, others = label.response.born_effective_charges, reference.response.born_effective_charges
    assert np.abs(mine - others).max() < charges
    assert np.allclose(label.response.polarizability, reference.response.polarizability, atol=2e-3)


def stretched(scale: float) -> Frame:
    atoms = bulk("AlAs", "zincblende", a=5.65 * scale)
    atoms.positions[0] += (0.12, -0.05, 0.03)
    return Frame.from_atoms(atoms)


@pytest.fixture(scope="module")
def plain(displaced_primitive, fast, code, tmp_path_factory):
    """The label without any trouble."""
    return label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, tmp_path_factory.mktemp("plain"))


# The SCF


def test_slow_scf_goes_on_from_its_density_and_costs_nothing_more(plain, displaced_primitive, code, tmp_path):
    settings = PwSettings.from_protocol("fast", electron_maxstep=6)
    label = label_frame(PwEngine(settings, code), displaced_primitive, FORWARD, tmp_path)
    assert label.status == "done", label.failure
    assert_same_numbers(label, plain)
    assert label.quality.repairs[0] == "zero: SCF not converged in 6 iterations at zero, then more iterations"
    assert label.quality.passed
    assert label.provenance.scf_iterations <= plain.provenance.scf_iterations + 4
    assert (tmp_path / "zero" / "pw.1.out").exists()
    assert label_frame(PwEngine(settings, code), displaced_primitive, FORWARD, tmp_path) == label


def test_the_ladder_is_climbed_with_the_numbers_unchanged(plain, displaced_primitive, code, tmp_path):
    settings = PwSettings.from_protocol("fast", electron_maxstep=4)
    label = label_frame(PwEngine(settings, code), displaced_primitive, FORWARD, tmp_path)
    assert label.status == "done", label.failure
    assert "then conjugate gradients (diagonalization cg)" in label.quality.repairs[0]
    assert_same_numbers(label, plain)


@pytest.mark.parametrize("remedy", LADDER, ids=lambda remedy: remedy.name)
def test_every_remedy_leads_to_the_same_numbers(plain, displaced_primitive, fast, code, tmp_path, remedy, monkeypatch):
    """Each as the only rung: mixing, diagonalization and Berry cycles are ways, not aims."""
    monkeypatch.setattr("fieldloop.dft_inputs.espresso.handlers.LADDER", (remedy,))
    settings = fast.model_copy(update={"electron_maxstep": 9 if remedy.from_disk else 60})
    label = label_frame(PwEngine(settings, code), displaced_primitive, FORWARD, tmp_path)
    assert label.status == "done", label.failure
    assert_same_numbers(label, plain)


def test_job_done_of_an_unconverged_run_is_no_number(displaced_primitive, code, tmp_path):
    """pw.x prints JOB DONE after two iterations too (dpgen #732)."""
    settings = PwSettings.from_protocol("fast", electron_maxstep=2)
    label = label_frame(PwEngine(settings, code), displaced_primitive, FORWARD, tmp_path)
    assert "JOB DONE" in (tmp_path / "zero" / "pw.out").read_text()
    assert label.status == "failed"
    assert label.failure.startswith("SCF not converged in 2 iterations at zero, nor with more iterations, conjugate")
    assert label.response.labels == ()
    assert not list(tmp_path.glob("*/pw.xml"))


def test_field_beyond_the_critical_one_is_given_up_early_with_the_reason(fast, code, tmp_path):
    """The SCF goes round in circles; it is stopped long before its last iteration, and no remedy is tried."""
    settings = fast.model_copy(update={"electron_maxstep": 5000})
    start = time.process_time()
    label = label_frame(PwEngine(settings, code), stretched(1.2), Stencil(order=1, step=0.1), tmp_path)
    assert time.process_time() - start < 60
    assert label.status == "failed"
    assert "SCF stagnates after" in label.failure
    assert "times the critical one (gap 0." in label.failure
    text = (tmp_path / "field+x" / "pw.out").read_text()
    assert stagnates(text)
    assert len(scf_accuracies(text)) < 2000
    assert len(read_attempts(tmp_path / "field+x")) == 1


def test_metal_is_named(fast, code, tmp_path):
    label = label_frame(PwEngine(fast, code), stretched(1.25), FORWARD, tmp_path)
    assert label.failure.startswith("metallic: fields need an insulator; gap 0.0")
    assert closed_gap(stretched(1.4), fast, code, tmp_path) == "gap closed (-0.06 eV), fields need an insulator"
    assert closed_gap(stretched(1.0), fast, code, tmp_path / "open") is None


def test_next_remedy():
    names = []
    while remedy := next_remedy(Failure.SLOW, tuple(names)):
        names.append(remedy.name)
    assert names == [remedy.name for remedy in LADDER]
    assert next_remedy(Failure.STAGNANT, ()).name == "conjugate gradients"
    for kind in (Failure.KILLED, Failure.DISK, Failure.TIME_LIMIT, Failure.OTHER):
        assert next_remedy(kind, ()) is None


def accuracies(*values):
    return "".join(f"     estimated scf accuracy    < {value:16.2E} Ry\n" for value in values)


def test_stagnation_is_told_from_slow_convergence():
    assert not stagnates(accuracies(*(10.0 ** -(n / 4) for n in range(60))))
    assert stagnates(accuracies(*(10.0 ** -min(n, 8) for n in range(40))))
    assert stagnates(accuracies(*(1e-6 for _ in range(5)), *(1e-3 for _ in range(10))))
    assert not stagnates(accuracies(6.5, 3e-5, *(4e-5 for _ in range(10)), 1e-5, 1e-7))
    assert falls(accuracies(1e-1, 1e-3, 1e-4))
    assert not falls(accuracies(1e-1, 1e-8, 1e-7, 1e-7))
    assert not falls("")


def test_wall_time_as_printed():
    assert wall_seconds("     PWSCF        :   1h 2m CPU   1h 3m WALL\n") == 3780
    assert wall_seconds("     PWSCF        :      2.76s CPU      2.93s WALL\n") == 2.93
    assert wall_seconds("") == 0


def test_only_the_way_to_convergence_can_be_changed():
    text = "&CONTROL\n/\n&ELECTRONS\n   mixing_beta      = 0.5\n/\n"
    changed = with_keys(text, {"mixing_beta": 0.15, "max_seconds": 12.5, "startingwfc": "file"})
    assert changed.count("mixing_beta") == 1
    assert "= 0.15\n" in changed
    assert "'file'" in changed.split("&ELECTRONS")[1]
    assert "max_seconds      = 12.5" in changed.split("&ELECTRONS")[0]
    with pytest.raises(KeyError):
        with_keys(text, {"ecutwfc": 20})


# Time limits and signals


def test_time_limit_stops_cleanly_and_the_next_call_goes_on(rattled, fast, code, tmp_path):
    whole = label_frame(PwEngine(fast, code), rattled, FORWARD, tmp_path / "whole")
    limit, stops = 0.5, []
    while True:
        limited = code.model_copy(update={"max_seconds": limit})
        label = label_frame(PwEngine(fast, limited), rattled, FORWARD, tmp_path / "limited")
        if label.status == "done" or len(stops) == 12:
            break
        stops.append(label.failure)
        limit *= 1.6
    assert label.status == "done", label.failure
    assert stops[0].startswith("stopped at its time limit of 0.5 s at zero after")
    assert stops[0].endswith("run again to resume")
    assert "after its time limit" in label.quality.repairs[0]
    assert "resumed" in label.quality.repairs[0]
    assert_same_numbers(label, whole, charges=5e-3)
    # Each stop costs an iteration or two, not the run.
    assert label.provenance.scf_iterations <= whole.provenance.scf_iterations + 3 * len(stops)


def test_batch_job_that_is_over_starts_nothing(displaced_primitive, fast, counted, tmp_path):
    code, log = counted
    late = code.model_copy(update={"environment": {"SLURM_JOB_END_TIME": str(int(time.time()) + 60)}})
    label = label_frame(PwEngine(fast, late), displaced_primitive, FORWARD, tmp_path / "late")
    assert label.failure == "no time is left in this batch job for zero; run again to resume"
    assert log.read_text() == ""
    early = code.model_copy(update={"environment": {"SLURM_JOB_END_TIME": str(int(time.time()) + 3600)}})
    assert 3400 < early.seconds_left() < 3600
    assert early.model_copy(update={"max_seconds": 10.0}).seconds_left() == 10


def test_killed_with_sigkill_is_named_and_resumed_from_the_start_of_the_point(rattled, fast, code, tmp_path):
    def kill():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for process in psutil.process_iter(["name"]):
                try:
                    at_work = process.info["name"] == "pw.x" and process.cwd() == str(tmp_path / "field+y")
                except psutil.Error:
                    continue
                if at_work:
                    process.send_signal(signal.SIGKILL)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    label = label_frame(PwEngine(fast, code), rattled, FORWARD, tmp_path)
    thread.join()
    assert label.failure == "pw.x was killed (signal 9) at +y"
    assert [point.name for point in label.field_points] == ["zero", "+x"]
    label = label_frame(PwEngine(fast, code), rattled, FORWARD, tmp_path)
    assert label.status == "done"
    assert label.quality.repairs == ()


# Disks


def test_files_larger_than_allowed(rattled, fast, code, tmp_path):
    """The real pw.x under a limit on the size of files, as a quota sets it."""
    script = tmp_path / "limited.sh"
    script.write_text('#!/bin/bash\nulimit -f 100\n"$@"\n')
    script.chmod(0o755)
    # Open MPI's daemon would need larger files than pw.x may write here.
    alone = {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_btl": "self", "OMPI_MCA_pml": "ob1"}
    small = code.model_copy(update={"launcher": (str(script),), "environment": alone})
    label = label_frame(PwEngine(fast, small), rattled, FORWARD, tmp_path / "frame")
    assert label.status == "failed"
    assert label.failure.startswith("No space left on device at zero; make room or set codes.pw.scratch_dir")
    assert label_frame(PwEngine(fast, code), rattled, FORWARD, tmp_path / "frame").status == "done"


def test_full_scratch_disk(rattled, fast, code, tmp_path):
    """A file system of 1 MB where one may be mounted; else scratch files that are /dev/full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode:
        script = tmp_path / "full.sh"
        script.write_text('#!/bin/bash\nmkdir -p scratch\nln -sf /dev/full scratch/pwscf.wfc1\nexec "$@"\n')
        script.chmod(0o755)
        full = code.model_copy(update={"launcher": (str(script),)})
    else:
        full = code.model_copy(update={"scratch_dir": str(disk), "scratch_quota": 1e12})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fieldloop.dft_inputs.espresso.job.require_space", lambda *_: None)
            label = label_frame(PwEngine(fast, full), rattled, FORWARD, tmp_path / "frame")
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", disk], check=True)
    assert label.status == "failed"
    assert label.failure.startswith("No space left on device at zero")
    assert label.response.labels == ()


def test_too_much_scratch_is_refused_before_anything_runs(rattled, fast, counted, tmp_path):
    code, log = counted
    label = label_frame(
        PwEngine(fast, code.model_copy(update={"scratch_quota": 1e6})), rattled, FORWARD, tmp_path / "frame"
    )
    assert label.failure.startswith("this label needs about 0.0")
    assert "codes.pw.scratch_quota (0.001 GB): raise it" in label.failure
    assert log.read_text() == ""
    huge = fast.model_copy(update={"ecutwfc": 4000.0, "kpoints": (40, 40, 40)})
    label = label_frame(PwEngine(huge, code), rattled, FORWARD, tmp_path / "huge")
    assert "GB free: make room" in label.failure
    assert log.read_text() == ""


def test_estimate_of_scratch_files_holds(rattled, fast, code, tmp_path, monkeypatch):
    """Against what the real pw.x leaves."""
    monkeypatch.setattr("fieldloop.dft_inputs.espresso.job.drop_scratch", lambda directory: None)
    assert label_frame(PwEngine(fast, code), rattled, FORWARD, tmp_path).status == "done"
    written = [
        sum(path.stat().st_size for path in (tmp_path / name / "scratch").rglob("*") if path.is_file())
        for name in ("zero", "field+x")
    ]
    estimate = scratch_bytes(rattled, fast, 32)
    assert 0.3 < max(written) / estimate < 1.0


@pytest.mark.parametrize(("order", "points"), [(1, 2), (2, 3), (4, 5)])
def test_estimate_counts_all_points_that_the_last_of_an_axis_starts_from(
    displaced_primitive, fast, code, tmp_path, order, points
):
    job = PwEngine(fast, code).prepare(displaced_primitive, Stencil(order=order), tmp_path)
    assert 1 + max(len(job.sources(name)) for name in job.fields) == points


def test_scratch_on_a_disk_of_its_own(plain, displaced_primitive, fast, code, tmp_path):
    disk = tmp_path / "fast disk"
    label = label_frame(
        PwEngine(fast, code.model_copy(update={"scratch_dir": str(disk)})),
        displaced_primitive,
        FORWARD,
        tmp_path / "frame",
    )
    assert label.status == "done", label.failure
    assert label.label_id == plain.label_id
    assert label.response == plain.response
    assert list(disk.iterdir()) == []
    assert not list((tmp_path / "frame").glob("*/scratch"))


def test_scratch_links(tmp_path):
    point, disk = tmp_path / "point", tmp_path / "disk"
    place = make_scratch(point, str(disk))
    (place / "pwscf.save").mkdir()
    for name in ("charge-density.dat", "wfc1.dat"):
        (place / "pwscf.save" / name).touch()
    assert place.is_symlink()
    assert has_scratch(point)
    shutil.rmtree(disk)
    assert not has_scratch(point)
    drop_scratch(point)
    assert not place.is_symlink()


# Branches


def test_a_whole_quantum_on_a_mesh_of_many_strings_is_repaired(stored):
    """e a_i is as many string quanta as there are strings: 36 on a 6x6x6 mesh."""
    points, frame = stored("alas_primitive")
    mesh = (6, 6, 6)
    lattice, strings = string_lattice(frame.cell, mesh), string_counts(mesh)
    assert strings == (36, 36, 36)
    whole = frame.cell[0] + frame.cell[1]
    jumped = points["+x"].model_copy(update={"enthalpy": points["+x"].enthalpy - float(points["+x"].field @ whole)})
    mended, (line,) = align_enthalpies({**points, "+x": jumped}, lattice, strings)
    assert mended["+x"].enthalpy == pytest.approx(points["+x"].enthalpy, abs=1e-8)
    assert line.startswith("+x: enthalpy moved by")
    hopped = points["-y"].model_copy(update={"polarization": points["-y"].polarization + whole})
    mended, (line,) = align_dipoles({**points, "-y": hopped}, lattice)
    assert np.allclose(mended["-y"].polarization, points["-y"].polarization)


# Launchers


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"launcher": "mpirun", "ranks": 2}, ["-np", "2"]),
        ({"ranks": 3}, ["-np", "3"]),
        ({"launcher": "mpirun --oversubscribe -np {ranks}", "ranks": 5}, ["--oversubscribe", "-np", "5"]),
        ({"launcher": "mpirun -np 4"}, ["-np", "4"]),
    ],
)
def test_launcher_templates(given, words):
    program, *others = PwCode(**given).argv()
    assert program.endswith("/mpirun")
    assert others[:-1] == words
    assert others[-1].endswith("/pw.x")


def test_srun_gets_a_step_of_its_own(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    import os

    code = PwCode(launcher="srun", ranks=8, environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert code.argv()[:4] == [str(srun), "--ntasks=8", "--exact", "--kill-on-bad-exit=1"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"command": "pw.x -nk 4"}, "pw.x refuses -nk in an electric field"),
        ({"launcher": "mpirun -np 4", "ranks": 4}, "does not say where the 4 ranks go"),
        ({"scratch_quota": "20 apples"}, "is no size"),
    ],
)
def test_launchers_that_cannot_work(given, complaint):
    with pytest.raises(ValidationError, match=complaint):
        PwCode(**given)


def test_two_ranks_give_the_numbers_of_one(plain, displaced_primitive, fast, code, tmp_path):
    parallel = label_frame(PwEngine(fast, code.model_copy(update={"ranks": 2})), displaced_primitive, FORWARD, tmp_path)
    assert parallel.status == "done", parallel.failure
    assert parallel.label_id == plain.label_id
    assert parallel.response.enthalpy == pytest.approx(plain.response.enthalpy, abs=1e-6)
    assert np.allclose(parallel.response.forces, plain.response.forces, atol=1e-6)
    assert_same_numbers(parallel, plain)


# Parts of a directory


def test_parts_of_a_label_share_its_directory_but_not_with_the_whole(tmp_path):
    from fieldloop.dft_inputs.errors import DirectoryBusyError

    hasty = PwCode(lease_timeout=0.3)
    with lease(tmp_path, hasty, part="x"), lease(tmp_path, hasty, part="y"):
        for part in ("", "x"):
            with pytest.raises(DirectoryBusyError), lease(tmp_path, hasty, part=part):
                pass
    with (
        lease(tmp_path, hasty),
        pytest.raises(DirectoryBusyError),
        lease(tmp_path, hasty, part="x"),
    ):
        pass


def test_no_time_is_no_failure_of_the_point():
    error = EngineError("late", Failure.TIME_LIMIT)
    assert error.kind is Failure.TIME_LIMIT
    assert EngineError("bad").kind is Failure.OTHER
