import numpy as np
import pytest
from fieldloop.dft_inputs.records import SCHEMA_VERSION, ElectricResponse
from fieldloop.workflows.queries import Campaign, Query, QueryError, count_labels, find, query_labels, read_campaign
from fieldloop.workflows.sqlite_file import StoreError
from jobflow.core.store import JobStore
from maggma.stores import MemoryStore


@pytest.fixture(params=["sqlite", "memory"])
def store(request, job_store):
    """Our store, and maggma's own as a check on the queries."""
    if request.param == "sqlite":
        return job_store
    memory = JobStore(MemoryStore())
    memory.connect()
    return memory


@pytest.fixture
def filled(store, fill_store, synthetic):
    fill_store(store, list(reversed(synthetic.records())))
    return store


def test_a_campaign_reads_back_as_it_was_written(filled, synthetic):
    assert read_campaign(filled, synthetic.root) == synthetic.campaign()


def test_an_empty_store_is_an_empty_campaign(store, tmp_path):
    assert read_campaign(store, tmp_path) == Campaign(tmp_path)
    assert count_labels(store) == 0


def test_other_jobs_in_the_store_do_not_matter(filled, synthetic):
    for number, output in enumerate((None, 3.0, "LabelledFrame", {"@class": "Structure"}, [1, 2])):
        filled.update({"uuid": f"other-{number}", "index": 1, "output": output, "completed_at": None})
    assert read_campaign(filled, synthetic.root) == synthetic.campaign()


def strength(field) -> float:
    return -1.0 if field is None else float(np.linalg.norm(field))


