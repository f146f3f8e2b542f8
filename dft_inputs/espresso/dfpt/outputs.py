"""Read a finished ph.x run: standard output and ``tensors.xml``, checked against each other.

Index order, pinned by finite differences of forces in a field for crystals of low symmetry: the printed "Effective
charges (d Force / dE)" have a row for each field component and a column for each displacement, as ours have; the XML
holds each matrix transposed. The dielectric tensor is symmetric but for noise.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..outputs import PwOutputError, failure_reason, read_text
from ..parsing import NUMBER, element, numbers, to_float, value

STDOUT, XML = "ph.out", "tensors.xml"
_END = re.compile(r"JOB DONE\.\s*\n=-+=")
_ROW = rf"\(\s*({NUMBER})\s+({NUMBER})\s+({NUMBER})\s*\)\s*\n"
_EPSILON = re.compile(r"Dielectric constant in cartesian axis\s*\n\s*\n" + rf"\s*{_ROW}" * 3)
_CHARGES = re.compile(r"Effective charges \(d Force / dE\) in cartesian axis\s*\n((?:.*\n)*?)\s*\n")
_CHARGE = re.compile(r"\s*atom\s+([0-9]+)\s+([A-Z]\S*)\s*\n" + "".join(rf"\s*E{axis}\s+{_ROW}" for axis in "xyz"))
_ITERATION = re.compile(rf"iter #\s*([0-9]+) total cpu time.*\n.*\|ddv_scf\|\^2 =\s*({NUMBER})")
_THRESHOLD = re.compile(rf"convergence threshold\s+=\s+({NUMBER})")
_VERSION = re.compile(r"Program PHONON v\.(\S+) starts")
_TIMES = re.compile(r"PHONON\s+:\s+(.*?)\s*CPU\s+(.*?)\s*WALL")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_REQUIRED = "End of electric fields calculation"


@dataclass(frozen=True)
class PhOutput:
    """One converged response to a field.

    Attributes:
        species: as printed with the charges.
        dielectric_tensor: eps_inf, [dipole a, field b], (3, 3).
        born_effective_charges: dF_ib/dE_a in e, (N, 3, 3), [atom, field a, displacement b], the sum rule not imposed.
        residual: squared, of the last iteration.
        iterations: of the response.
        cpu_time, wall_time: s.
        version: of ph.x.
    """

    species: tuple[str, ...]
    dielectric_tensor: np.ndarray
    born_effective_charges: np.ndarray
    residual: float
    iterations: int
    cpu_time: float
    wall_time: float
    version: str


def read_ph_output(source: Path | str, xml: Path | str | None = None) -> PhOutput:
    """Read one run.

    Args:
        source: the run's directory, with ``ph.out`` and ``tensors.xml`` (may be gzipped), or its standard output.
        xml: ``tensors.xml``, where ``source`` is the standard output.

    Raises:
        PwOutputError: missing, truncated, failed, unconverged or damaged output, or two files of different runs.
    """
    source = Path(source)
    stdout, xml_path = (source, Path(xml)) if xml is not None else (_file(source, STDOUT), _file(source, XML))
    text = read_text(stdout)
    if reason := ph_failure(text):
        raise PwOutputError(f"{stdout}: {reason}")
    try:
        root = ET.fromstring(read_text(xml_path))  # noqa: S314  (our own run's output)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise PwOutputError(f"{xml_path}: incomplete XML ({error})") from error
    try:
        output, printed = _assemble(root, text)
    except (AttributeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise PwOutputError(f"{stdout} or {xml_path.name}: an expected entry is missing or broken ({error})") from error
    for name, tensor, decimals in (("dielectric_tensor", printed[0], 9), ("born_effective_charges", printed[1], 5)):
        if np.abs(tensor - getattr(output, name)).max() > 10.0**-decimals:
            raise PwOutputError(f"{stdout} and {xml_path.name} differ in {name}: they are of different runs")
    return output


def ph_failure(text: str) -> str | None:
    """Why ph.x came to nothing, from its standard output; None where it ended well.

    ph.x prints JOB DONE and the end of the calculation after an unconverged one too.
    """
    if reason := failure_reason(text):
        return reason.replace("pw.x", "ph.x")
    residuals = [to_float(residual) for _, residual in _ITERATION.findall(text)]
    threshold = _THRESHOLD.search(text)
    if not _END.search(text):
        return "incomplete output, the run did not end"
    if not residuals or threshold is None:
        return "no response to a field in it; set epsil"
    if residuals[-1] > 1.06 * to_float(threshold[1]) or _REQUIRED not in text:  # two digits are printed
        return f"response not converged in {len(residuals)} iterations"
    return None


def _file(directory: Path, name: str) -> Path:
    files = [path for path in (directory / name, directory / f"{name}.gz") if path.is_file()]
    if not files:
        raise PwOutputError(f"{directory}: no {name}")
    return files[0]


def _assemble(root: ET.Element, text: str) -> tuple[PhOutput, tuple[np.ndarray, np.ndarray]]:
    """The output at full precision, and both tensors as printed."""
    species, charges = _printed_charges(text)
    epsilon = np.array([to_float(token) for token in _EPSILON.findall(text)[-1]]).reshape(3, 3)
    tensors = element(root, "EF_TENSORS")
    for flag in ("DONE_ELECTRIC_FIELD", "DONE_EFFECTIVE_CHARGE_EU"):
        if value(tensors, flag) != "true":
            raise ValueError(f"{flag} is not true")
    counts = [int(count) for count, _ in _ITERATION.findall(text)]
    if counts != list(range(counts[0], counts[0] + len(counts))) or (counts[0] != 1 and "Restart in Elec" not in text):
        raise ValueError("iterations are missing")
    times = _TIMES.findall(text)[-1]
    output = PhOutput(
        species=species,
        dielectric_tensor=numbers(element(tensors, "DIELECTRIC_CONSTANT")).reshape(3, 3).T,
        born_effective_charges=numbers(element(tensors, "EFFECTIVE_CHARGES_EU"))
        .reshape(len(species), 3, 3)
        .transpose(0, 2, 1),
        residual=to_float(_ITERATION.findall(text)[-1][1]),
        iterations=len(counts),
        cpu_time=_seconds(times[0]),
        wall_time=_seconds(times[1]),
        version=_VERSION.findall(text)[0],
    )
    return output, (epsilon.T, charges)


def _printed_charges(text: str) -> tuple[tuple[str, ...], np.ndarray]:
    rows = _CHARGE.findall(_CHARGES.findall(text)[-1])
    atoms = re.findall(r"number of atoms/cell\s+=\s+([0-9]+)", text)
    if [int(row[0]) for row in rows] != list(range(1, int(atoms[0]) + 1)):
        raise ValueError("effective charges: lines are missing")
    charges = np.array([[to_float(token) for token in row[2:]] for row in rows]).reshape(-1, 3, 3)
    return tuple(re.sub(r"[\d_-].*", "", row[1]) for row in rows), charges


def _seconds(words: str) -> float:
    """Seconds of e.g. ``1m21.53s``."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9.]+)\s*([dhms])", words))
