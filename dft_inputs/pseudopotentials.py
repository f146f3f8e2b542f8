"""Pseudopotential files: which one an element gets, what its header says, and its hash.

Read are UPF version 1 and 2 and the Goedecker files (``.gth``, ABINIT pspcod 10) that pw.x takes. Files are known by
content (SHA-256): a label does not depend on where a file lies.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict

SUFFIXES = (".upf", ".gth")
_KINDS: dict[str, Literal["NC", "US", "PAW"]] = {"NC": "NC", "SL": "NC", "US": "US", "USPP": "US", "PAW": "PAW"}
_FUNCTIONALS = {"SLA PZ": "PZ", "SLA PW": "PW", "SLA PW PBX PBC": "PBE", "SLA PW PBE PBE": "PBE",
                "SLA PW PSX PSC": "PBESOL"}  # fmt: skip
_GTH_FUNCTIONALS = {1: "PZ", 11: "PBE"}


class PseudopotentialError(ValueError):
    """An element has no usable pseudopotential; the message says what to do."""


class Pseudopotential(BaseModel):
    """One file.

    Attributes:
        element: chemical symbol, from inside the file.
        path: where it lies here; it never enters a hash.
        sha256: hash of its content.
        z_valence: electrons it leaves to the calculation.
        functional: short name (``PZ``, ``PBE``) or the file's own words; None where the file does not say.
        kind: norm-conserving (``NC``), ultrasoft (``US``) or ``PAW``; None where the file does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    element: str
    path: Path
    sha256: str
    z_valence: float
    functional: str | None = None
    kind: Literal["NC", "US", "PAW"] | None = None


def read_pseudopotential(path: Path) -> Pseudopotential:
    """Read the header of a UPF or ``.gth`` file.

    Raises:
        PseudopotentialError: the file is missing, or its header cannot be understood.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PseudopotentialError(f"cannot read the pseudopotential {path}: {error.strerror}") from error
    text = content.decode("utf-8", errors="replace")
    try:
        header = _gth_header(text) if path.suffix.lower() == ".gth" else _upf_header(text)
    except (ValueError, IndexError, KeyError) as error:
        raise PseudopotentialError(f"{path} is no readable UPF or .gth file; replace it") from error
    return Pseudopotential(path=path, sha256=hashlib.sha256(content).hexdigest(), **header)


def find_pseudopotentials(
    directory: Path | str, elements: Iterable[str], names: Mapping[str, str] | None = None
) -> dict[str, Pseudopotential]:
    """Choose one norm-conserving file for each element.

    Args:
        directory: folder with the files.
        elements: chemical symbols, repeats allowed.
        names: file name by element, where the choice is not obvious.

    Returns:
        By element, in alphabetical order.

    Raises:
        PseudopotentialError: no file, several files, a wrong element inside, ultrasoft or PAW, mixed functionals.
    """
    folder, names = Path(directory).expanduser(), names or {}
    if not folder.is_dir():
        raise PseudopotentialError(f"the pseudopotential folder {folder} does not exist; set pseudo_dir")
    chosen = {element: _choose(folder, element, names.get(element)) for element in sorted(set(elements))}
    functionals = {p.functional for p in chosen.values() if p.functional}
    if len(functionals) > 1:
        listed = ", ".join(f"{p.path.name} ({p.functional})" for p in chosen.values())
        raise PseudopotentialError(f"pseudopotentials of different functionals: {listed}; choose one family")
    return chosen


def _choose(folder: Path, element: str, name: str | None) -> Pseudopotential:
    if name is not None:
        return _accepted(read_pseudopotential(folder / name), element)
    pattern = re.compile(rf"{element}(?![a-z])", re.IGNORECASE if len(element) > 1 else 0)
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in SUFFIXES and pattern.match(f.name)]
    if not files:
        raise PseudopotentialError(f"no pseudopotential for {element} in {folder}; put a {element}*.upf or .gth there")
    found = [read_pseudopotential(f) for f in files]
    usable = [p for p in found if p.kind in ("NC", None)] or found
    if len(usable) > 1:
        listed = ", ".join(p.path.name for p in usable)
        raise PseudopotentialError(f"several pseudopotentials for {element} in {folder}: {listed}; name one of them")
    return _accepted(usable[0], element)


def _accepted(found: Pseudopotential, element: str) -> Pseudopotential:
    if found.element != element:
        raise PseudopotentialError(f"{found.path} is for {found.element}, not {element}; name another file")
    if found.kind not in ("NC", None):
        # pw.x itself runs such a file in a field without complaint, so nobody else would say so.
        kind = "ultrasoft" if found.kind == "US" else "PAW"
        raise PseudopotentialError(
            f"{found.path} is {kind}; labels in a field need norm-conserving files: name one for {element}"
        )
    return found


def _upf_header(text: str) -> dict:
    """Element, valence, functional and kind from ``<PP_HEADER>``, of version 2 (attributes) or 1 (lines)."""
    start = text.index("<PP_HEADER")
    head = text[start : start + 5000]
    tag = head[: head.index(">") + 1]
    if "=" not in tag:
        lines = head.splitlines()[1:]
        element, kind, functional, valence = (lines[i] for i in (1, 2, 4, 5))
        functional = functional.partition("Exchange")[0]
        return _header(element.split()[0], float(valence.split()[0]), functional, kind.split()[0])
    fields = {key.lower(): value for key, _, value in re.findall(r"([\w.]+)\s*=\s*(['\"])(.*?)\2", tag, re.DOTALL)}
    return _header(fields["element"], float(fields["z_valence"]), fields.get("functional", ""), fields["pseudo_type"])


def _header(element: str, valence: float, functional: str, kind: str) -> dict:
    if element.strip() not in chemical_symbols:
        raise ValueError(element)
    words = functional.upper().replace("-", " ").replace("+", " ").split()
    name = " ".join(w for w in words[:4] if w not in ("NOGX", "NOGC"))
    return {
        "element": element.strip(),
        "z_valence": valence,
        "functional": _FUNCTIONALS.get(name, name) or None,
        "kind": _KINDS.get(kind.strip().upper()),
    }


def _gth_header(text: str) -> dict:
    """Lines 2 and 3: ``zatom zion pspdat`` and ``pspcod pspxc ...``; these files are norm-conserving by make."""
    lines = text.splitlines()
    z_atom, z_ion = lines[1].split()[:2]
    code, functional = (int(word) for word in lines[2].split()[:2])
    if code != 10:
        raise ValueError(f"pspcod {code}")
    return {
        "element": chemical_symbols[round(float(z_atom))],
        "z_valence": float(z_ion),
        "functional": _GTH_FUNCTIONALS.get(functional, f"ABINIT {functional}"),
        "kind": "NC",
    }
