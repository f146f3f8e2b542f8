"""A lineage as a tree: relatives of the same kind, relation and generation on one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.tree import Tree

if TYPE_CHECKING:
    from ..lineage import Lineage, LineageNode, Side

_FROM = {
    "proposed": "proposed by",
    "made into": "made from",
    "trained": "trained on",
    "validated": "validated on",
    "continued as": "continued from",
}


def lineage_tree(lineage: Lineage, depth: int) -> Tree:
    """The subject with its parents and its children.

    Args:
        lineage: of one subject.
        depth: how many steps away from the subject; what lies beyond is an ellipsis.
    """
    subject = lineage.find(lineage.subject)
    tree = Tree(_line(subject))
    sides: tuple[tuple[Side, str], ...] = (("parents", "comes from"), ("children", "led to"))
    for side, title in sides:
        branch = Tree(f"[bold]{title}[/]")
        _grow(branch, lineage, [subject.id], side, {subject.id}, depth)
        if branch.children:
            tree.add(branch)
    return tree


def _grow(
    branch: Tree, lineage: Lineage, ends: Sequence[str], side: Side, seen: set[str], depth: int, named: bool = True
) -> None:
    """Add the relatives one step away from the ends, and theirs; the subject's own are named one by one."""
    groups = _groups(lineage, set(ends), side)
    if groups and not depth:
        branch.add("...")
        return
    for (relation, _, _), nodes in groups.items():
        new = [node.id for node in nodes if node.id not in seen]
        seen.update(new)
        verb = _FROM[relation] if side == "parents" else relation
        above = "" if new else " [dim](see above)[/]"
        twig = branch.add(f"{verb} {_summary(nodes)}{above}")
        if named and len(nodes) > 1:
            _list(twig, nodes)
        if new:
            _grow(twig, lineage, new, side, seen, depth - 1, named=False)


def _groups(lineage: Lineage, ends: set[str], side: Side) -> dict[tuple, list[LineageNode]]:
    """Relatives one step away by relation, kind and generation."""
    named = {node.id: node for node in lineage.nodes}
    groups: dict[tuple, dict[str, LineageNode]] = {}
    for edge in lineage.edges:
        near, far = (edge.child, edge.parent) if side == "parents" else (edge.parent, edge.child)
        if near in ends:
            node = named[far]
            groups.setdefault((edge.relation, node.kind, node.generation), {})[node.id] = node
    order = sorted(groups, key=lambda key: (-1 if key[2] is None else key[2], key[1], key[0]))
    return {key: list(groups[key].values()) for key in order}


def _list(twig: Tree, nodes: list[LineageNode]) -> None:
    for node in nodes:
        twig.add(f"[dim]{_line(node)}[/]")


def _summary(nodes: list[LineageNode]) -> str:
    if len(nodes) == 1:
        return _line(nodes[0])
    first = nodes[0]
    generation = "" if first.generation is None else f" of generation {first.generation}"
    return f"{len(nodes)} {first.kind}s{generation}"


def _line(node: LineageNode) -> str:
    generation = "" if node.generation is None else f", generation {node.generation}"
    labels = f" (label {', '.join(node.labels)})" if node.labels else ""
    about = f": {escape(node.about)}" if node.about else ""
    return f"{node.kind} [bold]{node.id}[/]{labels}{generation}{about}"
