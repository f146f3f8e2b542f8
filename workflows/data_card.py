"""A data card: what a set of labelled frames holds, in Markdown for people and JSON for programs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..active_learning.labels import UNITS
from ..dft_inputs.quality import DEFAULT_BOUNDS
from ..dft_inputs.records import LABELS, LabelledFrame, Record

_BINS = ("<= 0.1 of the bound", "<= the bound", "above the bound", "not known")


class Range(Record):
    """Smallest, mean and largest value over the frames.

    Attributes:
        frames: how many frames have it.
        unit: of all three numbers.
    """

    frames: int
    smallest: float
    mean: float
    largest: float
    unit: str


class DataCard(Record):
    """What a data set holds.

    Attributes:
        name: of the set.
        licences: as the user states them.
        frames, failed, flagged: numbers of labels; failed and flagged ones are not in the splits.
        sha256: over ``label_id`` and content of every finished label, in the order of ``label_id``.
        formulas, labels, origins, codes, protocols, pseudopotential_families: how many finished frames have each.
        ranges: of each label, by component for vectors and matrices; enthalpy per atom.
        fields: strength of the field of the labels, V/A.
        quality: for each check, how many frames are how far below its bound.
        flags: how many frames failed each check.
        splits: ``label_id`` of the trainable frames in ``train`` and ``validation``.
        trajectories: number of independent pieces that the splits were made of.
    """

    name: str
    licences: tuple[str, ...] = ()
    frames: int
    failed: int
    flagged: int
    sha256: str
    formulas: dict[str, int]
    labels: dict[str, int]
    origins: dict[str, int]
    codes: dict[str, int]
    protocols: dict[str, int]
    pseudopotential_families: dict[str, int]
    ranges: dict[str, Range]
    fields: Range | None
    quality: dict[str, dict[str, int]]
    flags: dict[str, int]
    splits: dict[str, tuple[str, ...]]
    trajectories: int


class _Spread:
    """Running smallest, mean and largest."""

    def __init__(self) -> None:
        self.frames, self.count, self.total = 0, 0, 0.0
        self.smallest, self.largest = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Take in the values of one frame."""
        self.frames, self.count, self.total = self.frames + 1, self.count + values.size, self.total + values.sum()
        self.smallest, self.largest = min(self.smallest, values.min()), max(self.largest, values.max())

    def range(self, unit: str) -> Range:
        """What was seen."""
        mean = float(self.total / self.count)
        return Range(
            frames=self.frames, smallest=float(self.smallest), mean=mean, largest=float(self.largest), unit=unit
        )


