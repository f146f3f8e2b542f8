"""Where frames and models come from, on a campaign whose history is known."""

import json

import pytest
from fieldloop.workflows.cli import app
from fieldloop.workflows.lineage import QueryError, lineage_of, read_lineage
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def lineage(finished_once):
    return read_lineage(finished_once.store)


@pytest.fixture
def names(finished_once):
    """Identity by a name that says which it is."""
    frames = {name: label.frame.frame_id for name, label in finished_once.labels.items()}
    return frames | {generation: model.model_id for generation, model in finished_once.models.items()}


def related(lineage, relation, *, parent=None, child=None):
    return {
        edge.parent if child else edge.child
        for edge in lineage.edges
        if edge.relation == relation
        and (parent is None or edge.parent == parent)
        and (child is None or edge.child == child)
    }


def test_which_model_proposed_a_frame(lineage, names):
    assert related(lineage, "proposed", child=names["met"]) == {names[0]}
    assert related(lineage, "proposed", child=names["rattle 1"]) == set()
    assert related(lineage, "proposed", parent=names[0]) == {names["met"]}


def test_which_frames_trained_a_model(lineage, names):
    assert related(lineage, "trained", child=names[0]) == {names["parent"], names["rattle 1"]}
    assert related(lineage, "validated", child=names[0]) == {names["rattle 2"]}
    assert related(lineage, "continued as", child=names[1]) == {names[0]}


def test_ancestors_and_descendants_reach_across_generations(lineage, names):
    last = lineage.of(names[1])
    assert {node.id for node in last.nodes} == set(names.values())  # everything leads to the last model
    met = lineage.of(names["met"])
    assert {node.id for node in met.nodes} == set(names.values())
    rattle = lineage.of(names["rattle 1"])
    # It is no ancestor of its siblings, which share the parent alone.
    assert {node.id for node in rattle.nodes} == set(names.values()) - {names["rattle 2"]}
    for found in (last, met, rattle):
        assert set(found.edges) <= set(lineage.edges)
        assert len(found.edges) == len(set(found.edges))


def test_a_lineage_has_no_circle(lineage):
    order = {node.id: number for number, node in enumerate(lineage.nodes)}
    children = {node.id: [edge.child for edge in lineage.edges if edge.parent == node.id] for node in lineage.nodes}
    assert len(order) == 6

    def descendants(start):
        found = set(children[start])
        return found.union(*(descendants(child) for child in found))

    assert all(name not in descendants(name) for name in order)


def test_names_may_be_cut_short_but_not_ambiguous(lineage, finished_once, names):
    label = finished_once.labels["met"]
    for name in (label.label_id, label.label_id[:8], label.frame.frame_id, label.frame.frame_id[:8]):
        assert lineage.find(name).id == names["met"]
    for name in ("nothing", names[0][:2], ""):
        with pytest.raises(QueryError, match="no frame, label or model"):
            lineage.find(name)
    twins = lineage.model_copy(
        update={"nodes": (*lineage.nodes, lineage.nodes[0].model_copy(update={"id": names[0] + "x"}))}
    )
    with pytest.raises(QueryError, match="write more of it"):
        twins.find(names[0][:8])


def test_a_chosen_frame_without_a_label_and_a_model_that_is_gone(finished_once):
    labels = [label for name, label in finished_once.labels.items() if name != "met"]
    met = finished_once.labels["met"]
    lineage = lineage_of(labels, [finished_once.models[1]], [(met.frame, met.proposal)])
    assert lineage.find(met.frame.frame_id).about.endswith("chosen, no label yet")
    gone = lineage.find(finished_once.models[0].model_id)
    assert (gone.kind, gone.about) == ("model", "named only, not in this store")


def test_the_same_at_the_command_line(finished_once, lineage, names):
    def ask(*arguments):
        return CliRunner().invoke(app, ["data", "lineage", str(finished_once.root), *arguments], env={"COLUMNS": "200"})

    tree = ask(names["met"]).stdout
    assert f"proposed by model {names[0]}" in tree
    assert f"trained model {names[1]}" not in tree  # it validates the last model, as the last of the frames
    assert f"validated model {names[1]}" in tree
    assert json.loads(ask(names["met"], "--json").stdout) == json.loads(lineage.of(names["met"]).model_dump_json())
    assert "..." in ask(names[1], "--depth", "1").stdout
    wrong = ask("xxxxxxxx")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
