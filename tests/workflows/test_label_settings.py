"""From the ``label`` section to labels: meshes of supercells, base fields, a step from the gap, one level of theory."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk, make_supercell
from ase.io import write
from fieldloop.dft_inputs.consistency import MixedLabelsError
from fieldloop.dft_inputs.espresso import PwSettings, band_gap
from fieldloop.dft_inputs.insulators import step_from_gap
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Provenance
from fieldloop.model.settings import NetworkConfig
from fieldloop.workflows.campaign import check_label_inputs, identity, prepare_loop, read_parent
from fieldloop.workflows.config import ConfigError, load_config
from fieldloop.workflows.labelling import CampaignError, LabelMaker
from fieldloop.workflows.loop import label_maker
from fieldloop.workflows.training import TrainMaker
from jobflow import run_locally

DEMO = Path(__file__).parents[2] / "examples" / "alas" / "loop.yaml"


@pytest.fixture
def campaign(tmp_path):
    """The demo on the primitive cell, with another label section and a pw.x that counts its runs."""
    log = tmp_path / "runs.log"
    log.touch()
    launcher = tmp_path / "launch.sh"
    launcher.write_text(f'#!/bin/bash\necho run >> {log}\nexec "$@"\n')
    launcher.chmod(0o755)

    def make(atoms=None, **label):
        write(tmp_path / "crystal.vasp", atoms or bulk("AlAs", "zincblende", a=5.65), format="vasp")
        document = yaml.safe_load(DEMO.read_text())
        document |= {"structure": "crystal.vasp", "directory": str(tmp_path / "run")}
        document["label"] = {"protocol": "fast", **label}
        document["codes"]["pw"] |= {"launcher": str(launcher)}
        path = tmp_path / "loop.yaml"
        path.write_text(yaml.safe_dump(document))
        return load_config(path)

    return make, log


def test_a_step_from_the_gap_is_known_before_any_label(campaign):
    make, log = campaign
    config = make(field_step="auto")
    assert identity(config)["field_step"] == "auto"
    first, again = prepare_loop(config), prepare_loop(config)
    assert log.read_text().count("run") == 1
    assert first.maker.label.step == again.maker.label.step
    folder = config.directory / first.check.metadata["directory"]
    settings = first.maker.label.settings_for(first.parent)
    found = band_gap(first.parent, settings, first.maker.label.code, folder)
    assert log.read_text().count("run") == 1, "the check finds the gap run"
    assert first.maker.label.step == step_from_gap(found.gap, first.parent.cell, (2, 2, 2))
    assert [job.uuid for job in first.flow.jobs] == [job.uuid for job in again.flow.jobs]


def test_a_metal_has_no_step(campaign):
    make, _ = campaign
    config = make(bulk("Al", "fcc", a=4.05, cubic=True), field_step="auto")
    maker = label_maker(config).for_parent(read_parent(config))
    with pytest.raises(CampaignError, match="metallic"):
        maker.with_step(read_parent(config), config.directory)
    with pytest.raises(ValueError, match=r"call with_step\(parent\) first"):
        _ = maker.stencil


def test_odd_electrons_are_refused_before_any_run(campaign):
    make, log = campaign
    config = make(bulk("Al", "fcc", a=4.05))
    with pytest.raises(ConfigError, match="Al1: 3 electrons leave a band half filled"):
        check_label_inputs(label_maker(config), [read_parent(config)])
    assert log.read_text() == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kpoints": [2, 2, 2], "kpoint_density": 20}, "give one of kpoints"),
        ({"kpoint_density": -1}, "kpoint_density"),
        ({"nspin": 2}, "starting_magnetization"),
        ({"nspin": 2, "starting_magnetization": {"Al": 0.5}, "tot_magnetization": 1}, "tot_magnetization must be 0"),
        ({"tot_charge": 1}, "unknown key tot_charge"),
    ],
)
def test_settings_that_cannot_work_are_named(campaign, settings, message):
    make, _ = campaign
    with pytest.raises(ConfigError, match=r"label\.settings") as error:
        label_maker(make(settings=settings))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_step_is_a_field_or_auto(campaign):
    make, _ = campaign
    assert make(field_step="auto").label.field_step is None
    assert make(field_step="1 MV/cm").label.field_step == pytest.approx(0.01)
    with pytest.raises(ConfigError, match=r"label\.field_step"):
        make(field_step="automatic")


def test_supercells_and_strained_copies_have_the_mesh_of_the_parent(campaign):
    make, _ = campaign
    config = make(bulk("AlAs", "zincblende", a=5.65, cubic=True), settings={"kpoint_density": 22})
    parent = read_parent(config)
    maker = label_maker(config).for_parent(parent)
    assert maker.settings_for(parent).mesh == (4, 4, 4)
    strained = parent.model_copy(update={"cell": 1.02 * parent.cell})
    assert maker.settings_for(strained).mesh == (4, 4, 4)
    supercell = Frame.from_atoms(make_supercell(parent.to_atoms(), np.diag([2, 1, 1])))
    assert maker.settings_for(supercell).mesh == (2, 4, 4)
    check_label_inputs(maker, [parent, strained, supercell])
    three = Frame.from_atoms(make_supercell(parent.to_atoms(), np.diag([1, 1, 3])))
    with pytest.raises(ConfigError, match=r"\[4, 4, 4\] .*1x1x3 supercell; \[4, 4, 6\] can"):
        check_label_inputs(maker, [three])
    other = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))
    with pytest.raises(ConfigError, match="no supercell of the parent crystal"):
        check_label_inputs(maker, [other])


def test_a_base_field_is_part_of_the_identity_and_of_the_label(tmp_path):
    atoms = bulk("AlAs", "zincblende", a=5.65)
    atoms.rattle(0.05, seed=1)
    maker = LabelMaker(settings=PwSettings.from_protocol("fast"))
    field = (0.0, 0.01, 0.0)
    at_zero, biased = maker.make(atoms), maker.make(atoms, field=field)
    assert at_zero.uuid != biased.uuid
    assert maker.make(atoms, field=(0, 0, 0)).uuid == at_zero.uuid
    output = run_locally(biased, root_dir=tmp_path, create_folders=True)[biased.uuid][1].output
    assert output.trainable, (output.failure, output.quality)
    assert output.label_id == maker.label_id(Frame.from_atoms(atoms), field)
    assert np.allclose(output.response.field, field)
    assert output.provenance.kpoints == (2, 2, 2)


def test_a_training_set_of_two_protocols_is_refused():
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))
    labels = [
        LabelledFrame(
            label_id=name,
            frame=frame,
            response=ElectricResponse(enthalpy=0.0),
            provenance=Provenance(code="pw.x", protocol=name, settings_hash=name, kpoints=(2, 2, 2)),
        )
        for name in ("fast", "standard")
    ]
    maker = TrainMaker(network=NetworkConfig(species=("Al", "As")))
    with pytest.raises(MixedLabelsError, match="labels fast and standard differ in settings"):
        maker.make(labels)
    assert maker.make(labels[:1])
