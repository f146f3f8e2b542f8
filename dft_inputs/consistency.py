"""A data set holds labels of one level of theory: mixed ones teach a network the difference between two settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .records import LabelledFrame

STRING_TOLERANCE = 0.1
"""Relative difference of N_i |a_i| up to which cells count as strained copies of one another."""


class MixedLabelsError(ValueError):
    """Labels that do not belong into one data set; one line names two of them.

    Attributes:
        difference: what they differ in, without the advice.
    """

    def __init__(self, difference: str) -> None:
        super().__init__(f"{difference}: train on labels of one protocol, and keep others in a store of their own")
        self.difference = difference


def check_one_level(labels: Iterable[LabelledFrame]) -> None:
    """Refuse labels of different inputs. Meshes may differ as cells do, with one N_i |a_i|; fields and stencils may.

    Raises:
        MixedLabelsError: two labels differ in code, settings, pseudopotentials or N_i |a_i|.
    """
    for _ in in_one_level(labels):
        pass


def in_one_level(labels: Iterable[LabelledFrame]) -> Iterator[LabelledFrame]:
    """The labels one after the other, each compared with the first; raises as ``check_one_level``."""
    reference: LabelledFrame | None = None
    for label in labels:
        reference = reference or label
        if difference := _difference(reference, label):
            raise MixedLabelsError(f"labels {reference.label_id} and {label.label_id} differ in {difference}")
        yield label


def _difference(one: LabelledFrame, other: LabelledFrame) -> str | None:
    """What two labels differ in, in words."""
    first, second = one.provenance, other.provenance
    common = first.pseudopotentials.keys() & second.pseudopotentials.keys()
    files = sorted(e for e in common if first.pseudopotentials[e] != second.pseudopotentials[e])
    if first.settings_hash and second.settings_hash:
        same_settings = first.settings_hash == second.settings_hash
    else:
        same_settings = first.protocol == second.protocol
    if first.code != second.code:
        return f"code ({first.code} and {second.code})"
    if files:
        return f"the pseudopotential of {files[0]}"
    if not same_settings:
        return f"settings (protocols {first.protocol or 'unnamed'} and {second.protocol or 'unnamed'})"
    return _mesh_difference(one, other)


def _mesh_difference(one: LabelledFrame, other: LabelledFrame) -> str | None:
    first, second = one.provenance.kpoints, other.provenance.kpoints
    if first is None or second is None:
        return None
    lengths = [np.linalg.norm(x.frame.cell, axis=1) * np.array(n) for x, n in ((one, first), (other, second))]
    if np.abs(lengths[0] / lengths[1] - 1).max() <= STRING_TOLERANCE:
        return None
    words = " and ".join(str([round(float(n), 1) for n in length]) for length in lengths)
    return f"the density of their k-meshes (N_i |a_i| of {words} A)"