class _Gathered:
    """What is kept of the frames as they pass by: counts, ranges and identities, no arrays."""

    def __init__(self) -> None:
        names = ("formulas", "labels", "origins", "codes", "protocols", "pseudopotential_families", "flags")
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        self.spreads: dict[str, _Spread] = {}
        self.quality: dict[str, Counter[str]] = {}
        self.digests: dict[str, str] = {}
        self.pieces: dict[str, tuple[str, str]] = {}
        self.failed = self.flagged = 0

    def add(self, item: LabelledFrame) -> None:
        """Take in one label."""
        if item.status != "done":
            self.failed += 1
            return
        response, provenance = item.response, item.provenance
        self.counts["formulas"][item.frame.formula] += 1
        self.counts["labels"].update(response.labels)
        self.counts["origins"][item.proposal.origin] += 1
        self.counts["codes"][f"{provenance.code} {provenance.code_version}".strip()] += 1
        self.counts["protocols"][provenance.protocol or "-"] += 1
        self.counts["pseudopotential_families"][provenance.pseudopotential_family or "-"] += 1
        self.counts["flags"].update(item.quality.flags)
        for name in response.labels:
            values = np.asarray(getattr(response, name), dtype=float)
            self._spread(name).add(values / len(item.frame) if name == "enthalpy" else values)
        self._spread("field").add(np.array([np.linalg.norm(response.field)]))
        for name in vars(DEFAULT_BOUNDS):
            self.quality.setdefault(name, Counter())[_bin(name, getattr(item.quality, name))] += 1
        content = f"{item.frame.model_dump_json()}{response.model_dump_json()}"
        self.digests[item.label_id] = hashlib.sha256(content.encode()).hexdigest()
        if item.trainable:
            self.pieces[item.label_id] = (trajectory_of(item), _after(item.frame.frame_id))
        else:
            self.flagged += 1

    def _spread(self, name: str) -> _Spread:
        return self.spreads.setdefault(name, _Spread())

    def trajectories(self) -> dict[str, list[str]]:
        """Trainable labels by trajectory; the first frame of an imported run is that of the others' names."""
        names = {name for name, _ in self.pieces.values()}
        found: dict[str, list[str]] = {}
        for label_id, (name, as_parent) in self.pieces.items():
            found.setdefault(as_parent if as_parent in names else name, []).append(label_id)
        return found

    @property
    def sha256(self) -> str:
        """Of all finished labels."""
        lines = "".join(f"{label_id} {digest}\n" for label_id, digest in sorted(self.digests.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def make_card(
    name: str, frames: Iterable[LabelledFrame], licences: Sequence[str] = (), validation: float = 0.1
) -> DataCard:
    """Describe a data set.

    Args:
        name: of the set.
        frames: labels, taken one at a time; failed ones are counted.
        licences: under which the labels may be used.
        validation: share of the trainable frames that the validation set may have at most.
    """
    gathered = _Gathered()
    for item in frames:
        gathered.add(item)
    spreads, trajectories = gathered.spreads, gathered.trajectories()
    units = UNITS | {"stress": "eV/A^3"}
    return DataCard(
        name=name,
        licences=tuple(licences),
        frames=len(gathered.digests),
        failed=gathered.failed,
        flagged=gathered.flagged,
        sha256=gathered.sha256,
        **{key: dict(sorted(count.items())) for key, count in gathered.counts.items()},  # type: ignore[arg-type]
        ranges={key: spreads[key].range(units.get(key, "")) for key in LABELS if key in spreads},
        fields=spreads["field"].range("V/A") if "field" in spreads else None,
        quality={
            check: {name: count[name] for name in _BINS if count[name]} for check, count in gathered.quality.items()
        },
        splits=split(trajectories, validation),
        trajectories=len(trajectories),
    )


def trajectory_of(item: LabelledFrame) -> str:
    """The independent piece of data that a frame belongs to; frames of one piece resemble each other.

    A run of dynamics is one piece, and so is an imported run, whatever its cell does, and what a file brings of the
    same atoms in the same cell; a frame that was made by itself, by rattling for example, is a piece of its own.
    """
    proposal, frame = item.proposal, item.frame
    if proposal.origin == "dynamics":
        field = None if proposal.field is None else proposal.field.tolist()
        run = (proposal.generation, proposal.model_id, proposal.parent_frame_id, proposal.temperature, field)
        return f"dynamics {run}"
    if proposal.origin == "import" and proposal.parent_frame_id:
        return _after(proposal.parent_frame_id)
    if proposal.origin == "import":
        cell = np.round(frame.cell, 3).tolist()
        species = hashlib.sha256(" ".join(frame.species).encode()).hexdigest()[:8]
        return f"import {proposal.reason} {frame.formula} {species} {cell}"
    return f"frame {frame.frame_id}"


def _after(frame_id: str) -> str:
    return f"import after {frame_id}"


def split(trajectories: Mapping[str, Sequence[str]], validation: float) -> dict[str, tuple[str, ...]]:
    """Whole trajectories into a training and a validation set; none is in both.

    The order is that of a hash of their names, so it neither changes between calls nor follows the file.

    Args:
        trajectories: ``label_id`` of the frames of each.
        validation: largest share of frames for validation; empty where every trajectory is larger than that.
    """
    total = sum(len(members) for members in trajectories.values())
    train: list[str] = []
    held: list[str] = []
    for name in sorted(trajectories, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        members = trajectories[name]
        fits = len(held) + len(members) <= validation * total
        (held if fits else train).extend(members)
    return {"train": tuple(sorted(train)), "validation": tuple(sorted(held))}


def to_markdown(card: DataCard) -> str:
    """The card for people."""
    lines = [
        f"# {card.name}",
        "",
        f"{card.frames} labelled frames; {card.flagged} of them flagged, {card.failed} more failed.",
        "",
        f"- licence: {'; '.join(card.licences) or 'not stated'}",
        f"- SHA-256 of the labels: `{card.sha256}`",
    ]
    titles = {"formulas": "formulas", "origins": "origins", "codes": "codes", "protocols": "protocols"}
    titles["pseudopotential_families"] = "pseudopotential families"
    for key, title in titles.items():
        lines.append(f"- {title}: {_counts(getattr(card, key))}")
    lines += ["", "## Labels", "", "| label | frames | smallest | mean | largest | unit |", "|---|---|---|---|---|---|"]
    rows = card.ranges if card.fields is None else {**card.ranges, "strength of the field": card.fields}
    for name, span in rows.items():
        numbers = f"{span.smallest:.6g} | {span.mean:.6g} | {span.largest:.6g}"
        lines.append(f"| {name.replace('_', ' ')} | {span.frames} | {numbers} | {span.unit} |")
    lines += ["", "## Quality", "", f"| check | {' | '.join(_BINS)} |", f"|---{'|---' * len(_BINS)}|"]
    for check, counts in card.quality.items():
        lines.append(f"| {check.replace('_', ' ')} | {' | '.join(str(counts.get(name, 0)) for name in _BINS)} |")
    lines += ["", f"Failed checks: {_counts(card.flags)}.", "", "## Splits", ""]
    train, held = len(card.splits["train"]), len(card.splits["validation"])
    lines.append(f"{card.trajectories} trajectories, each in one split only: {train} frames train, {held} validate.")
    if not held:
        lines.append("Every trajectory is larger than the share for validation, so none is held out.")
    return "\n".join([*lines, ""])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"


def _bin(name: str, value: float | None) -> str:
    if value is None:
        return _BINS[3]
    bound = getattr(DEFAULT_BOUNDS, name)
    return _BINS[0] if value <= 0.1 * bound else _BINS[1] if value <= bound else _BINS[2]
