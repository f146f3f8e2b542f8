import math
import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from fieldloop.active_learning.criteria import Decision
from fieldloop.active_learning.errors import pool_errors
from fieldloop.dft_inputs.records import LABELS
from fieldloop.model.committee import predict
from fieldloop.model.dynamics import read_trajectory
from fieldloop.model.files import load_model
from fieldloop.workflows.queries import Campaign
from fieldloop.workflows.report import write_report
from fieldloop.workflows.report.calibration import calibration_rows
from fieldloop.workflows.report.figures_runs import along_field
from fieldloop.workflows.report.parity import collect_parity
from fieldloop.workflows.report.style import QUANTITIES, significant
from fieldloop.workflows.report.tables import frame_rows, generation_costs, headline

VOID = {"meta", "link", "br", "input", "img", "path", "use", "image", "rect", "circle", "line"}
SECTIONS = ("errors", "parity", "uncertainty", "dynamics", "quality", "cost", "learning", "provenance")


class Page(HTMLParser):
    """Elements and texts of a page; raises where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.section = ""
        self.by_section: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs)["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)
            self.by_section[self.section] = self.by_section.get(self.section, "") + data


@pytest.fixture(scope="module")
def text(synthetic, criterion, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert write_report(synthetic.campaign(), path, criterion=criterion, title="AlAs & <friends>") == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def plain(quantity, values):
    """Root mean square in the unit of the panel."""
    return f"RMSE {quantity.error(float(np.sqrt(np.mean(np.square(values)))))}"


def test_nothing_is_loaded_from_elsewhere(page, text):
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, target)
    assert not re.search(r"https?://", text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert not any("src" in attributes for tag, attributes in page.elements if tag == "script")


def test_every_frame_is_there_with_its_provenance(page, synthetic):
    shown = page.by_section["provenance"]
    for label in synthetic.labels:
        for word in (label.label_id, label.frame.frame_id, label.provenance.inputs_hash, label.proposal.reason):
            assert word in shown
    assert synthetic.models[0].model_id in shown
    assert "a" * 64 in shown


def test_ids_in_the_page_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) > 100
    assert {name for name in ids if ids.count(name) > 1} == set()


def test_references_inside_figures_resolve(page, text):
    ids = {attributes.get("id") for _, attributes in page.elements}
    used = {href[1:] for _, attributes in page.elements if (href := attributes.get("href") or "").startswith("#")}
    assert used | set(re.findall(r"url\(#([^)]+)\)", text)) <= ids


def test_hostile_text_stays_text(page, text, hostile):
    assert "<script>alert" not in text
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.elements)
    assert hostile in page.by_section["quality"]
    assert "AlAs & <friends>" in page.by_section[""]


def test_flags_and_repairs_are_listed(page):
    assert "enthalpy_law" in page.by_section["quality"]
    assert "moved by one quantum along c" in page.by_section["quality"]


def test_honest_rmse_is_that_of_the_scores(page, synthetic):
    pooled = pool_errors(pair.errors for generation in synthetic.generations for pair in generation.pairs)
    for name in ("enthalpy", "forces", "polarization", "born_effective_charges", "polarizability"):
        assert f"honest: RMSE {QUANTITIES[name].error(getattr(pooled, name))}" in page.by_section["parity"]


def test_rmse_of_trained_frames_is_that_of_the_last_committee_against_the_teacher(page, synthetic):
    """Committee and teacher speak on one branch, so no folding is needed here; the stored labels lie on others."""
    last = [model for model in synthetic.models if model.generation == 2]
    members = [load_model(synthetic.root / model.directory) for model in last]
    for group, ids in (("training", last[0].training_ids), ("validation", last[0].validation_ids)):
        labels = [label for label in synthetic.labels if label.label_id in ids]
        errors = {name: [] for name in LABELS}
        for label in labels:
            field = label.response.field
            truth = predict([synthetic.teacher], [label.frame], field)[0]
            guess = predict(members, [label.frame], field)[0]
            for name in LABELS:
                error = getattr(guess, name).mean(0) - getattr(truth, name)[0]
                errors[name].append(np.ravel(error) / (len(label.frame) if name == "enthalpy" else 1))
        for name in LABELS:
            quantity = QUANTITIES[name]
            assert f"{group}: {plain(quantity, np.concatenate(errors[name]))}" in page.by_section["parity"]


def test_the_branch_of_a_label_changes_no_error(synthetic):
    campaign = synthetic.campaign()
    before = collect_parity(campaign)
    moved = []
    for number, label in enumerate(campaign.labels):
        if label.status == "done":
            jump = np.array([number % 3 - 1, 2, -1]) @ label.frame.cell
            response = label.response.model_copy(
                update={
                    "polarization": label.response.polarization + jump,
                    "enthalpy": label.response.enthalpy - label.response.field @ jump,
                }
            )
            label = label.model_copy(update={"response": response})  # noqa: PLW2901
        moved.append(label)
    after = collect_parity(Campaign(**{**vars(campaign), "labels": tuple(moved)}))
    assert len(before.series) == 3 * len(LABELS)
    for one, other in zip(before.series, after.series, strict=True):
        assert other.rmse == pytest.approx(one.rmse, rel=1e-6, abs=1e-12)


def test_failed_and_flagged_frames_are_in_no_parity_plot(synthetic):
    parity = collect_parity(synthetic.campaign())
    usable = sum(
        len(label.frame) * 3 for label in synthetic.labels if label.trainable and label.response.forces is not None
    )
    honest = sum(len(s.computed) for s in parity.of_label("forces") if s.group == "honest")
    known = sum(len(s.computed) for s in parity.of_label("forces") if s.group != "honest")
    assert honest == 2 * 3 * 24
    assert known == usable  # the last committee knows every trainable frame


def test_a_chosen_frame_with_a_flagged_label_judges_nobody(make_campaigner):
    campaign = make_campaigner().run(1)
    before = collect_parity(campaign.campaign())
    label = campaign.labels[-1]
    wrong = label.response.model_copy(update={"forces": label.response.forces + 1.0})
    quality = label.quality.model_copy(update={"flags": ("enthalpy_law",)})
    campaign.labels[-1] = label.model_copy(update={"response": wrong, "quality": quality})
    after = collect_parity(campaign.campaign())
    honest = [next(s for s in parity.of_label("forces") if s.group == "honest") for parity in (before, after)]
    assert len(honest[1].computed) == len(honest[0].computed) - 24
    assert honest[1].rmse < 0.1


def test_a_frame_that_any_member_was_trained_on_is_no_validation_frame(make_campaigner):
    campaign = make_campaigner().run(1)
    first, second = campaign.models[-3:-1]
    swapped = {"training_ids": second.validation_ids, "validation_ids": second.training_ids[:2]}
    campaign.models[-2] = second.model_copy(update=swapped)
    groups = {s.group: len(s.computed) for s in collect_parity(campaign.campaign()).of_label("forces")}
    assert groups["training"] == 24 * len({*first.training_ids, *first.validation_ids})
    assert "validation" not in groups


def test_a_large_campaign_is_shown_by_a_sample(synthetic, monkeypatch):
    from fieldloop.workflows.report import parity

    monkeypatch.setattr(parity, "MOST_FRAMES", 4)
    shown = collect_parity(synthetic.campaign())
    assert {s.group: len(s.computed) for s in shown.of_label("forces")}["training"] == 4 * 24
    assert any(note.startswith("4 of ") for note in shown.notes)


def test_bounds_are_drawn_beside_what_they_bound(page):
    assert page.by_section["errors"].count("bound") == 3 + 1 + 1  # labels, flagged share, caption


def test_polarization_along_the_field_in_si_units(synthetic):
    """P of the trajectory against P predicted again, in C/m^2 from the definition of the units."""
    exploration = synthetic.explorations[0]
    trajectory = read_trajectory(synthetic.root / exploration.directory / "trajectory")
    driver = load_model(synthetic.root / synthetic.models[0].directory)
    run = trajectory.replica(1)
    predictions = predict([driver], [run.frame(i) for i in range(len(run))], np.array([0, 0, 0.05]))
    dipole = np.array([prediction.polarization[0, 2] for prediction in predictions])
    coulomb_per_square_metre = (dipole - dipole[0]) * 1.602176634e-19 * 1e-10 / (run.start.volume * 1e-30)
    assert np.ptp(dipole) > 1e-3
    np.testing.assert_allclose(along_field(run, np.zeros(3)), 100 * coulomb_per_square_metre, rtol=1e-6, atol=1e-6)


def test_a_run_without_field_is_seen_along_the_direction_given(synthetic):
    trajectory = read_trajectory(synthetic.root / synthetic.explorations[0].directory / "trajectory")
    run = trajectory.replica(0)
    x, z = along_field(run, np.array([1.0, 0, 0])), along_field(run, np.array([0, 0, 1.0]))
    tilted = along_field(run, np.array([0.6, 0, 0.8]))
    np.testing.assert_allclose(tilted, 0.6 * x + 0.8 * z, atol=1e-9)


def test_the_runs_are_named_by_their_fields(page):
    for name in ("300 K, E = (0, 0, 0) V/Å", "300 K, E = (0, 0, 0.05) V/Å", "600 K, E = (0.02, 0, 0) V/Å"):
        assert name in page.by_section["dynamics"]


def test_costs_add_up(synthetic):
    campaign = synthetic.campaign()
    costs = generation_costs(campaign)
    assert sum(cost.labels for cost in costs) == len(campaign.labels)
    assert sum(cost.scf_count for cost in costs) == 7 * len(campaign.labels)
    spent = sum(label.provenance.seconds for label in campaign.labels)
    assert sum(cost.seconds for cost in costs) == pytest.approx(spent + 9 * 12.5 + 2 * 4.0)


def test_calibration_table_counts_the_frames_inside_their_bound(synthetic):
    """90 % of an rms over three Gaussian components lies below sqrt(6.251 / 3) standard deviations."""
    pairs = [pair for generation in synthetic.generations for pair in generation.pairs]
    row = next(row for row in calibration_rows(synthetic.campaign()) if row.name == "Polarization")
    inside = [p.errors.polarization <= math.sqrt(6.2514 / 3) * p.spread["polarization"] for p in pairs]
    assert row.frames == len(pairs)
    assert row.raw == f"{np.mean(inside):.0%}"


def test_honest_errors_stand_beside_their_frame(synthetic):
    rows = {row.label.label_id: row for row in frame_rows(synthetic.campaign())}
    pair = synthetic.generations[-1].pairs[0]
    row = rows[pair.label_id]
    assert f"F {significant(1000 * pair.errors.forces)} meV/Å" in row.error
    assert row.error_sort == pair.errors.forces
    assert {row.state for row in rows.values()} == {"done", "flagged", "failed"}


def test_the_same_records_give_the_same_file(synthetic, criterion, tmp_path):
    first = write_report(synthetic.campaign(), tmp_path / "a.html", criterion=criterion).read_bytes()
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": None, "figure.dpi": 30}):
        second = write_report(synthetic.campaign(), tmp_path / "b.html", criterion=criterion).read_bytes()
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_an_empty_campaign_says_not_yet_everywhere(tmp_path):
    page = Page(write_report(Campaign(tmp_path), tmp_path / "report.html").read_text())
    for section in SECTIONS:
        assert "Not yet" in page.by_section[section]
    assert not any(tag == "svg" for tag, _ in page.elements)


def test_a_campaign_can_be_seen_at_every_stage(make_campaigner, tmp_path):
    growing = make_campaigner()

    def sections_waiting() -> set[str]:
        page = Page(write_report(growing.campaign(), tmp_path / "report.html").read_text())
        return {section for section in SECTIONS if "Not yet" in page.by_section[section]}

    growing.first_frames().trouble()
    assert sections_waiting() == {"errors", "parity", "uncertainty", "dynamics", "learning"}
    members = growing.train(0)
    assert sections_waiting() == {"errors", "uncertainty", "dynamics"}
    frames = growing.explore(0, members)
    growing.select(0, members, frames)
    assert sections_waiting() == {"errors", "uncertainty"}
    growing.score()
    assert sections_waiting() == set()


def test_frames_without_any_label_can_be_reported(make_campaigner, tmp_path, hostile):
    only_failures = make_campaigner()
    only_failures.trouble()
    del only_failures.labels[1]
    page = Page(write_report(only_failures.campaign(), tmp_path / "report.html").read_text())
    assert hostile in page.by_section["quality"]
    assert "0" in [text.strip() for text in page.texts]


def test_lost_files_are_named_and_the_rest_is_shown(make_campaigner, tmp_path):
    campaign = make_campaigner().run(1)
    (campaign.root / campaign.models[-1].directory / "config.json").unlink()
    (campaign.root / campaign.explorations[0].directory / "trajectory" / "meta.json").unlink()
    page = Page(write_report(campaign.campaign(), tmp_path / "report.html").read_text())
    assert "Training and validation frames are missing: no readable model" in page.by_section["parity"]
    assert "honest: RMSE" in page.by_section["parity"]
    assert "The trajectory cannot be shown" in page.by_section["dynamics"]


def test_a_committee_that_is_half_trained_does_not_predict(make_campaigner):
    campaign = make_campaigner().run(1)
    whole = collect_parity(campaign.campaign())
    rows = len(campaign.models)
    campaign.train(2)
    del campaign.models[rows + 1 :]
    assert [s.rmse for s in collect_parity(campaign.campaign()).series] == [s.rmse for s in whole.series]


@pytest.mark.parametrize(
    ("stop", "converged", "state"),
    [(False, False, "Under way"), (True, True, "Converged"), (True, False, "Stopped, not converged")],
)
def test_the_verdict_is_the_last_decision(stop, converged, state, synthetic):
    campaign = synthetic.campaign()
    last = campaign.generations[-1]
    decision = Decision(stop=stop, converged=converged, reason="because")
    generations = (*campaign.generations[:-1], last.model_copy(update={"decision": decision}))
    head = headline(Campaign(**{**vars(campaign), "generations": generations}))
    assert (head.state, head.reason) == (state, "because")


def test_cards_judge_honest_errors_by_the_criterion(synthetic, criterion):
    cards = {card.title: card for card in headline(synthetic.campaign(), criterion).errors}
    errors = synthetic.generations[-1].score.errors
    assert cards["Forces"].mood == ("good" if errors.forces <= 0.02 else "bad")
    assert cards["Born charges"].mood == ("good" if errors.born_effective_charges <= 0.002 else "bad")
    assert cards["Enthalpy"].mood == ""
    assert {card.mood for card in headline(synthetic.campaign()).errors} == {""}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123456, "0.0123"),
        (0.9999, "1.00"),
        (1.0, "1.00"),
        (83.14, "83.1"),
        (12345.6, "12346"),
        (1.5e-4, "1.50e-4"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert significant(value) == text
