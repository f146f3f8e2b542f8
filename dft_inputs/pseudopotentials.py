"""Pseudopotential files: which one an element gets, what its header says, its hash and that of its family.

Read are UPF version 1 and 2, the Goedecker files (``.gth``, pspcod 10) that pw.x and ABINIT take, and ABINIT's own
``.psp8`` (ONCV) and ``.hgh``. Files are known by content (SHA-256): a label does not depend on where a file lies. A
family is one file for each element: those of a folder, or those that are named where the folder holds several.
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
"""Of the files that pw.x takes."""
_ABINIT_KINDS = {".hgh": 3, ".psp8": 8}
"""``pspcod`` of ABINIT's own files."""
_KINDS: dict[str, Literal["NC", "US", "PAW"]] = {"NC": "NC", "SL": "NC", "US": "US", "USPP": "US", "PAW": "PAW"}
_FUNCTIONALS = {"SLA PZ": "PZ", "SLA PW": "PW", "SLA PW PBX PBC": "PBE", "SLA PW PBE PBE": "PBE",
                "SLA PW PSX PSC": "PBESOL"}  # fmt: skip
_GTH_FUNCTIONALS = {1: "PZ", 7: "PW", 11: "PBE", 18: "BLYP", -101130: "PBE"}
"""``pspxc`` as pw.x 6.7 reads it; other codes stop it."""
_ABINIT_FUNCTIONALS = {**_GTH_FUNCTIONALS, 2: "PZ", -1012: "PW", -116133: "PBESOL"}
_RELATIVISTIC: dict[str, Literal["no", "scalar", "full"]] = {
    "no": "no", "non": "no", "scalar": "scalar", "full": "full", "fully": "full"
}  # fmt: skip


class PseudopotentialError(ValueError):
    """An element has no usable pseudopotential; the message says what to do."""


class _UnknownFunctional(Exception):
    """A Goedecker file of a functional that pw.x has no name for."""


class Pseudopotential(BaseModel):
    """One file.

    Attributes:
        element: chemical symbol, from inside the file.
        path: where it lies here; it never enters a hash.
        sha256: hash of its content.
        z_valence: electrons it leaves to the calculation.
        functional: short name (``PZ``, ``PBE``) or the file's own words; None where the file does not say.
        kind: norm-conserving (``NC``), ultrasoft (``US``) or ``PAW``; None where the file does not say.
        relativistic: the calculation of the free atom: ``no``, ``scalar`` or ``full``; None where not said.
        spin_orbit: it has projectors for j = l + 1/2 and l - 1/2, which need a noncollinear calculation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    element: str
    path: Path
    sha256: str
    z_valence: float
    functional: str | None = None
    kind: Literal["NC", "US", "PAW"] | None = None
    relativistic: Literal["no", "scalar", "full"] | None = None
    spin_orbit: bool = False

    @property
    def usable(self) -> bool:
        """Norm-conserving and without spin-orbit projectors, as labels in a field need it."""
        return self.kind in ("NC", None) and not self.spin_orbit


def read_pseudopotential(path: Path) -> Pseudopotential:
    """Read the header of a UPF, ``.gth``, ``.psp8`` or ``.hgh`` file.

    Raises:
        PseudopotentialError: the file is missing, or its header cannot be understood.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PseudopotentialError(f"cannot read the pseudopotential {path}: {error.strerror}") from error
    text, suffix = content.decode("utf-8", errors="replace"), path.suffix.lower()
    try:
        if suffix in _ABINIT_KINDS:
            header = _abinit_header(text, _ABINIT_KINDS[suffix])
        else:
            header = _gth_header(text) if suffix == ".gth" else _upf_header(text)
    except _UnknownFunctional as error:
        raise PseudopotentialError(f"{path} has pspxc {error}, which pw.x does not know; name another file") from error
    except (ValueError, IndexError, KeyError) as error:
        kind = suffix if suffix in _ABINIT_KINDS else "UPF or .gth"
        raise PseudopotentialError(f"{path} is no readable {kind} file; replace it") from error
    return Pseudopotential(path=path, sha256=hashlib.sha256(content).hexdigest(), **header)


