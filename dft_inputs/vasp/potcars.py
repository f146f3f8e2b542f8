"""POTCAR files of the user's own library: found as pymatgen finds them, known by the hash of their content.

Their content is licensed: it goes into the directories of runs alone, and never into a record.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..pseudopotentials import Pseudopotential, PseudopotentialError
from .settings import VaspSettings

_TITLE = re.compile(r"TITEL\s*=\s*(\S.*?)\s*$", re.MULTILINE)
_VALENCE = re.compile(r"ZVAL\s*=\s*([\d.]+)")
_ELEMENT = re.compile(r"^\S+\s+([A-Z][a-z]?)")
_HINT = "set codes.vasp.potcar_dir, or PMG_VASP_PSP_DIR as for pymatgen"


def find_potcars(
    library: str | Path | None, elements: Iterable[str], settings: VaspSettings
) -> dict[str, Pseudopotential]:
    """One checked POTCAR for each element, in their order; see ``VaspCode.potcar_dir`` for the library.

    Raises:
        PseudopotentialError: no library, no file, or one of another element; says what to do.
    """
    folder = potcar_library(library)
    if folder is None:
        raise PseudopotentialError(f"no library of POTCAR files: {_HINT}")
    return {element: _find(folder, element, settings) for element in dict.fromkeys(elements)}


def potcar_library(library: str | Path | None = None) -> Path | None:
    """The folder of the library, where there is one: the given one, or pymatgen's."""
    if library is None:
        from pymatgen.core import SETTINGS  # noqa: PLC0415  (slow to import)

        library = SETTINGS.get("PMG_VASP_PSP_DIR")
    return None if not library else Path(library).expanduser()


def potcar_content(potcars: Mapping[str, Pseudopotential]) -> bytes:
    """The POTCAR of a run: the files of its elements, in their order.

    Raises:
        PseudopotentialError: a file cannot be read any more.
    """
    return b"".join(_content(potcar.path) for potcar in potcars.values())


def _find(folder: Path, element: str, settings: VaspSettings) -> Pseudopotential:
    name = settings.potcars.get(element, element)
    if found := _file(folder, name):
        return _checked(found, element)
    of_functional = folder / _folder_of(settings.potcar_functional)
    if found := _file(of_functional, name):
        return _checked(found, element)
    raise PseudopotentialError(
        f"no POTCAR {name} for {element} ({settings.potcar_functional}): neither {name}/POTCAR nor POTCAR.{name} is in "
        f"{folder} or in {of_functional}, gzipped or not; {_HINT}"
    )


def _file(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{file}{suffix}" for file in (f"{name}/POTCAR", f"POTCAR.{name}") for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _checked(path: Path, element: str) -> Pseudopotential:
    content = _content(path)
    text = content.decode("utf-8", errors="replace")
    titles, valences = _TITLE.findall(text), _VALENCE.findall(text)
    if len(titles) != 1 or len(valences) != 1 or not (named := _ELEMENT.findall(titles[0])):
        raise PseudopotentialError(f"{path} is no POTCAR of a single element: it names {len(titles)} with TITEL")
    if named[0] != element:
        raise PseudopotentialError(f"{path} is the POTCAR of {named[0]} ({titles[0]}), not of {element}")
    digest = hashlib.sha256(content).hexdigest()
    return Pseudopotential(element=element, path=path, sha256=digest, z_valence=float(valences[0]), kind="PAW")


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise PseudopotentialError(f"cannot read the POTCAR {path}: {error}") from error


def _folder_of(functional: str) -> str:
    """Name that pymatgen gives the folder of a library."""
    from pymatgen.core import SETTINGS  # noqa: PLC0415  (slow to import)
    from pymatgen.io.vasp.inputs import PotcarSingle  # noqa: PLC0415

    return SETTINGS.get("PMG_VASP_PSP_SUB_DIRS", {}).get(functional, PotcarSingle.functional_dir[functional])
