"""Numbers and elements out of text and XML, strictly: what is damaged raises ``ValueError`` or ``KeyError``."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np

NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[EeDd][-+]?[0-9]+)?"
"""A number as Fortran writes it."""
_TOKEN = re.compile(NUMBER)


def to_float(token: str) -> float:
    """A number as Fortran writes it, and nothing else that Python would take for one.

    Raises:
        ValueError: anything else.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{token!r} is no number")
    return float(token.upper().replace("D", "E"))


def element(root: ET.Element, path: str) -> ET.Element:
    """The element at a path.

    Raises:
        KeyError: there is none.
    """
    found = root.find(path)
    if found is None:
        raise KeyError(path)
    return found


def value(root: ET.Element, path: str) -> str:
    """Text of the element at a path, without blanks around it; raises as ``element``."""
    return (element(root, path).text or "").strip()


def number(root: ET.Element, path: str) -> float:
    """The number at a path; raises as ``element`` and ``to_float``."""
    return to_float(value(root, path))


def numbers(source: ET.Element) -> np.ndarray:
    """All numbers in the text of an element, (n,); raises as ``to_float``."""
    return np.array([to_float(token) for token in (source.text or "").split()])
