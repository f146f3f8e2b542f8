"""The DFT codes that labels can be made with, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from .abinit import AbinitCode, AbinitEngine, AbinitSettings
from .engine import Engine, LevelOfTheory
from .espresso import PwCode, PwEngine, PwSettings
from .program import Program
from .vasp.code import VaspCode
from .vasp.engine import VaspEngine
from .vasp.settings import VaspSettings


class Kind(NamedTuple):
    """A code: its settings, how it is run, and the engine that the two make."""

    settings: type[LevelOfTheory]
    program: type[Program]
    engine: type[Engine]


DEFAULT_CODE = "pw.x"
"""Of campaigns that name none."""
CODES = {
    "pw.x": Kind(PwSettings, PwCode, PwEngine),
    "abinit": Kind(AbinitSettings, AbinitCode, AbinitEngine),
    "vasp": Kind(VaspSettings, VaspCode, VaspEngine),
}
"""By the name in a campaign file and in the provenance of a label."""


def settings_from_protocol(code: str, protocol: str, **overrides: Any) -> LevelOfTheory:
    """A named level of theory of a code, with single settings replaced.

    Args:
        code: its name.
        protocol: of the level of theory.
        overrides: settings.

    Raises:
        ValueError: unknown protocol, unknown or invalid setting.
    """
    return CODES[code].settings.from_protocol(protocol, **overrides)


def kind_of(settings: LevelOfTheory) -> Kind:
    """The code that these settings are for; raises as ``name_of``."""
    return CODES[name_of(settings)]


def name_of(settings: LevelOfTheory) -> str:
    """The name of the code that these settings are for.

    Raises:
        ValueError: none.
    """
    for name, kind in CODES.items():
        if isinstance(settings, kind.settings):
            return name
    raise ValueError(f"{type(settings).__name__} is no level of theory of {', '.join(CODES)}")


def engine_for(settings: LevelOfTheory, code: Program) -> Engine:
    """The engine of these settings.

    Args:
        settings: the level of theory.
        code: how the program is run here.

    Raises:
        ValueError: the two are of different codes.
    """
    kind = kind_of(settings)
    if not isinstance(code, kind.program):
        wanted = kind.program.__name__
        article = "an" if wanted.startswith("A") else "a"
        raise ValueError(f"{type(settings).__name__} cannot be run by {code.program}: give {article} {wanted}")
    return kind.engine(settings, code)  # pyright: ignore[reportCallIssue]  (every engine is made of these two)
