"""Labels of other projects into a store: read by a named convention, verified by physics, reported.

Two passes over the source, one frame in memory at a time but for those that are compared with each other. Where physics
contradicts the named convention nothing is stored, unless the frames are wanted all the same: then they are flagged.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jobflow.core.store import JobStore
from pydantic import Field

from ..dft_inputs.conventions import ConventionError
from ..dft_inputs.formats import Unreadable, ignored_keys, read_labels
from ..dft_inputs.quality import DEFAULT_BOUNDS
from ..dft_inputs.records import LabelledFrame, Quality, Record
from ..dft_inputs.verification import Verdict, verify

MOST_COMPARED = 400
"""Frames at the beginning of a source that are compared with each other."""
FLAG = "convention"
_BATCH = 100
_NAMESPACE = uuid.UUID("5d3e8f4e-7d0c-4b52-9a3c-0f1f6f3f2b10")


class Refusal(Record):
    """A frame that was not taken.

    Attributes:
        where: its place in the source.
        reason: one line for people.
    """

    where: str
    reason: str


class ImportReport(Record):
    """What became of a source.

    Attributes:
        source: name of the file or folder.
        convention: as named by the user.
        frames: labels that could be read and passed their own checks.
        stored: how many of them are in the store now.
        labels: how many frames have each label.
        flagged: how many frames failed a check of quality, by its name.
        ignored: keys of the source that the convention has no word for, with the conventions that have one.
        refused: frames that were not taken, and why.
        compared: frames that the verdicts rest on.
        verdicts: the checks of the convention by physics.
    """

    source: str
    convention: str
    frames: int = 0
    stored: int = 0
    labels: dict[str, int] = Field(default_factory=dict)
    flagged: dict[str, int] = Field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    compared: int = 0
    verdicts: tuple[Verdict, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """What physics found wrong, each once."""
        return tuple(dict.fromkeys(verdict.fault for verdict in self.verdicts if verdict.outcome == "wrong"))


def survey(path: Path, convention: str, file_format: str | None = None) -> ImportReport:
    """Read and verify a source; nothing is stored.

    Raises:
        ConventionError: unknown convention or format, or no such source.
    """
    labels, flagged = Counter[str](), Counter[str]()
    refused: list[Refusal] = []
    compared: list[LabelledFrame] = []
    frames = 0
    for item in _credible(path, convention, file_format):
        if isinstance(item, Unreadable):
            refused.append(Refusal(where=item.where, reason=item.reason))
            continue
        frames += 1
        labels.update(item.response.labels)
        flagged.update(item.quality.flags)
        if len(compared) < MOST_COMPARED:
            compared.append(item)
    verdicts = verify(compared)
    return ImportReport(
        source=path.name,
        convention=convention,
        frames=frames,
        labels=dict(labels),
        flagged=dict(flagged),
        ignored=ignored_keys(path, convention, file_format),
        refused=tuple(refused),
        compared=len(compared),
        verdicts=verdicts,
    )


def import_labels(
    path: Path, convention: str, store: JobStore, file_format: str | None = None, *, despite_faults: bool = False
) -> ImportReport:
    """Verify a source and store its labels. Importing again changes nothing.

    Args:
        path: file or folder.
        convention: name of the convention, or of the DFT code whose outputs they are.
        store: connected, for writing.
        file_format: of ``formats.FORMATS``; from the name where not given.
        despite_faults: store labels that physics contradicts, flagged with ``convention``: nothing trains on them.

    Returns:
        The report; where it names faults and they were not waved through, nothing was stored.

    Raises:
        ConventionError: unknown convention or format, or no such source.
    """
    report = survey(path, convention, file_format)
    if report.faults and not despite_faults:
        return report
    stored = 0
    batch: list[dict[str, Any]] = []
    for item in _credible(path, convention, file_format):
        if isinstance(item, LabelledFrame):
            batch.append(_document(_flagged(item) if report.faults else item))
            stored += 1
        if len(batch) == _BATCH:
            store.update(batch, key=["uuid", "index"])
            batch = []
    if batch:
        store.update(batch, key=["uuid", "index"])
    return report.model_copy(update={"stored": stored})


def _credible(path: Path, convention: str, file_format: str | None) -> Iterator[LabelledFrame | Unreadable]:
    """Labels with their own checks made; what fails one that no label may fail is told instead."""
    seen: dict[str, int] = {}
    for index, item in enumerate(read_labels(path, convention, file_format)):
        if isinstance(item, Unreadable):
            yield item
        elif item.label_id in seen:
            yield Unreadable(f"frame {index}", f"the same label as frame {seen[item.label_id]}")
        else:
            seen[item.label_id] = index
            yield _placed(item, path)


def _placed(item: LabelledFrame, path: Path) -> LabelledFrame:
    """A label with its source, and with the checks that need no field points."""
    changes: dict[str, Any] = {}
    if item.proposal.origin == "import" and not item.proposal.reason:
        changes["proposal"] = item.proposal.model_copy(update={"reason": f"imported from {path.name}"})
    if item.provenance.code == "import":
        changes["quality"] = _checked(item)
    return item.model_copy(update=changes)


def _checked(item: LabelledFrame) -> Quality:
    response, flags = item.response, list(item.quality.flags)
    checks: dict[str, float] = {}
    if (charges := response.born_effective_charges) is not None:
        checks["acoustic_sum_rule"] = float(np.abs(charges.mean(axis=0)).max())
    if (alpha := response.polarizability) is not None:
        checks["polarizability_asymmetry"] = float(
            np.abs(alpha - alpha.T).max() / 2 / max(abs(np.trace(alpha)) / 3, 1e-300)
        )
        if np.linalg.eigvalsh((alpha + alpha.T) / 2)[0] <= 0:
            flags.append("polarizability_not_positive")
    flags += [name for name, value in checks.items() if not value <= getattr(DEFAULT_BOUNDS, name)]
    return item.quality.model_copy(update={**checks, "flags": tuple(dict.fromkeys(flags))})


def _flagged(item: LabelledFrame) -> LabelledFrame:
    flags = tuple(dict.fromkeys((*item.quality.flags, FLAG)))
    return item.model_copy(update={"quality": item.quality.model_copy(update={"flags": flags})})


def _document(item: LabelledFrame) -> dict[str, Any]:
    """As a job of jobflow leaves its output; the same label is the same document."""
    output = item.model_dump(mode="json")
    output |= {"@module": type(item).__module__, "@class": type(item).__name__}
    return {
        "uuid": str(uuid.uuid5(_NAMESPACE, item.label_id)),
        "index": 1,
        "output": output,
        "completed_at": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "metadata": {},
        "hosts": [],
        "name": "import",
    }


def open_import_store(path: Path) -> JobStore:
    """The connected store that imported labels go to, created where it is missing.

    Raises:
        ConventionError: the store belongs to a campaign, whose labels are all of one level of theory.
        StoreError: not a store of fieldloop, or damaged.
    """
    from .store import SQLiteStore  # noqa: PLC0415  (maggma takes a while to import)

    documents = SQLiteStore(path)
    store = JobStore(documents)
    store.connect()
    if documents.project_identity:
        store.close()
        raise ConventionError(f"{path} belongs to a campaign, whose labels share one level of theory: name another one")
    return store
