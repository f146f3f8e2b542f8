"""One engine after another for the whole suite; runs are made once, and shared by the workers of a test run."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

CASES = {path.stem.removeprefix("case_"): path.stem for path in sorted(HERE.glob("case_*.py"))}


@pytest.fixture(scope="session", params=sorted(CASES))
def case(request, tmp_path_factory):
    """An engine with all that the suite must know of it."""
    folder = _shared(tmp_path_factory) / "engines" / request.param
    folder.mkdir(parents=True, exist_ok=True)
    return import_module(CASES[request.param]).make_case(folder)


@pytest.fixture(scope="session")
def home(case, tmp_path_factory):
    """Where the runs of the case lie; a label is made by the worker that comes first, and found by the others."""
    return _shared(tmp_path_factory) / "engines" / case.engine.name


@pytest.fixture(scope="session")
def label(case, home):
    """The label of the frame; it must pass all checks."""
    from fieldloop.dft_inputs.labelling import label_frame

    labelled = label_frame(case.engine, case.frame, case.stencil, home / "label")
    assert labelled.status == "done", labelled.failure
    assert labelled.quality.flags == (), labelled.quality
    return labelled


@pytest.fixture(scope="session")
def points(label):
    """Points of the label by name."""
    return {point.name: point for point in label.field_points}


@pytest.fixture(scope="session")
def job(case, home, label):
    """The runs of the label, all of them on disk."""
    return case.engine.prepare(case.frame, case.stencil, home / "label")


@pytest.fixture(scope="session")
def displaced(case, home):
    """Zero field and +x with the cation moved either way, on one branch each: ``{sign: {name: point}}``."""
    from engine_case import DIRECTION, MOVE

    found = {}
    for sign in (1, -1):
        frame = case.moved(sign * MOVE * DIRECTION, case.cation)
        runs = case.runs(frame, ("zero", "+x"), home / f"moved{sign:+d}")
        found[sign] = {name: run.point for name, run in runs.items()}
    for name, point in found[-1].items():
        found[-1][name] = case.on_branch(point, found[1][name])
    return found


@pytest.fixture
def launcher(tmp_path):
    """Make a launcher that logs each run, and may do something else instead of the n-th: the engine and the log."""

    def make(case, **instead):
        """``third="sleep 60"``: words for the number of the run, counted over all launchers of a test."""
        log, script = tmp_path / "runs.log", tmp_path / f"launch{len(list(tmp_path.glob('launch*')))}.sh"
        log.touch()
        numbers = {"every": "*", "first": 1, "second": 2, "third": 3, "fifth": 5}
        branches = "".join(f"{numbers[which]}) {words} ;;\n" for which, words in instead.items())
        script.write_text(
            f'#!/bin/bash\necho run >> {log}\ncase $(wc -l < {log}) in\n{branches}*) exec "$@" ;;\nesac\n'
        )
        script.chmod(0o755)
        return case.run_by(launcher=(str(script),)), log

    return make


def _shared(tmp_path_factory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
