"""Where frames and models come from and what became of them, across generations, from the records in a store.

Parents and children are frames and models: a model proposes frames, frames train and validate models, a frame is made
into another, a model is continued as the next. An edge leads from parent to child.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jobflow.core.store import JobStore

from ..dft_inputs.records import Frame, LabelledFrame, Proposal, Record
from .queries import QueryError, query_labels, read_records
from .records import SelectionRecord, TrainedModel

Relation = Literal["proposed", "made into", "trained", "validated", "continued as"]
Side = Literal["parents", "children"]

_SHORTEST_PREFIX = 4


class LineageNode(Record):
    """A frame or a model.

    Attributes:
        kind: ``frame`` or ``model``.
        id: ``frame_id`` or ``model_id``.
        generation: that the frame was proposed for, or the model trained in; None for a frame that is only named.
        labels: ``label_id`` of the labels of a frame.
        about: one line for people.
    """

    kind: Literal["frame", "model"]
    id: str
    generation: int | None = None
    labels: tuple[str, ...] = ()
    about: str = ""


class LineageEdge(Record):
    """``parent`` has ``relation`` ``child``: a model has proposed a frame, a frame has trained a model."""

    parent: str
    child: str
    relation: Relation


class Lineage(Record):
    """Frames and models with how they follow from one another.

    Attributes:
        subject: ``id`` of the node whose lineage it is; empty for everything that a store holds.
        nodes: by generation, frames before models.
        edges: each once.
    """

    subject: str = ""
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]

    def find(self, identity: str) -> LineageNode:
        """The node that a ``frame_id``, ``label_id`` or ``model_id`` names; its first characters are enough.

        Raises:
            QueryError: none, or several.
        """
        named = {node.id: node for node in self.nodes if identity == node.id or identity in node.labels}
        if not named and len(identity) >= _SHORTEST_PREFIX:
            named = {n.id: n for n in self.nodes if any(name.startswith(identity) for name in (n.id, *n.labels))}
        if not named:
            raise QueryError(f"no frame, label or model of this store is called {identity!r}")
        if len(named) > 1:
            listed = ", ".join(f"{node.kind} {node.id}" for node in named.values())
            raise QueryError(f"{identity!r} may be any of {listed}: write more of it")
        return next(iter(named.values()))

    def of(self, identity: str) -> Lineage:
        """All ancestors and all descendants of a node, as ``find`` takes it, with the edges that lead to them."""
        subject = self.find(identity)
        edges = [*self._reached(subject.id, "parents"), *self._reached(subject.id, "children")]
        known = {subject.id, *(edge.parent for edge in edges), *(edge.child for edge in edges)}
        nodes = tuple(node for node in self.nodes if node.id in known)
        return Lineage(subject=subject.id, nodes=nodes, edges=tuple(edges))

    def _reached(self, start: str, side: Side) -> list[LineageEdge]:
        """The edges on all ways up or down from a node."""
        leaving: dict[str, list[LineageEdge]] = {}
        for edge in self.edges:
            leaving.setdefault(edge.child if side == "parents" else edge.parent, []).append(edge)
        found, seen, open_ends = [], {start}, [start]
        while open_ends:
            for edge in leaving.get(open_ends.pop(), []):
                found.append(edge)
                end = edge.parent if side == "parents" else edge.child
                if end not in seen:
                    seen.add(end)
                    open_ends.append(end)
        return found


def read_lineage(store: JobStore) -> Lineage:
    """The lineage of everything in a store.

    Args:
        store: connected.

    Raises:
        StoreError: a record that this version cannot read.
    """
    labels = list(query_labels(store))
    models = read_records(store, TrainedModel, "model_id")
    chosen = [
        (choice.frame, choice.proposal)
        for selection in read_records(store, SelectionRecord, "generation")
        for choice in selection.chosen
    ]
    return lineage_of(labels, models, chosen)


def lineage_of(
    labels: Sequence[LabelledFrame],
    models: Sequence[TrainedModel],
    chosen: Sequence[tuple[Frame, Proposal]] = (),
) -> Lineage:
    """Nodes and edges from the records of labels, of models, and of frames that were chosen, labelled or not.

    Args:
        labels: of a store.
        models: of a store.
        chosen: frames with where they come from.
    """
    nodes = _frames(labels, chosen) | {model.model_id: _model(model) for model in models}
    proposals = [(label.frame.frame_id, label.proposal) for label in labels]
    proposals += [(frame.frame_id, proposal) for frame, proposal in chosen]
    edges = [edge for frame_id, proposal in proposals for edge in _origins(frame_id, proposal)]
    frame_of = {label.label_id: label.frame.frame_id for label in labels}
    for model in models:
        edges += _trainings(model, frame_of)
    for edge in edges:
        for name in (edge.parent, edge.child):
            kind = "model" if edge.relation in ("proposed", "continued as") and name == edge.parent else "frame"
            nodes.setdefault(name, LineageNode(kind=kind, id=name, about="named only, not in this store"))
    return Lineage(nodes=tuple(sorted(nodes.values(), key=_order)), edges=tuple(dict.fromkeys(edges)))


def _frames(labels: Sequence[LabelledFrame], chosen: Sequence[tuple[Frame, Proposal]]) -> dict[str, LineageNode]:
    nodes: dict[str, LineageNode] = {}
    for label in labels:
        frame_id, proposal = label.frame.frame_id, label.proposal
        before = nodes[frame_id].labels if frame_id in nodes else ()
        verdict = label.status if label.quality.passed else f"flagged: {', '.join(label.quality.flags)}"
        nodes[frame_id] = LineageNode(
            kind="frame",
            id=frame_id,
            generation=proposal.generation,
            labels=(*before, label.label_id),
            about=f"{label.frame.formula} {_met(proposal)}; {verdict}",
        )
    for frame, proposal in chosen:
        about = f"{frame.formula} {_met(proposal)}; chosen, no label yet"
        node = LineageNode(kind="frame", id=frame.frame_id, generation=proposal.generation, about=about)
        nodes.setdefault(frame.frame_id, node)
    return nodes


def _met(proposal: Proposal) -> str:
    parts = [proposal.origin]
    if proposal.temperature is not None:
        parts.append(f"at {proposal.temperature:g} K")
    if proposal.field is not None:
        parts.append(f"in {np.linalg.norm(proposal.field):g} V/A")
    if proposal.time is not None:
        parts.append(f"after {proposal.time:g} fs")
    return " ".join(parts)


def _model(model: TrainedModel) -> LineageNode:
    about = f"member {model.member}, {len(model.training_ids)} frames to train, {len(model.validation_ids)} to validate"
    return LineageNode(kind="model", id=model.model_id, generation=model.generation, about=about)


def _origins(frame_id: str, proposal: Proposal) -> list[LineageEdge]:
    edges = []
    if proposal.model_id:
        edges.append(LineageEdge(parent=proposal.model_id, child=frame_id, relation="proposed"))
    if proposal.parent_frame_id and proposal.parent_frame_id != frame_id:
        edges.append(LineageEdge(parent=proposal.parent_frame_id, child=frame_id, relation="made into"))
    return edges


def _trainings(model: TrainedModel, frame_of: dict[str, str]) -> list[LineageEdge]:
    """A label that is not in the store stands for its frame."""
    uses: tuple[tuple[Relation, tuple[str, ...]], ...] = (
        ("trained", model.training_ids),
        ("validated", model.validation_ids),
    )
    edges = [
        LineageEdge(parent=frame_of.get(label_id, label_id), child=model.model_id, relation=relation)
        for relation, label_ids in uses
        for label_id in label_ids
    ]
    if model.start_model_id:
        edges.append(LineageEdge(parent=model.start_model_id, child=model.model_id, relation="continued as"))
    return edges


def _order(node: LineageNode) -> tuple:
    return (-1 if node.generation is None else node.generation, node.kind, node.id)
