"""Change single keys of a pw.x input, for what alters the way to convergence and not the converged numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMELIST = {
    "max_seconds": "CONTROL",
    "nberrycyc": "CONTROL",
    "diagonalization": "ELECTRONS",
    "electron_maxstep": "ELECTRONS",
    "mixing_beta": "ELECTRONS",
    "mixing_mode": "ELECTRONS",
    "startingpot": "ELECTRONS",
    "startingwfc": "ELECTRONS",
}
"""Where each key that may be changed stands."""


def with_keys(text: str, changes: Mapping[str, str | float]) -> str:
    """The input with these keys set.

    Args:
        text: as ASE writes it: one key a line, namelists in capitals.
        changes: new values by key.

    Raises:
        KeyError: a key that would change more than the way to convergence.
        ValueError: the input lacks the namelist of a key.
    """
    for key, value in changes.items():
        head = f"&{_NAMELIST[key]}\n"
        if head not in text:
            raise ValueError(f"the input has no namelist {head.strip()} for {key}")
        written = f"'{value}'" if isinstance(value, str) else f"{value:g}"
        text = re.sub(rf"(?m)^\s*{key}\s*=.*\n", "", text)
        text = text.replace(head, f"{head}   {key:<16} = {written}\n", 1)
    return text
