"""The large files of pw.x: wavefunctions and density of a point, where they lie, how large they get, when they go."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

from ..errors import EngineError, Failure
from ..records import Frame
from ..units import BOHR_IN_ANGSTROM
from .code import PwCode
from .inputs import PREFIX, SCRATCH
from .settings import PwSettings

_BYTES = 16
"""Of a complex number."""
_SETS = 4
"""Sets of wavefunctions a point in a field writes: collected at the end, its own while at work, and two of the field
operator."""
_SAFETY = 1.2


def make_scratch(directory: Path, scratch_dir: str | None) -> Path:
    """An empty scratch folder for a point; on a disk of its own it is linked, so that inputs stay the same.

    Args:
        directory: of the point.
        scratch_dir: fast local disk, or None.
    """
    drop_scratch(directory)
    place = directory / SCRATCH
    if scratch_dir is None:
        place.mkdir(parents=True)
        return place
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    target = Path(scratch_dir).expanduser() / f"fieldloop-{name}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    directory.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target.resolve())
    return place


def has_scratch(directory: Path) -> bool:
    """Wavefunctions and density of a finished point are still there to start from."""
    save = directory / SCRATCH / f"{PREFIX}.save"
    return any(save.glob("charge-density.*")) and any(save.glob("wfc*"))


def has_restart(directory: Path, ranks: int) -> bool:
    """Density and wavefunctions that a cleanly stopped pw.x of as many ranks left to go on from."""
    scratch = directory / SCRATCH
    buffers = [file for file in scratch.glob(f"{PREFIX}.wfc*") if file.stat().st_size]
    return any((scratch / f"{PREFIX}.save").glob("charge-density.*")) and len(buffers) == ranks


def drop_scratch(directory: Path) -> None:
    """Remove the large files of a point; its input, outputs and phases stay."""
    place = directory / SCRATCH
    if place.is_symlink():
        shutil.rmtree(place.resolve(), ignore_errors=True)
        place.unlink(missing_ok=True)
    else:
        shutil.rmtree(place, ignore_errors=True)


def scratch_bytes(frame: Frame, settings: PwSettings, electrons: float, points: int = 1) -> float:
    """Estimated bytes of field points: k-points x bands x plane waves x 16 x sets of wavefunctions, and the density.

    The number of plane waves within the cutoff is V k^3 / (6 pi^2) with k^2 = ecutwfc in Ry per bohr^2.

    Args:
        frame: the geometry.
        settings: level of theory, with the mesh of this cell.
        electrons: valence electrons of the cell.
        points: how many field points keep their files at a time.
    """
    volume = frame.volume / BOHR_IN_ANGSTROM**3
    waves = volume * settings.ecutwfc**1.5 / (6 * math.pi**2)
    density = volume * (settings.ecutrho or 4 * settings.ecutwfc) ** 1.5 / (6 * math.pi**2)
    # Two electrons fill a band, or one band of each spin.
    bands = math.ceil(electrons / 2) * settings.nspin
    return points * _SAFETY * _BYTES * (_SETS * math.prod(settings.mesh) * bands * waves + 4 * density)


def require_space(needed: float, code: PwCode, directory: Path) -> None:
    """Refuse a label whose wavefunctions would not fit, before anything is run.

    Args:
        needed: estimated bytes, from ``scratch_bytes``.
        code: with its quota and its scratch disk.
        directory: of the label.

    Raises:
        EngineError: over the quota or the free space.
    """
    estimate = f"this label needs about {needed / 1e9:.2g} GB of scratch files"
    if code.scratch_quota is not None and needed > code.scratch_quota:
        quota = f"codes.pw.scratch_quota ({code.scratch_quota / 1e9:.2g} GB)"
        raise EngineError(f"{estimate}, more than {quota}: raise it, or lower kpoints or ecutwfc", Failure.DISK)
    place = Path(code.scratch_dir).expanduser() if code.scratch_dir else directory
    existing = next(folder for folder in (place, *place.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise EngineError(
            f"{estimate} and {place} has {free / 1e9:.2g} GB free: "
            "make room, or set codes.pw.scratch_dir to a larger disk",
            Failure.DISK,
        )