def find_pseudopotentials(
    directory: Path | str,
    elements: Iterable[str],
    names: Mapping[str, str] | None = None,
    *,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> dict[str, Pseudopotential]:
    """Choose one norm-conserving file for each element.

    Args:
        directory: folder with the files.
        elements: chemical symbols, repeats allowed.
        names: file name by element, where the choice is not obvious.
        suffixes: of the files to choose among.

    Returns:
        By element, in alphabetical order.

    Raises:
        PseudopotentialError: no file, several different files, a wrong element inside, ultrasoft, PAW or spin-orbit,
            mixed functionals.
    """
    folder, names = Path(directory).expanduser(), names or {}
    if not folder.is_dir():
        raise PseudopotentialError(f"the pseudopotential folder {folder} does not exist; set pseudo_dir")
    chosen = {element: _choose(folder, element, names.get(element), suffixes) for element in sorted(set(elements))}
    functionals = {p.functional for p in chosen.values() if p.functional}
    if len(functionals) > 1:
        listed = ", ".join(f"{p.path.name} ({p.functional})" for p in chosen.values())
        raise PseudopotentialError(f"pseudopotentials of different functionals: {listed}; choose one family")
    return chosen


def family_hash(family: Mapping[str, Pseudopotential]) -> str:
    """Name of a family by content: hash over the elements and the SHA-256 of the file of each; no names, no paths."""
    rows = [f"{element} {file.sha256}" for element, file in sorted(family.items())]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _choose(folder: Path, element: str, name: str | None, suffixes: tuple[str, ...]) -> Pseudopotential:
    if name is not None:
        return _accepted(read_pseudopotential(folder / name), element)
    pattern = re.compile(rf"{element}(?![a-z])", re.IGNORECASE if len(element) > 1 else 0)
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in suffixes and pattern.match(f.name)]
    if not files:
        wanted = f"{element}*{' or '.join(suffixes)}"
        raise PseudopotentialError(f"no pseudopotential for {element} in {folder}; put a {wanted} there")
    # Copies of one file under two names are one file.
    found = list({p.sha256: p for p in (read_pseudopotential(f) for f in reversed(files))}.values())[::-1]
    usable = [p for p in found if p.usable] or found
    if len(usable) > 1:
        listed = ", ".join(f"{p.path.name} ({p.functional or 'unknown functional'})" for p in usable)
        raise PseudopotentialError(
            f"several pseudopotentials for {element} in {folder}: {listed}; name one of them in pseudopotentials"
        )
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
    if found.spin_orbit:
        raise PseudopotentialError(
            f"{found.path} is fully relativistic with spin-orbit projectors, which need a noncollinear calculation; "
            f"name a scalar-relativistic file for {element}"
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
        header = _header(element.split()[0], float(valence.split()[0]), functional, kind.split()[0])
        words = re.search(r"with a ([\w-]+)-Relativistic", text, re.IGNORECASE)
        relativistic = _RELATIVISTIC.get(words[1].lower()) if words else None
        return {**header, "relativistic": relativistic, "spin_orbit": "<PP_ADDINFO>" in text}
    fields = {key.lower(): value for key, _, value in re.findall(r"([\w.]+)\s*=\s*(['\"])(.*?)\2", tag, re.DOTALL)}
    header = _header(fields["element"], float(fields["z_valence"]), fields.get("functional", ""), fields["pseudo_type"])
    spin_orbit = fields.get("has_so", "").strip().strip(".").upper()[:1] == "T"
    return {**header, "relativistic": _RELATIVISTIC.get(fields.get("relativistic", "")), "spin_orbit": spin_orbit}


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
    if functional not in _GTH_FUNCTIONALS:
        raise _UnknownFunctional(functional)
    return {
        "element": chemical_symbols[round(float(z_atom))],
        "z_valence": float(z_ion),
        "functional": _GTH_FUNCTIONALS[functional],
        "kind": "NC",
    }


def _abinit_header(text: str, kind: int) -> dict:
    """Lines 2 and 3 as of ``.gth``; an ONCV file with spin-orbit projectors says so in line 6."""
    lines = text.splitlines()
    z_atom, z_ion = lines[1].split()[:2]
    code, functional = (int(word) for word in lines[2].split()[:2])
    if code != kind:
        raise ValueError(f"pspcod {code}")
    return {
        "element": chemical_symbols[round(float(z_atom))],
        "z_valence": float(z_ion),
        "functional": _ABINIT_FUNCTIONALS.get(functional, f"ixc {functional}"),
        "kind": "NC",
        "spin_orbit": kind == 8 and int(lines[5].split()[0]) >= 2,
    }
