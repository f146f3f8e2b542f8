"""A campaign on disk: what its file asks for, checked before anything is paid for, and the store that keeps it.

The store is ``<directory>/fieldloop.sqlite``. It is tied to the project's name and level of theory, so that labels of
two protocols never mix.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from jobflow.core.flow import Flow
from jobflow.core.job import Job
from jobflow.core.store import JobStore

from ..active_learning.sampling.frames import Sampled
from ..active_learning.sampling.lammps_run import Progress
from ..dft_inputs.codes import DEFAULT_CODE
from ..dft_inputs.engine import Engine
from ..dft_inputs.pseudopotentials import PseudopotentialError
from ..dft_inputs.records import Frame
from .config import CampaignConfig, ConfigError, ProjectConfig, first_error, load_config
from .labelling import LabelMaker
from .loop import LoopMaker, label_maker
from .root_lock import LOCK_FILE
from .seeding import campaign_frames
from .store import SQLiteStore

STORE_FILE = "fieldloop.sqlite"
REPORT_FILE = "report.html"

_SEARCH_DEPTH = 4
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class PreparedLoop:
    """A campaign whose inputs were all checked; nothing has been run.

    Attributes:
        config: its file.
        parent: the crystal.
        first_frames: the first frames to label, the parent among them.
        maker: the loop.
        check: the job that refuses a metal or too strong a field; the flow holds it too.
        flow: its first jobs.
    """

    config: CampaignConfig
    parent: Frame
    first_frames: Sequence[Sampled]
    maker: LoopMaker
    check: Job
    flow: Flow


def prepare_loop(config: CampaignConfig, progress: Progress | None = None) -> PreparedLoop:
    """Check everything that can be checked without DFT, cheapest first, and make the first frames.

    With ``field_step: auto`` one SCF of the parent follows, whose gap gives the step; the check finds it again.

    Args:
        config: the campaign.
        progress: is told how much of the first frames is made, from 0 to 1.

    Raises:
        ConfigError: a structure, setting or unit that cannot work.
        ProgramNotFoundError, PseudopotentialError, SeedError: see there.
        CampaignError: the step follows from the gap, and there is none.
    """
    parent = read_parent(config)
    maker = LoopMaker.from_config(config, parent.species)
    maker = replace(maker, label=maker.label.for_parent(parent))
    check_label_inputs(maker.label, [parent])
    _check_neutral(config, parent)
    frames = campaign_frames(parent, config, progress)
    check_label_inputs(maker.label, [frame for frame, _ in frames])
    maker = replace(maker, label=maker.label.with_step(parent, config.directory))
    check = maker.label.make_check(parent, maker.explore.fields)
    return PreparedLoop(config, parent, frames, maker, check, maker.make(parent, frames))


def check_label_inputs(maker: LabelMaker, frames: Iterable[Frame]) -> None:
    """Can these frames be labelled here, as far as can be told without running DFT?

    Raises:
        ProgramNotFoundError: the code is missing.
        PseudopotentialError: an element without a usable file.
        ConfigError: a mesh, a field step or a cell that the code cannot do.
    """
    for frame in frames:
        try:
            engine = maker.engine(frame)
        except ValueError as error:
            raise ConfigError(f"label.settings.kpoints: {error}") from error
        if maker.step is not None:
            _check_step(maker, engine)
        try:
            engine.check(frame)
        except PseudopotentialError:
            raise
        except ValueError as error:
            raise ConfigError(f"{frame.formula}: {error}") from error


def _check_step(maker: LabelMaker, engine: Engine) -> None:
    try:
        step = maker.stencil.step
    except ValueError as error:
        raise ConfigError(f"label.field_step: {error}") from error
    if step < engine.smallest_field:
        smallest = f"{engine.smallest_field:.2e} V/A"
        raise ConfigError(f"label.field_step: {engine.name} ignores fields below {smallest}, got {step:.2e}")


def _check_neutral(config: CampaignConfig, parent: Frame) -> None:
    if charge := sum(config.reference_charges.get(symbol, 0) for symbol in parent.species):
        raise ConfigError(f"reference_charges: {parent.formula} has the charge {charge:+d}, and must be neutral")


def read_parent(config: ProjectConfig) -> Frame:
    """The parent crystal of a campaign or another project file.

    Raises:
        ConfigError: see ``read_frames``; also for a file with several structures.
    """
    frames = read_frames(config.structure)
    if len(frames) > 1:
        raise ConfigError(f"structure: {config.structure} holds {len(frames)} structures, a campaign starts from one")
    return frames[0]


def read_frames(path: Path) -> list[Frame]:
    """All structures of a file, in any format that ASE reads.

    Raises:
        ConfigError: a file that cannot be read, holds nothing, or is not periodic in three directions.
    """
    if not path.is_file():
        raise ConfigError(f"there is no structure file {path}")
    try:
        from ase.io import read  # noqa: PLC0415  (slow, and not needed where a campaign is only looked at)

        images = cast(Sequence[Any], read(path, index=":"))
        frames = [Frame.from_atoms(atoms) for atoms in images]
    except Exception as error:  # ASE's readers raise whatever they stumble over
        reason = first_error(error) or "not in a format that ASE recognizes"
        raise ConfigError(f"cannot read the structure {path}: {type(error).__name__}: {reason}") from error
    if not frames:
        raise ConfigError(f"there is no structure in {path}")
    for frame in frames:
        if not all(frame.pbc) or frame.volume < 1e-6:
            raise ConfigError(f"{path}: labels need a crystal with a cell periodic in three directions")
    return frames


def identity(config: CampaignConfig) -> dict[str, Any]:
    """What must never change under the labels of a store: name, code, settings, stencil, pseudopotentials by content.

    Raises:
        ConfigError, PseudopotentialError: settings or a structure that cannot be read.
    """
    maker, parent = label_maker(config), read_parent(config)
    engine = maker.engine(parent)
    files = engine.pseudopotentials(parent.species)
    return {
        "name": config.name,
        # Stores of the default code were made before there was another, and do not say so.
        **({} if engine.name == DEFAULT_CODE else {"code": engine.name}),
        **engine.settings.identity(),
        "field_step": maker.step or "auto",
        "order": maker.order,
        **{f"pseudopotential of {element}": sha256[:12] for element, sha256 in files.items()},
    }


def open_store(config: CampaignConfig, *, bind: bool = True) -> JobStore:
    """The connected store of a campaign for writing, created where it is missing.

    Args:
        config: the campaign.
        bind: tie a new store to the campaign now. A driver calls ``bind_store`` once its crystal has passed the
            check, so that a refused campaign can be corrected and started again.

    Raises:
        StoreError: the store is damaged, or belongs to another project or protocol.
        ConfigError, PseudopotentialError: see ``identity``.
    """
    documents = SQLiteStore(config.directory / STORE_FILE)
    store = JobStore(documents)
    store.connect()
    if bind or documents.project_identity:
        bind_store(store, config)
    return store


def bind_store(store: JobStore, config: CampaignConfig) -> None:
    """Tie a store to a campaign, or make sure that it is tied to this one.

    Raises:
        StoreError: it belongs to another project or protocol.
    """
    cast(SQLiteStore, store.docs_store).bind_project(identity(config))


def read_store(path: Path) -> JobStore:
    """The connected store in a file, for reading only.

    Args:
        path: ``fieldloop.sqlite`` in the directory of a campaign.

    Raises:
        ConfigError: there is none yet.
        StoreError: not a store of fieldloop, or damaged.
    """
    if not path.is_file():
        raise ConfigError(f"there is no store at {path} yet: start with `fieldloop loop` or `fieldloop label`")
    store = JobStore(SQLiteStore(path, read_only=True))
    store.connect()
    return store


def locate_store(where: Path | None) -> Path:
    """The store file that a user means.

    Args:
        where: a campaign file, a campaign's directory or a store; None for the only campaign below the current
            directory.

    Raises:
        ConfigError: none, or more than one to choose from.
    """
    if where is None:
        return _only_store(Path.cwd())
    if where.suffix in _YAML:
        return load_config(where).directory / STORE_FILE
    return where / STORE_FILE if where.is_dir() else where


def _only_store(folder: Path) -> Path:
    found = sorted(find_stores(folder))
    if not found:
        raise ConfigError(f"no campaign found below {folder}: name its YAML file or its {STORE_FILE}")
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        raise ConfigError(f"several campaigns found, name one: {listed}")
    return found[0]


def find_stores(folder: Path, depth: int = _SEARCH_DEPTH) -> Iterator[Path]:
    """Stores in a folder and below it, hidden folders left out, down to a small depth."""
    if (folder / STORE_FILE).is_file():
        yield folder / STORE_FILE
    elif depth:
        try:
            children = [entry for entry in folder.iterdir() if entry.name[0] != "." and not entry.is_symlink()]
        except PermissionError:
            return
        for child in children:
            if child.is_dir():
                yield from find_stores(child, depth - 1)


def driver_of(root: Path) -> str | None:
    """Who runs a flow in this root now, as ``<pid> on <host>``; None where nobody does."""
    try:
        with (root / LOCK_FILE).open() as file:
            holder = file.read().strip()
            # Looked at first, so that the lock itself is hardly ever touched.
            if not holder or _is_gone(holder):
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return holder
    except OSError:
        return None
    return None


def _is_gone(holder: str) -> bool:
    pid, _, host = holder.partition(" on ")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
