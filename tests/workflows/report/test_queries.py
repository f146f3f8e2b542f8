import pytest
from fieldloop.dft_inputs.records import ElectricResponse
from fieldloop.workflows.queries import Campaign, QueryError, count_labels, label_query, query_labels, read_campaign
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


QUERIES = {
    "everything": ({}, lambda label: True),
    "a label": ({"has": ["born_effective_charges"]}, lambda label: label.response.born_effective_charges is not None),
    "two labels": (
        {"has": ["stress", "polarization"]},
        lambda label: {"stress", "polarization"} <= set(label.response.labels),
    ),
    "formula": ({"formula": "As4Al4"}, lambda label: label.frame.formula == "Al4As4"),
    "another formula": ({"formula": "AlAs"}, lambda label: False),
    "an element": ({"elements": ["As"]}, lambda label: True),
    "a foreign element": ({"elements": ["Al", "Ga"]}, lambda label: False),
    "done": ({"status": "done"}, lambda label: label.status == "done"),
    "failed": ({"status": "failed"}, lambda label: label.status == "failed"),
    "flagged": ({"passed": False}, lambda label: bool(label.quality.flags)),
    "passed": ({"passed": True, "status": "done"}, lambda label: label.trainable),
    "first generation": ({"generation": 0}, lambda label: label.proposal.generation == 0),
    "later generation": ({"generation": 2}, lambda label: label.proposal.generation == 2),
    "origin": ({"origin": "dynamics"}, lambda label: label.proposal.origin == "dynamics"),
    "code": ({"code": "pw.x", "protocol": "fast"}, lambda label: True),
    "another code": ({"code": "vasp"}, lambda label: False),
    "several words": (
        {"has": ["forces"], "status": "done", "generation": 0, "origin": "rattle"},
        lambda label: label.status == "done" and label.proposal.origin == "rattle",
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_words_find_what_they_say(name, filled, synthetic):
    words, expected = QUERIES[name]
    criteria = label_query(**words)
    found = {label.label_id for label in query_labels(filled, criteria)}
    assert found == {label.label_id for label in synthetic.labels if expected(label)}
    assert count_labels(filled, criteria) == len(found)


def test_any_mongo_filter_finds_labels_only(filled, synthetic):
    found = list(query_labels(filled, {"output.provenance.seconds": {"$gt": 25.0}}))
    assert {f.label_id for f in found} == {f.label_id for f in synthetic.labels if f.provenance.seconds > 25}


def test_a_frame_labelled_again_counts_once_and_with_its_latest_label(store, fill_store, synthetic, tmp_path):
    good = synthetic.labels[1]
    lost = good.model_copy(update={"status": "failed", "failure": "killed", "response": ElectricResponse()})
    fill_store(store, [lost, good])
    assert list(query_labels(store)) == [good]
    assert count_labels(store, label_query(status="failed")) == 0
    assert count_labels(store, label_query(has=["forces"])) == 1
    fill_store(store, [lost], start=2)
    assert read_campaign(store, tmp_path).labels == (lost,)
    assert count_labels(store, label_query(has=["forces"])) == 0


def test_the_latest_model_of_a_member_counts(store, fill_store, synthetic, tmp_path):
    old = synthetic.models[0]
    new = old.model_copy(update={"model_id": "new"})
    fill_store(store, [old, new])
    assert read_campaign(store, tmp_path).models == (new,)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"has": ["born_effective_charge"]}, "did you mean born_effective_charges"),
        ({"has": ["xyzzy"]}, "labels are enthalpy, forces"),
        ({"elements": ["Xx"]}, "'Xx' is no chemical element"),
        ({"formula": "4Al)"}, "is no chemical formula"),
        ({"formula": "Xx2"}, "is no chemical"),
        ({"status": "finished"}, "done or failed"),
    ],
)
def test_words_without_a_meaning_are_refused_in_one_line(words, complaint):
    with pytest.raises(QueryError, match=complaint.replace("(", r"\(")) as caught:
        label_query(**words)
    assert "\n" not in str(caught.value)
