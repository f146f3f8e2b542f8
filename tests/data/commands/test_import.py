"""Labels of others come in by the command line, are verified, and go out again; each part as a user meets it."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.conventions import CONVENTIONS, ConventionError
from fieldloop.dft_inputs.formats import read_labels_or_stop, write_extxyz
from fieldloop.workflows.campaign import read_store
from fieldloop.workflows.cli import app
from fieldloop.workflows.data_import import ImportReport, import_labels, open_import_store, survey
from fieldloop.workflows.queries import query_labels
from typer.testing import CliRunner

DATA = Path(__file__).parents[2] / "data"
SETS = {
    "SiO2.xyz": ("allegro-pol", 10),
    "BaTiO3.xyz": ("allegro-pol", 16),
    "ZrO2.xyz": ("sevennet-polar", 6),
    "water.txt": ("fireann", 15),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    for name in SETS:
        (folder / name).write_bytes(gzip.decompress((DATA / "foreign" / f"{name}.gz").read_bytes()))
    return folder


def run(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


def stored(path):
    return {label.label_id: label for label in query_labels(read_store(path))}


@pytest.mark.parametrize("name", SETS)
def test_a_published_set_comes_in_and_again_without_effect(folder, tmp_path, name):
    convention, frames = SETS[name]
    store = tmp_path / "data.sqlite"
    for _ in range(2):
        result = run("import", folder / name, "--convention", convention, "--store", store)
        assert result.exit_code == 0, result.output
        assert f"{frames} frames read" in result.output
        assert f"{frames} stored" in result.output
        assert len(stored(store)) == frames
    labels = stored(store).values()
    assert {label.proposal.reason for label in labels} == {f"imported from {name}"}
    assert all(label.trainable and label.proposal.origin == "import" for label in labels)
    report = ImportReport.model_validate_json((tmp_path / f"data.sqlite.import-{name}.json").read_text())
    assert (report.frames, report.stored, report.refused, report.faults) == (frames, frames, (), ())
    assert report.verdicts


def test_folders_of_pw_runs_come_in_as_labels(tmp_path):
    result = run(
        "import", DATA / "espresso" / "alas_cubic_rattled", "--convention", "pw.x", "--store", tmp_path / "a.sqlite"
    )
    assert result.exit_code == 0, result.output
    (label,) = stored(tmp_path / "a.sqlite").values()
    assert len(label.field_points) == 7
    assert label.provenance.code == "pw.x"
    assert set(label.response.labels) >= {"born_effective_charges", "polarizability", "polarization"}


def test_folders_of_vasp_runs_come_in_as_labels(tmp_path):
    result = run("import", DATA / "vasp", "--convention", "vasp", "--store", tmp_path / "a.sqlite")
    assert result.exit_code == 0, result.output
    labels = stored(tmp_path / "a.sqlite").values()
    assert len(labels) == 2
    assert {label.provenance.code for label in labels} == {"vasp"}
    assert all({"enthalpy", "forces"} <= set(label.response.labels) for label in labels)


def test_runs_that_form_no_stencil_are_refused_with_their_fields(tmp_path):
    copy = tmp_path / "runs"
    copy.mkdir()
    for name in ("zero", "field+x", "field-x"):
        (copy / name).mkdir()
        for file in (DATA / "espresso" / "alas_cubic_rattled" / name).iterdir():
            (copy / name / file.name).write_bytes(file.read_bytes())
    (copy / "cut").mkdir()
    (copy / "cut" / "pw.out").write_text("Program PWSCF\n")
    report = survey(copy, "pw.x")
    assert report.frames == 0
    assert len(report.refused) == 2
    assert any("form no stencil in the field" in refusal.reason for refusal in report.refused)
    result = run("import", copy, "--convention", "pw.x")
    assert result.exit_code == 2
    assert "nothing could be read" in result.output


def test_a_wrong_convention_is_named_and_nothing_is_stored(folder, tmp_path):
    """Per-volume P and alpha, as the convention would have it, of numbers that are per cell."""
    renamed = {q.label: q.key for q in CONVENTIONS["mace-field"].quantities}
    text = (folder / "SiO2.xyz").read_text()
    for quantity in CONVENTIONS["allegro-pol"].quantities:
        text = text.replace(f"{quantity.key}=", f"{renamed[quantity.label]}=")
        text = text.replace(f":{quantity.key}:R:", f":{renamed[quantity.label]}:R:")
    (tmp_path / "SiO2.xyz").write_text(text)
    store = tmp_path / "data.sqlite"
    words = ("import", tmp_path / "SiO2.xyz", "--convention", "mace-field", "--store", store)
    result = run(*words)
    assert result.exit_code == 2
    assert "not imported: P is multiplied by the volume" in result.output
    assert not stored(store)
    result = run(*words, "--despite-faults")
    assert result.exit_code == 0
    labels = stored(store).values()
    assert len(labels) == 10
    assert all("convention" in label.quality.flags and not label.trainable for label in labels)


def test_a_convention_that_shares_some_keys_is_told_what_it_leaves_unread(folder):
    result = run("import", folder / "ZrO2.xyz", "--convention", "allegro-pol")
    assert "born_effective_charges (a word of fieldloop, sevennet-polar, deepmd)" in result.output
    assert "energy (a word of sevennet-polar, deepmd)" in result.output


def test_frames_are_refused_one_by_one(folder, tmp_path):
    """A malformed frame, one that is there twice; the rest comes in."""
    lines = (folder / "SiO2.xyz").read_text().splitlines(keepends=True)
    blocks = ["".join(lines[74 * i : 74 * (i + 1)]) for i in range(10)]
    blocks[3] = blocks[3].replace("Si ", "Xx ", 1)
    blocks[5] = blocks[4]
    (tmp_path / "SiO2.xyz").write_text("".join(blocks))
    store = open_import_store(tmp_path / "data.sqlite")
    report = import_labels(tmp_path / "SiO2.xyz", "allegro-pol", store)
    assert (report.frames, report.stored) == (8, 8)
    assert [refusal.where for refusal in report.refused] == ["frame 3", "frame 5"]
    assert "Xx" in report.refused[0].reason
    assert report.refused[1].reason == "the same label as frame 4"


def test_a_polarizability_that_is_not_positive_is_flagged(folder, tmp_path):
    labels = list(read_labels_or_stop(folder / "SiO2.xyz", "allegro-pol"))
    response = labels[2].response.model_copy(update={"polarizability": np.diag([7.0, 7.0, -7.0])})
    labels[2] = labels[2].model_copy(update={"response": response})
    write_extxyz(tmp_path / "a.xyz", labels, "allegro-pol")
    report = survey(tmp_path / "a.xyz", "allegro-pol")
    assert report.flagged == {"polarizability_not_positive": 1}
    assert not report.faults


def test_the_store_of_a_campaign_takes_no_foreign_labels(folder, tmp_path):
    store = open_import_store(tmp_path / "data.sqlite")
    store.docs_store.bind_project({"name": "quartz"})
    store.close()
    with pytest.raises(ConventionError, match="belongs to a campaign"):
        open_import_store(tmp_path / "data.sqlite")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "absent.xyz", "--convention", "allegro-pol"), "there is no"),
        (("import", "SiO2.xyz", "--convention", "nequip"), "unknown label convention 'nequip'"),
        (("import", "water.txt", "--convention", "mace-field"), "cannot tell the format from the name"),
        (("import", "SiO2.xyz", "--convention", "allegro-pol", "--format", "hdf5"), "unknown format 'hdf5'"),
    ],
)
def test_bad_input_is_one_line(folder, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    result = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_what_came_in_goes_out_in_other_formats(folder, tmp_path):
    store = tmp_path / "data.sqlite"
    run("import", folder / "SiO2.xyz", "--convention", "allegro-pol", "--store", store)
    labels = stored(store)
    for name in ("a.extxyz", "a.db", "deepmd"):
        result = run("export", store, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        back = {label.label_id: label for label in read_labels_or_stop(tmp_path / name, "fieldloop")}
        assert back == labels
    result = run("export", store, "--out", tmp_path / "b.extxyz", "--convention", "sevennet-polar")
    assert "has no word for polarizability, polarization: left out" in " ".join(result.output.split())
    assert run("export", store, "--out", tmp_path / "nowhere" / "a.db").exit_code == 2


def test_a_folder_of_files_comes_in_whole(folder, tmp_path):
    both = tmp_path / "published"
    (both / "below").mkdir(parents=True)
    for name, place in (("SiO2.xyz", both), ("BaTiO3.xyz", both / "below")):
        (place / name).write_bytes((folder / name).read_bytes())
    (both / "README.md").write_text("of both")
    (both / "broken.xyz").write_text("2\n\nH 0 0 0\n")
    result = run("import", both, "--convention", "allegro-pol", "--store", tmp_path / "data.sqlite")
    assert result.exit_code == 0, result.output
    assert "26 frames read" in result.output
    assert "broken.xyz: frame 0" in result.output


def test_a_folder_without_labels_leaves_no_store(tmp_path):
    result = run("import", tmp_path, "--convention", "fireann", "--store", tmp_path / "data.sqlite")
    assert result.exit_code == 2
    assert "*.txt" in result.output
    assert not list(tmp_path.iterdir())


def test_only_labels_of_one_level_go_into_one_file(folder, tmp_path):
    store, out = tmp_path / "data.sqlite", tmp_path / "frames.extxyz"
    run("import", folder / "SiO2.xyz", "--convention", "allegro-pol", "--store", store)
    run("import", folder / "ZrO2.xyz", "--convention", "sevennet-polar", "--store", store)
    refused = run("export", store, "--out", out)
    assert refused.exit_code == 2
    assert "give --mixed" in " ".join(refused.output.split())
    assert not out.exists()
    chosen = run("export", store, "--out", out, "--elements", "Zr")
    assert "6 frames written" in " ".join(chosen.output.split())
    assert {s for label in read_labels_or_stop(out, "fieldloop") for s in label.frame.species} == {"O", "Zr"}
    assert run("export", store, "--out", out, "--mixed").exit_code == 0
    assert len(list(read_labels_or_stop(out, "fieldloop"))) == len(stored(store))


def test_stats_show_the_card(folder, tmp_path):
    store = tmp_path / "data.sqlite"
    run("import", folder / "ZrO2.xyz", "--convention", "sevennet-polar", "--store", store)
    result = run("stats", store)
    assert result.exit_code == 0, result.output
    assert "6 labelled frames" in result.output
    assert "born effective charges" in result.output


def test_a_data_card_keeps_trajectories_whole(folder, tmp_path):
    store = tmp_path / "data.sqlite"
    for name, (convention, _) in SETS.items():
        run("import", folder / name, "--convention", convention, "--store", store)
    result = run("card", store, "--out", tmp_path / "CARD.md", "--licence", "MIT", "--validation", "0.3")
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "CARD.json").read_text())
    assert (card["frames"], card["licences"]) == (47, ["MIT"])
    labels = stored(store)
    train, held = set(card["splits"]["train"]), set(card["splits"]["validation"])
    assert train | held == set(labels)
    assert not train & held
    assert 0 < len(held) <= 0.3 * 47
    for mine in train:
        for theirs in held:
            one, other = labels[mine], labels[theirs]
            same_run = one.proposal.reason == other.proposal.reason and one.frame.formula == other.frame.formula
            assert not (same_run and np.allclose(one.frame.cell, other.frame.cell))
    text = (tmp_path / "CARD.md").read_text()
    assert "| forces | 47 |" in text
    assert card["sha256"] in text
