"""The same input has the same name, another input another one, for every engine."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.codes import CODES, engine_for


def name(engine, case, frame=None, stencil=None):
    return engine.label_id(frame or case.frame, stencil or case.stencil)


def test_every_input_that_matters_changes_the_name(case):
    engine = case.engine
    names = [
        name(engine, case),
        name(engine, case, frame=case.moved(np.array([0.0, 0.0, 1e-4]), case.cation)),
        name(engine, case, stencil=replace(case.stencil, step=2 * case.stencil.step)),
        name(engine, case, stencil=replace(case.stencil, order=4)),
        name(engine, case, stencil=replace(case.stencil, base=(0.0, 0.0, case.stencil.step))),
        *(name(case.with_settings(**{key: value}), case) for key, value in case.matters.items()),
    ]
    assert len(set(names)) == len(names)


def test_a_pseudopotential_is_known_by_its_content(case, tmp_path):
    """A copy of the library elsewhere gives the same name; a changed file in it another one."""
    library = Path(getattr(case.engine.code, case.library))
    copy = tmp_path / "library"
    shutil.copytree(library, copy)
    moved = case.run_by(**{case.library: str(copy)})
    assert name(moved, case) == name(case.engine, case)
    element = case.frame.species[case.cation]
    for file in copy.rglob("*"):
        if file.is_file() and element in (*file.name.split("."), file.parent.name):
            file.write_bytes(file.read_bytes() + b"\n")
    assert name(moved, case) != name(case.engine, case)


def test_paths_parallelism_and_the_way_to_convergence_do_not_enter(case):
    expected = name(case.engine, case)
    for changes in ({"command": "/elsewhere/program"}, {"ranks": 4}, {"timeout": 5.0}, {"environment": {"A": "b"}}):
        assert name(case.run_by(**changes), case) == expected
    for key, value in case.neutral.items():
        assert name(case.with_settings(**{key: value}), case) == expected


def test_the_label_bears_the_name(case, label, job):
    assert label.label_id == job.label_id == name(case.engine, case)
    assert label.provenance.inputs_hash
    assert label.provenance.settings_hash
    assert label.provenance.kpoints == case.engine.settings.mesh


def test_settings_find_their_engine(case):
    assert engine_for(case.engine.settings, case.engine.code) == case.engine


def test_a_supercell_has_the_mesh_of_its_parent(case):
    settings = case.engine.settings
    n1, n2, n3 = settings.mesh
    even = settings.model_copy(update={"kpoints": (2 * n1, n2, n3)})
    doubled = np.diag([2, 1, 1]) @ case.frame.cell
    assert even.for_cell(doubled, case.frame.cell).mesh == (n1, n2, n3)
    with pytest.raises(ValueError, match="divide"):
        settings.model_copy(update={"kpoints": (3, n2, n3)}).for_cell(doubled, case.frame.cell)


def test_every_code_is_in_the_suite():
    """A code that labels can be made with has a case here."""
    folder = Path(__file__).parent
    cases = {path.stem.removeprefix("case_") for path in folder.glob("case_*.py")}
    assert {name.removesuffix(".x") for name in CODES} <= cases
