"""From the labels of a study to series, deviations and a recommendation; pure functions.

Each parameter gets an equal share of the tolerances, as errors of several add up. A value is good enough where it and
all better ones lie within that share of the reference: the last value of a series, or, for the field step, the middle
of the plateau between the error of the finite difference (large steps) and the noise of the SCF (small ones).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dft_inputs.insulators import critical_fraction
from ...dft_inputs.quality import DEFAULT_BOUNDS
from ...dft_inputs.records import Frame, LabelledFrame
from ...dft_inputs.units import VACUUM_PERMITTIVITY
from .config import THRESHOLDS, Parameter, Tolerances, value_text
from .records import ConvergenceRow, Deviation, Recommendation, Responses, Series, Setting


def responses(label: LabelledFrame) -> Responses:
    """The labels that are compared.

    Raises:
        ValueError: one of them is missing.
    """
    born, alpha = label.response.born_effective_charges, label.response.polarizability
    if born is None or alpha is None or label.response.forces is None:
        raise ValueError(f"label {label.label_id} lacks Z*, the polarizability or the forces")
    traces = np.trace(born, axis1=1, axis2=2) / 3
    species = np.array(label.frame.species)
    return Responses(
        born_effective_charges=born,
        charges={str(symbol): float(traces[species == symbol].mean()) for symbol in sorted(set(species))},
        polarizability=alpha,
        dielectric=np.eye(3) + alpha / (VACUUM_PERMITTIVITY * label.frame.volume),
        forces=label.response.forces,
    )


def deviation(one: Responses, reference: Responses) -> Deviation:
    """How far two labels of one frame lie apart."""
    return Deviation(
        born_effective_charges=float(np.abs(one.born_effective_charges - reference.born_effective_charges).max()),
        dielectric=float(np.abs(one.dielectric - reference.dielectric).max() / reference.mean_dielectric),
        forces=float(np.abs(one.forces - reference.forces).max()),
    )


def judge_series(parameter: Parameter, rows: Sequence[ConvergenceRow], tolerances: Tolerances, share: float) -> Series:
    """Deviations from the reference, and the first row, the cheapest, from which on all are within the share.

    Args:
        parameter: what is varied.
        rows: as ``VarySection.series`` orders them.
        tolerances: the accuracy wanted.
        share: part of the tolerances left to this parameter.
    """
    known = [index for index, row in enumerate(rows) if row.responses is not None]
    if not known:
        return Series(parameter=parameter, rows=tuple(rows), notes=("no label of this series was made",))
    reference = _plateau(rows, known, tolerances) if parameter == "field_step" else known[-1]
    apart = {index: _apart(rows, index, reference) for index in known}
    within = _within(apart, reference, tolerances, share)
    judged = tuple(
        row.model_copy(update={"deviation": apart.get(index), "within": index in within})
        for index, row in enumerate(rows)
    )
    beside = [index for index in (_before(known, reference), _after(known, reference)) if index is not None]
    nearest = min(beside, key=lambda index: apart[index].over(tolerances), default=None)
    last_change = None if nearest is None else apart[nearest]
    good = [index for index in sorted(within) if not rows[index].flags]
    series = Series(
        parameter=parameter,
        rows=judged,
        reference=reference,
        last_change=last_change,
        converged=last_change is not None and last_change.over(tolerances) <= share,
        recommended=good[0] if good else None,
    )
    return series.model_copy(update={"notes": tuple(_notes(series, tolerances, share))})


def _apart(rows: Sequence[ConvergenceRow], one: int, other: int) -> Deviation:
    first, second = rows[one].responses, rows[other].responses
    if first is None or second is None:
        raise ValueError("only rows with labels can be compared")
    return deviation(first, second)


def _plateau(rows: Sequence[ConvergenceRow], known: Sequence[int], tolerances: Tolerances) -> int:
    """The step whose neighbours agree with it best; of two steps the smaller one."""
    inner = known[1:-1]
    if not inner:
        return known[-1]

    def change(index: int) -> float:
        place = known.index(index)
        return max(_apart(rows, known[place + way], index).over(tolerances) for way in (-1, 1))

    return min(inner, key=change)


def _within(apart: dict[int, Deviation], reference: int, tolerances: Tolerances, share: float) -> set[int]:
    """Rows within the share with nothing worse between them and the reference, on either side."""
    within = {reference}
    for way in (sorted((i for i in apart if i < reference), reverse=True), sorted(i for i in apart if i > reference)):
        for index in way:
            if apart[index].over(tolerances) > share:
                break
            within.add(index)
    return within


def _before(known: Sequence[int], reference: int) -> int | None:
    return max((index for index in known if index < reference), default=None)


def _after(known: Sequence[int], reference: int) -> int | None:
    return min((index for index in known if index > reference), default=None)


def _notes(series: Series, tolerances: Tolerances, share: float) -> list[str]:
    notes = [f"{_text(series, row)} has no label: {row.failure}" for row in series.rows if row.failure]
    notes += [
        f"{_text(series, row)} fails its checks: {', '.join(row.flags)}"
        for row in series.rows
        if row.flags and row.failure is None
    ]
    if series.last_change is None:
        notes.append("only one value: nothing to compare it with")
    elif not series.converged:
        change = describe(series.last_change, tolerances)
        notes.append(
            f"not converged: beside {_reference_text(series)} the labels still change by {change}, more than "
            f"{share:.0%} of the tolerance; extend the series"
        )
    if series.parameter == "kpoints" and (limit := dense_limit(series)) is not None:
        notes.append(f"eps_inf extrapolated to a dense mesh (error as 1/N^2): {limit:.3f}")
    if series.recommended is None:
        notes.append("no value can be recommended")
    return notes


def _text(series: Series, row: ConvergenceRow) -> str:
    return f"{series.parameter} {value_text(series.parameter, row.setting.value(series.parameter))}"


def _reference_text(series: Series) -> str:
    return "the best value" if series.reference is None else _text(series, series.rows[series.reference])


def describe(change: Deviation, tolerances: Tolerances) -> str:
    """The judged parts of a deviation for people."""
    texts = {
        "born_effective_charges": f"{change.born_effective_charges:.2g} e in Z*",
        "dielectric": f"{100 * change.dielectric:.2g} % in eps_inf",
        "forces": f"{1e3 * change.forces:.2g} meV/A in forces",
    }
    judged = tolerances.model_dump(exclude_none=True)
    return ", ".join(text for name, text in texts.items() if name in judged)


def dense_limit(series: Series) -> float | None:
    """Mean diagonal of eps_inf on an infinitely dense mesh, from the two densest that scale all directions alike.

    The Berry-phase position operator errs as the inverse square of the string's length (Umari and Pasquarello, PRB
    68, 085114 (2003)). None where there are no two such meshes.
    """
    rows = [row for row in series.rows if row.responses is not None][-2:]
    if series.parameter != "kpoints" or len(rows) < 2:
        return None
    coarse, dense = (np.array(row.setting.kpoints, dtype=float) for row in rows)
    ratio = dense / coarse
    if ratio[0] <= 1 or not np.allclose(ratio, ratio[0], rtol=0.1):
        return None
    square = float(ratio.mean()) ** 2
    low, high = (row.responses.mean_dielectric for row in rows if row.responses is not None)
    return (square * high - low) / (square - 1)


def recommend(series: Sequence[Series], base: Setting, frame: Frame, gap: float) -> Recommendation:
    """The cheapest value of each parameter together, with all caveats.

    Args:
        series: judged.
        base: settings of parameters that were not varied, and of series without a recommendation.
        frame: the crystal.
        gap: eV.
    """
    values = {}
    cost: float | None = 1.0
    for one in series:
        if one.recommended is None:
            cost = None
            continue
        row = one.rows[one.recommended]
        values[one.parameter] = row.setting.value(one.parameter)
        cost = None if cost is None or row.relative_cost is None else cost * row.relative_cost
    setting = base.model_copy(update=values)
    notes = [f"{one.parameter}: {note}" for one in series for note in one.notes if "not converged" in note]
    notes += [
        f"{one.parameter}: no value passes, that of the base is kept" for one in series if one.recommended is None
    ]
    notes += _field_notes(setting, base, frame, gap)
    converged = all(one.converged and one.recommended is not None for one in series)
    return Recommendation(setting=setting, converged=converged, cost=cost, notes=tuple(notes))


def _field_notes(setting: Setting, base: Setting, frame: Frame, gap: float) -> list[str]:
    """What one parameter at a time cannot see: a small step with a loose threshold, a large one on a dense mesh."""
    notes = []
    if setting.field_step < base.field_step * (1 - 1e-9) and setting.threshold > base.threshold:
        ratio = base.field_step / setting.field_step
        name = next(name for name in base.parameters if name in THRESHOLDS)
        notes.append(
            f"the field step is {ratio:.1f} times smaller than that at which {name} was judged, and SCF noise grows "
            f"as much: tighten {name}"
        )
    worst = max(
        critical_fraction(setting.field_step * direction, gap, frame.cell, setting.kpoints) for direction in np.eye(3)
    )
    if worst > DEFAULT_BOUNDS.critical_field_fraction:
        notes.append(f"on this mesh the field step is {worst:.2f} of the critical field: take a smaller one")
    return notes
