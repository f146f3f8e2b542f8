"""Named levels of theory: of pw.x one YAML file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MESH = ("kpoints", "kpoint_density")


def with_overrides(name: str, settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a protocol with single ones replaced; a mesh of either kind takes the place of the protocol's.

    Args:
        name: of the protocol.
        settings: its own.
        overrides: what replaces them.
    """
    left_out = _MESH if overrides.keys() & set(_MESH) else ()
    return {"protocol": name, **{key: value for key, value in settings.items() if key not in left_out}, **overrides}
