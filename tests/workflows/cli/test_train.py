"""``fieldloop train`` on real labels of SiO2, and the one line that each kind of bad input gets."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.formats import read_labels_or_stop, write_extxyz
from fieldloop.model.files import load_model
from fieldloop.model.settings import EpochRecord
from fieldloop.workflows.cli import app
from fieldloop.workflows.cli.training_progress import append_row
from fieldloop.workflows.config import ConfigError
from fieldloop.workflows.records import TrainedModel
from fieldloop.workflows.train_files import Source, TrainRequest, prepare_training, read_section
from typer.testing import CliRunner

FRAMES = Path(__file__).parents[2] / "data" / "allegro_pol" / "SiO2_eight.xyz"
SETTINGS = """\
network: {cutoff: 2.5, l_max: 1, layers: 1, scalars: 8, tensors: 2, radial: 4, dtype: float32}
reference_charges: {O: -2, Si: 4}
training: {epochs: 2, batch_size: 2, validate_every: 1, checkpoint_every: 1, accelerator: cpu}
"""


def run(*words):
    return CliRunner().invoke(app, ["train", *map(str, words)])


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training and what its command printed."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "settings.yaml").write_text(SETTINGS)
    words = (FRAMES, "--convention", "allegro-pol", "-s", folder / "settings.yaml", "-o", folder / "out")
    return folder / "out", words, run(*words)


def test_a_training_leaves_model_curve_frames_and_report(trained):
    out, _, result = trained
    assert result.exit_code == 0, result.output
    record = TrainedModel.model_validate_json((out / "training.json").read_text())
    assert record.model_id in result.stdout
    assert (len(record.training_ids), len(record.validation_ids)) == (7, 1)
    assert load_model(out / "model").config.reference_charges == {"O": -2, "Si": 4}
    with (out / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["rmse_forces"]) == pytest.approx(record.curve[-1].validation["forces"])
    assert len(list(read_labels_or_stop(out / "validation.extxyz", "fieldloop"))) == 1
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org", "") and "Born charges" in page
    assert not (out / "checkpoint.pt").exists()


def test_the_same_command_finds_it_and_another_is_refused(trained):
    out, words, first = trained
    before = (out / "model" / "weights.safetensors").stat().st_mtime_ns
    again = run(*words)
    assert again.exit_code == 0
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]
    assert (out / "model" / "weights.safetensors").stat().st_mtime_ns == before
    other = run(*words, "--set", "training.epochs=3")
    assert other.exit_code == 2
    assert "holds a training of other frames or settings: name another folder" in other.output


@pytest.mark.parametrize("text", ["", "{}", '{"key": "cut of'], ids=["empty", "no key", "cut off"])
def test_a_damaged_folder_is_named(trained, text):
    out, words, _ = trained
    request = out / "request.json"
    kept = request.read_text()
    request.write_text(text)
    try:
        result = run(*words)
    finally:
        request.write_text(kept)
    assert result.exit_code == 2 and "holds a damaged request.json" in result.output


def test_fine_tuning_replays_the_frames_of_the_model(trained, tmp_path):
    out, _, _ = trained
    frames = list(read_labels_or_stop(FRAMES, "allegro-pol"))
    moved = []
    for label in frames[:2]:
        frame = label.frame.model_copy(update={"positions": label.frame.positions + 0.1})
        moved.append(label.model_copy(update={"frame": frame, "label_id": f"moved{label.label_id}"}))
    write_extxyz(tmp_path / "new.extxyz", moved, "fieldloop")
    words = ("--convention", "fieldloop", "--start", out / "model", "-o", tmp_path / "tuned", "--no-verify")
    changes = ("--set", "training.epochs=3", "--set", "training.accelerator=cpu", "--validation", "every 2")
    result = run(tmp_path / "new.extxyz", *words, *changes)
    assert result.exit_code == 0, result.output
    assert "1 frames to train on, 1 to validate, 7 replayed, learning rate 0.006" in result.stdout
    record = TrainedModel.model_validate_json((tmp_path / "tuned" / "training.json").read_text())
    start = json.loads((out / "model" / "config.json").read_text())["model_id"]
    assert record.start_model_id == start != record.model_id


def test_frames_of_another_level_are_not_replayed(trained, tmp_path):
    out, _, _ = trained
    labels = [
        label.model_copy(update={"provenance": label.provenance.model_copy(update={"code": "vasp"})})
        for label in list(read_labels_or_stop(FRAMES, "allegro-pol"))[:4]
    ]
    write_extxyz(tmp_path / "new.extxyz", labels, "fieldloop")
    source, start = Source(tmp_path / "new.extxyz", "fieldloop"), out / "model"
    request = TrainRequest(source, tmp_path / "o", read_section(None), "every 2", start, verified=False)
    with pytest.raises(ConfigError, match=r"frames to replay: .* differ in code .*--set training\.replay=0"):
        prepare_training(request)
    alone = prepare_training(replace(request, section=read_section(None, ["training.replay=0"])))
    assert (len(alone.training), alone.replay) == (2, ())


def transposed(label):
    charges = label.response.born_effective_charges.swapaxes(1, 2)
    return {"born_effective_charges": charges}


def opposite(label):
    return {"polarization": -label.response.polarization}


@pytest.mark.parametrize(("change", "words"), [(transposed, "Z* is transposed"), (opposite, "P has the opposite sign")])
def test_labels_that_physics_contradicts_are_refused(settings, tmp_path, change, words):
    labels = [
        label.model_copy(update={"response": label.response.model_copy(update=change(label))})
        for label in read_labels_or_stop(FRAMES, "allegro-pol")
    ]
    write_extxyz(tmp_path / "wrong.extxyz", labels, "fieldloop")
    result = run(tmp_path / "wrong.extxyz", "--convention", "fieldloop", "-s", settings, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert words in result.output and "--no-verify" in result.output
    assert not (tmp_path / "out").exists()
    source = Source(tmp_path / "wrong.extxyz", "fieldloop")
    assert prepare_training(TrainRequest(source, tmp_path / "out", read_section(settings), verified=False)).training


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--validation", "every 50"), "the validation set is empty: --validation 'every 50' names no frame"),
        (("--validation", "nobody"), "there is no file and no usable frame 'nobody'"),
        (("--set", "training.epoch=3"), "unknown key training.epoch"),
        (("--set", "network.species=[Si]"), "species is known from elsewhere"),
        (("--set", "reference_charges={Ga: 3}"), "no frame holds Ga"),
        (("--set", "reference_charges={O: -2, Si: 3}"), "add up to -24 e: give oxidation numbers"),
        (("--element", "Ga"), "none of 0 frames can be trained on"),
        (("--start", "nowhere"), "leave network and reference_charges out"),
        (("--set", "training.epochs=["), "--set training.epochs=[: [ is no YAML value"),
        (("--validation", ",".join(f"{k:016x}" for k in range(20))), "no usable frame '0000000000000000'"),
        (("--validation", ""), "the validation set is empty"),
        (("--out", str(FRAMES)), "SiO2_eight.xyz is a file: name a folder"),
    ],
)
def test_requests_that_cannot_work_end_in_one_line(settings, tmp_path, words, complaint):
    result = run(FRAMES, "--convention", "allegro-pol", "-s", settings, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2, result.output
    assert complaint in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (slice(0, 50), "frame 0: the file ends within its 72 atoms"),
        ("nan", "frame 0: forces has NaN or infinite entries"),
        ("overlap", "A apart"),
    ],
)
def test_bad_frames_are_named(settings, tmp_path, lines, complaint):
    text = FRAMES.read_text().splitlines(keepends=True)[: 74 * 6]
    if isinstance(lines, slice):
        text = text[lines]
    else:
        columns = text[2].split()
        if lines == "nan":
            properties = next(word for word in text[1].split() if word.startswith("Properties="))
            fields = properties.removeprefix("Properties=").split(":")
            start = sum(int(n) for n in fields[2 : 3 * fields[::3].index("forces") : 3])
            columns[start] = "nan"
        else:
            columns[1:4] = [str(float(x) + 0.05) for x in text[3].split()[1:4]]
        text[2] = " ".join(columns) + "\n"
    (tmp_path / "bad.xyz").write_text("".join(text))
    result = run(
        tmp_path / "bad.xyz", "--convention", "allegro-pol", "-s", settings, "--no-verify", "-o", tmp_path / "o"
    )
    assert result.exit_code == 2, result.output
    assert complaint in result.output
    assert result.output.count("\n") == 1


def test_a_file_needs_a_convention(settings):
    result = run(FRAMES, "-s", settings)
    assert result.exit_code == 2
    assert "say whose names, units and signs it has with --convention" in result.output


def test_a_campaign_file_brings_its_settings(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "name: x\nstructure: x.vasp\nreference_charges: {O: -2, Si: 4}\n"
        "committee: {members: 2, network: {cutoff: 4.5}, training: {epochs: 7}, seed: 3}\n"
    )
    section = read_section(tmp_path / "c.yaml", ["training.batch_size=1"])
    assert (section.network, section.reference_charges, section.seed) == ({"cutoff": 4.5}, {"O": -2, "Si": 4}, 3)
    assert (section.training.epochs, section.training.batch_size) == (7, 1)


def test_a_campaign_file_without_a_mapping_for_the_committee(tmp_path):
    (tmp_path / "c.yaml").write_text("structure: x.vasp\ncommittee: [network]\n")
    with pytest.raises(ConfigError, match="committee must hold a mapping"):
        read_section(tmp_path / "c.yaml")


@pytest.mark.parametrize("validation", ["every 2", "one label", "a file"])
def test_a_geometry_labelled_at_two_fields_is_on_one_side(settings, tmp_path, validation):
    labels = []
    for label in list(read_labels_or_stop(FRAMES, "allegro-pol"))[:4]:
        for n, field in enumerate(([0.0, 0.0, 0.0], [0.0, 0.0, 0.01])):
            response = label.response.model_copy(update={"field": np.array(field)})
            labels.append(label.model_copy(update={"response": response, "label_id": f"{label.label_id}{n}"}))
    write_extxyz(tmp_path / "two.extxyz", labels, "fieldloop")
    write_extxyz(tmp_path / "one.extxyz", labels[:1], "fieldloop")
    source = Source(tmp_path / "two.extxyz", "fieldloop")
    first = next(read_labels_or_stop(source.path, "fieldloop")).label_id
    words = {"one label": first, "a file": str(tmp_path / "one.extxyz")}.get(validation, validation)
    request = TrainRequest(source, tmp_path / "o", read_section(settings), validation=words, verified=False)
    prepared = prepare_training(request)
    judged = {label.frame.frame_id for label in prepared.validation}
    assert not judged & {label.frame.frame_id for label in prepared.training}
    assert (len(prepared.training), len(prepared.validation)) == ((4, 4) if validation == "every 2" else (6, 1))


def test_rows_after_a_checkpoint_are_written_again(tmp_path):
    """A run killed after epoch 5 whose checkpoint is of epoch 4 leaves each epoch once."""
    for epoch in (1, 2, 3, 4, 5, 5, 6):
        append_row(tmp_path / "c.csv", EpochRecord(epoch=epoch, seconds=1.0, loss=float(np.pi), terms={"forces": 2.0}))
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["loss_forces"] == "2.0"
    assert rows[0]["rmse_forces"] == ""