QUERIES = {
    "everything": ({}, lambda label: True),
    "a label": (
        {"labels": ["born_effective_charges"]},
        lambda label: label.response.born_effective_charges is not None,
    ),
    "two labels": (
        {"labels": ["stress", "polarization"]},
        lambda label: {"stress", "polarization"} <= set(label.response.labels),
    ),
    "formula": ({"formula": "As4Al4"}, lambda label: label.frame.formula == "Al4As4"),
    "another formula": ({"formula": "AlAs"}, lambda label: False),
    "an element": ({"elements": ["As"]}, lambda label: True),
    "a foreign element": ({"elements": ["Al", "Ga"]}, lambda label: False),
    "done": ({"status": "done"}, lambda label: label.status == "done"),
    "failed": ({"status": "failed"}, lambda label: label.status == "failed"),
    "flagged": ({"passed": False}, lambda label: bool(label.quality.flags)),
    "passed": ({"passed": True}, lambda label: label.trainable),
    "first generation": ({"generation": 0}, lambda label: label.proposal.generation == 0),
    "later generation": ({"generation": 2}, lambda label: label.proposal.generation == 2),
    "origin": ({"origin": "dynamics"}, lambda label: label.proposal.origin == "dynamics"),
    "code": ({"code": "pw.x", "protocol": "fast"}, lambda label: True),
    "another code": ({"code": "vasp"}, lambda label: False),
    "a range of generations": ({"generation": ">=1"}, lambda label: label.proposal.generation >= 1),
    "between generations": ({"generation": (1, 2)}, lambda label: label.proposal.generation in (1, 2)),
    "words in one text": ({"elements": "As, Al", "labels": "forces,stress"}, lambda label: bool(label.response.labels)),
    "strong fields": ({"field": ">1 MV/cm"}, lambda label: strength(label.response.field) > 0.01),
    "no field": (
        {"field": 0, "status": "done"},
        lambda label: label.status == "done" and strength(label.response.field) == 0,
    ),
    "a field between": ({"field": "0.015..0.02 V/A"}, lambda label: 0.014 < strength(label.response.field) < 0.021),
    "met in a field": ({"met_field": "> 0.03"}, lambda label: strength(label.proposal.field) > 0.03),
    "unsure of forces": (
        {"uncertainty": "forces > 20 meV/A"},
        lambda label: label.proposal.uncertainty.get("forces", 0) > 0.02,
    ),
    "unsure of two": (
        {"uncertainty": {"forces": ">0", "polarization": "<1"}},
        lambda label: (
            label.proposal.uncertainty.get("forces", -1) > 0 and label.proposal.uncertainty["polarization"] < 1
        ),
    ),
    "a failed check": ({"flags": "enthalpy_law"}, lambda label: "enthalpy_law" in label.quality.flags),
    "several words": (
        {"labels": ["forces"], "status": "done", "generation": 0, "origin": "rattle"},
        lambda label: label.status == "done" and label.proposal.origin == "rattle",
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_words_find_what_they_say(name, filled, synthetic):
    words, expected = QUERIES[name]
    query = Query.parse(words)
    found = {label.label_id for label in find(filled, query)}
    assert found == {label.label_id for label in synthetic.labels if expected(label)}
    assert count_labels(filled, query) == len(found)


def test_every_query_of_the_table_tells_frames_apart(synthetic):
    """A table of conditions that hold for all or for none would prove nothing."""
    shares = [sum(map(expected, synthetic.labels)) for words, expected in QUERIES.values()]
    assert sum(0 < share < len(synthetic.labels) for share in shares) >= 18


def test_the_model_that_proposed_and_the_frame_before(filled, synthetic):
    proposed = [label for label in synthetic.labels if label.proposal.model_id]
    model, parent = proposed[0].proposal.model_id, synthetic.parent.frame_id
    assert {f.label_id for f in find(filled, Query(model=model))} == {
        label.label_id for label in proposed if label.proposal.model_id == model
    }
    assert count_labels(filled, Query(parent=parent)) == len(synthetic.labels) - 1


def test_a_record_of_a_newer_version_is_refused_in_one_line(store, fill_store, synthetic):
    fill_store(store, [synthetic.labels[0]])
    (document,) = store.query({}, load=False)
    document["output"]["schema_version"] = SCHEMA_VERSION + 1
    store.update(document)
    with pytest.raises(
        StoreError, match=r"job-0: LabelledFrame was written by a newer fieldloop .*upgrade it"
    ) as caught:
        list(find(store))
    assert "\n" not in str(caught.value)


def test_any_mongo_filter_finds_labels_only(filled, synthetic):
    found = list(query_labels(filled, {"output.provenance.seconds": {"$gt": 25.0}}))
    assert {f.label_id for f in found} == {f.label_id for f in synthetic.labels if f.provenance.seconds > 25}


def test_a_frame_labelled_again_counts_once_and_with_its_latest_label(store, fill_store, synthetic, tmp_path):
    good = synthetic.labels[1]
    lost = good.model_copy(update={"status": "failed", "failure": "killed", "response": ElectricResponse()})
    fill_store(store, [lost, good])
    assert list(query_labels(store)) == [good]
    assert count_labels(store, Query(status="failed")) == 0
    assert count_labels(store, Query(labels=("forces",))) == 1
    fill_store(store, [lost], start=2)
    assert read_campaign(store, tmp_path).labels == (lost,)
    assert count_labels(store, Query(labels=("forces",))) == 0


def test_the_latest_model_of_a_member_counts(store, fill_store, synthetic, tmp_path):
    old = synthetic.models[0]
    new = old.model_copy(update={"model_id": "new"})
    fill_store(store, [old, new])
    assert read_campaign(store, tmp_path).models == (new,)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"labels": ["born_effective_charge"]}, "did you mean born_effective_charges"),
        ({"labels": ["xyzzy"]}, "labels are enthalpy, forces"),
        ({"elements": ["Xx"]}, "'Xx' is no chemical element"),
        ({"formula": "4Al)"}, "is no chemical formula"),
        ({"formula": "Xx2"}, "is no chemical"),
        ({"status": "finished"}, "'done' or 'failed'"),
        ({"status": "failed", "passed": True}, "neither passed"),
        ({"stauts": "failed"}, "unknown key stauts"),
        ({"field": "strong"}, "is no range"),
        ({"field": "> 3 eV"}, "units V/A"),
        ({"generation": "3..1"}, "the smaller number comes first"),
        ({"generation": "3 V/A"}, "without a unit"),
        ({"uncertainty": "force > 1"}, "did you mean forces"),
        ({"uncertainty": "> 1"}, "is no uncertainty"),
    ],
)
def test_words_without_a_meaning_are_refused_in_one_line(words, complaint):
    with pytest.raises(QueryError, match=complaint.replace("(", r"\(")) as caught:
        Query.parse(words)
    assert "\n" not in str(caught.value)
