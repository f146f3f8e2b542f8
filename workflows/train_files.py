"""Training outside of a campaign: labels from a store or a file, settings from YAML, everything else in one folder.

The folder holds the model, the learning curve, the frames and the report. The same request finds its training there and
goes on with it; another one is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from ..dft_inputs.consistency import MixedLabelsError, check_one_level
from ..dft_inputs.files import write_atomically
from ..dft_inputs.formats import read_labels_or_stop, write_extxyz
from ..dft_inputs.records import LabelledFrame
from ..dft_inputs.verification import verify
from ..model.checks import check_frames
from ..model.settings import NetworkConfig, TrainingSettings
from .campaign import STORE_FILE, locate_store, read_store
from .config import ConfigError, Section, UniqueKeySafeLoader, first_error
from .data_import import MOST_COMPARED
from .keys import content_key
from .queries import query_labels
from .query import EVERYTHING, Query
from .records import TrainedModel
from .store_queries import filter_applies

MODEL, CHECKPOINT, RECORD, REQUEST = "model", "checkpoint.pt", "training.json", "request.json"
TRAINING_FRAMES, VALIDATION_FRAMES = "training.extxyz", "validation.extxyz"
_STORES = (".yaml", ".yml", ".sqlite")


class TrainSection(Section):
    """What is trained and how: the file of ``--settings``.

    Attributes:
        network: architecture (species are taken from the frames).
        reference_charges: oxidation number of each element, e.
        training: how.
        seed: of the weights and of the order of frames.
    """

    network: dict[str, Any] = Field(default_factory=dict)
    reference_charges: dict[str, int] = Field(default_factory=dict)
    training: TrainingSettings = TrainingSettings()
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Source:
    """Where labelled frames come from.

    Attributes:
        path: a store, a campaign's file or folder, or a file of labels.
        convention: of a file of labels, whose format is known from its name.
        query: which of them.
    """

    path: Path
    convention: str | None = None
    query: Query = EVERYTHING


@dataclass(frozen=True)
class TrainRequest:
    """What the user asks for.

    Attributes:
        source: of the frames.
        out: the folder.
        section: network and training.
        validation: ``every N``, a file like that of the source, or ``label_id`` or ``frame_id`` with commas.
        start: folder of a model to go on from; its network is kept.
        replay: frames of an earlier training set; by default those beside the model to go on from.
        verified: whether physics must not contradict the labels.
    """

    source: Source
    out: Path
    section: TrainSection = field(default_factory=TrainSection)
    validation: str = "every 5"
    start: Path | None = None
    replay: Source | None = None
    verified: bool = True


@dataclass(frozen=True)
class PreparedTraining:
    """A request whose frames were read and checked; nothing has been trained.

    Attributes:
        request: as given.
        training, validation, replay: the frames.
        left_out: frames that failed or are flagged.
        network: the architecture.
        start_model_id: of the model to go on from.
        key: content key of what is to be trained.
    """

    request: TrainRequest
    training: tuple[LabelledFrame, ...]
    validation: tuple[LabelledFrame, ...]
    replay: tuple[LabelledFrame, ...]
    left_out: int
    network: NetworkConfig
    start_model_id: str | None
    key: str

    def finished(self) -> TrainedModel | None:
        """The record of this training where it was done before.

        Raises:
            ConfigError: the folder holds another training, or damaged files.
        """
        out = self.request.out
        kept, record = out / REQUEST, out / RECORD
        try:
            key = json.loads(kept.read_text())["key"] if kept.is_file() else self.key
            done = TrainedModel.model_validate_json(record.read_text()) if record.is_file() else None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{out} holds a damaged {REQUEST} or {RECORD}: name another folder") from error
        if key != self.key:
            raise ConfigError(f"{out} holds a training of other frames or settings: name another folder")
        return done


def read_section(path: Path | None, changes: Sequence[str] = ()) -> TrainSection:
    """Network and training from a settings file or a campaign file, then ``key.key=value`` changes.

    Raises:
        ConfigError: a file that cannot be read, unknown keys, wrong values; one line with the place.
    """
    data: Any = {}
    if path is not None:
        data = read_mapping(path, "network and training")
        if "structure" in data:
            committee = data.get("committee") or {}
            if not isinstance(committee, dict):
                raise ConfigError(f"{path}: committee must hold a mapping with keys such as network and training")
            found = {key: committee[key] for key in ("network", "training", "seed") if key in committee}
            data = found | {"reference_charges": data.get("reference_charges") or {}}
    for change in changes:
        set_key(data, change, "training.epochs=100")
    try:
        return TrainSection(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{path or '--set'}: {first_error(error)}") from error


def read_mapping(path: Path, keys: str) -> dict[str, Any]:
    """A settings file as it stands; an empty one is an empty mapping.

    Args:
        path: YAML.
        keys: some that it may hold, for the message.

    Raises:
        ConfigError: a file that cannot be read, or no mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), UniqueKeySafeLoader) or {}  # noqa: S506  (a SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping with keys such as {keys}")
    return data


def set_key(data: dict[str, Any], change: str, example: str) -> None:
    """Make one change ``section.key=value``, the value in YAML.

    Raises:
        ConfigError: no such change; the message shows the example.
    """
    key, separator, value = change.partition("=")
    *sections, last = key.strip().split(".")
    if not separator or not last:
        raise ConfigError(f"--set {change}: write e.g. {example}")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {change}: {section} is no section")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change}: {value} is no YAML value") from error


def prepare_training(request: TrainRequest) -> PreparedTraining:
    """Read, verify, split and check the frames.

    Raises:
        ConfigError: a source, a split or a network that cannot work, or labels that physics contradicts.
        ConventionError, StoreError: see the readers.
        TrainingDataError: frames that cannot be trained on.
    """
    if request.out.exists() and not request.out.is_dir():
        raise ConfigError(f"{request.out} is a file: name a folder")
    frames = list(_read(request.source))
    usable = [label for label in frames if label.trainable]
    if not usable:
        raise ConfigError(f"{request.source.path}: none of {len(frames)} frames can be trained on")
    training, validation = _split(usable, request)
    wanted = _replayed(request) if request.section.training.replay else ()
    replay = tuple(label for label in wanted if label.trainable)
    held_out = {label.frame.frame_id for label in validation}
    replay = tuple(label for label in replay if label.frame.frame_id not in held_out)
    if not validation:
        raise ConfigError(f"the validation set is empty: --validation {request.validation!r} names no frame")
    if request.verified:
        _verify(usable, request.source.path)
    try:
        check_one_level([*training, *validation])
    except MixedLabelsError as error:
        raise ConfigError(str(error)) from error
    try:
        check_one_level([*training[:1], *replay])
    except MixedLabelsError as error:
        raise ConfigError(f"frames to replay: {error}: --set training.replay=0 trains without them") from error
    network, start_model_id = _network(request, [*training, *replay])
    for part, what in ((training, "training"), (validation, "validation"), (replay, "replay")):
        if part or what != "replay":
            check_frames(part, what, network.species, network.reference_charges)
    key = content_key(
        [label.label_id for label in training],
        [label.label_id for label in validation],
        [label.label_id for label in replay],
        network,
        request.section.training.identity(),
        request.section.seed,
        start_model_id,
    )
    left_out = len(frames) - len(usable)
    return PreparedTraining(request, training, validation, replay, left_out, network, start_model_id, key)


def run_training(prepared: PreparedTraining, progress: Any = None) -> TrainedModel:
    """Train, or go on with it, and leave model, curve, frames and report in the folder.

    Args:
        prepared: from ``prepare_training``.
        progress: called after every epoch with its record; must pickle where there are several devices.

    Raises:
        RootInUse: another process trains in this folder.
        ConfigError: the folder holds another training.
    """
    from ..model.files import load_model, read_label_range, save_model  # noqa: PLC0415  (torch is imported where one trains)
    from ..model.label_range import label_range  # noqa: PLC0415
    from ..model.training import initial_network, train  # noqa: PLC0415
    from .report.training import write_training_report  # noqa: PLC0415
    from .root_lock import root_lock  # noqa: PLC0415

    request, out = prepared.request, prepared.request.out
    with root_lock(out):
        if (done := prepared.finished()) is not None:
            return done
        described = f'{{"key": "{prepared.key}", "settings": {request.section.model_dump_json()}}}\n'
        write_atomically(out / REQUEST, described)
        write_extxyz(out / TRAINING_FRAMES, [*prepared.training, *prepared.replay], "fieldloop")
        write_extxyz(out / VALIDATION_FRAMES, prepared.validation, "fieldloop")
        seed, labels = request.section.seed, request.section.training.tolerances.used()
        model = (
            load_model(request.start)
            if request.start
            else initial_network(prepared.network, prepared.training, seed, labels)
        )
        result = train(
            model,
            prepared.training,
            prepared.validation,
            request.section.training,
            seed=seed,
            replay=prepared.replay,
            checkpoint=out / CHECKPOINT,
            progress=progress,
        )
        reach = label_range([*prepared.training, *prepared.replay])
        record = TrainedModel(
            model_id=save_model(
                result.model, out / MODEL, reach.joined(read_label_range(request.start) if request.start else None)
            ),
            directory=MODEL,
            generation=0,
            member=0,
            start_model_id=prepared.start_model_id,
            training_ids=tuple(label.label_id for label in prepared.training),
            validation_ids=tuple(label.label_id for label in prepared.validation),
            training=result.training,
            validation=result.validation,
            curve=result.curve,
            seconds=result.seconds,
        )
        write_training_report(prepared, record, result.model)
        write_atomically(out / RECORD, record.model_dump_json(indent=1) + "\n")
        (out / CHECKPOINT).unlink(missing_ok=True)
    return record


def _read(source: Source) -> Iterator[LabelledFrame]:
    if source.path.suffix in _STORES or (source.path / STORE_FILE).is_file():
        found = query_labels(read_store(locate_store(source.path)), source.query)
        # In the order of time, not of the store: neighbours are compared, and every n-th validates.
        yield from sorted(found, key=lambda label: (label.proposal.generation, label.label_id))
        return
    if source.convention is None:
        raise ConfigError(f"{source.path} is no store: say whose names, units and signs it has with --convention")
    criteria = source.query.criteria()
    for label in read_labels_or_stop(source.path, source.convention):
        output = label.model_dump(mode="json", exclude={"field_points", "lower_orders"}) | {"@class": "LabelledFrame"}
        if filter_applies(criteria, {"output": output}) and source.query.accepts(output):
            yield label


def _split(
    frames: Sequence[LabelledFrame], request: TrainRequest
) -> tuple[tuple[LabelledFrame, ...], tuple[LabelledFrame, ...]]:
    """Training and validation frames."""
    wanted = request.validation.strip()
    if (every := re.fullmatch(r"every\s+(\d+)", wanted)) is not None:
        n = int(every[1])
        geometries = list(dict.fromkeys(label.frame.frame_id for label in frames))
        judged = set(geometries[n - 1 :: n]) if n > 1 else set()
        validation = tuple(label for label in frames if label.frame.frame_id in judged)
    elif wanted and os.path.exists(wanted):  # noqa: PTH110  (a Path raises where many ids make a name too long)
        source = Source(Path(wanted), request.source.convention)
        validation = tuple(label for label in _read(source) if label.trainable)
        judged = {label.frame.frame_id for label in validation}
    else:
        held_out = _named(frames, {name.strip() for name in wanted.split(",") if name.strip()})
        validation = tuple(label for label in frames if label.label_id in held_out)
        judged = {label.frame.frame_id for label in validation}
    # A geometry labelled at several fields is on one side.
    return tuple(label for label in frames if label.frame.frame_id not in judged), validation


def _named(frames: Iterable[LabelledFrame], names: set[str]) -> set[str]:
    chosen = {label.label_id: label for label in frames if {label.label_id, label.frame.frame_id} & names}
    known = {name for label in chosen.values() for name in (label.label_id, label.frame.frame_id)}
    if unknown := sorted(names - known):
        raise ConfigError(f"--validation: there is no file and no usable frame {unknown[0]!r}")
    return set(chosen)


def _replayed(request: TrainRequest) -> Iterator[LabelledFrame]:
    if request.replay is not None:
        yield from _read(request.replay)
    elif request.start is not None and (beside := request.start.parent / TRAINING_FRAMES).is_file():
        yield from _read(Source(beside, "fieldloop"))


def _verify(frames: Sequence[LabelledFrame], path: Path) -> None:
    verdicts = verify(frames[:MOST_COMPARED])
    faults = dict.fromkeys(verdict.fault for verdict in verdicts if verdict.outcome == "wrong")
    if faults:
        raise ConfigError(
            f"{path}: {'; '.join(faults)}: name another convention or mend the labels (--no-verify trains all the same)"
        )


def _network(request: TrainRequest, frames: Sequence[LabelledFrame]) -> tuple[NetworkConfig, str | None]:
    """The architecture, and the model it comes from."""
    if request.start is not None:
        from ..model.files import ModelFileError, load_model, model_id  # noqa: PLC0415  (torch is imported where one trains)

        if request.section.network or request.section.reference_charges:
            raise ConfigError("--start keeps the network of the model: leave network and reference_charges out")
        try:
            model = load_model(request.start)
        except ModelFileError as error:
            raise ConfigError(str(error)) from error
        return model.config, model_id(model)
    section = request.section
    species = tuple(sorted({symbol for label in frames for symbol in label.frame.species}))
    if unknown := section.reference_charges.keys() - set(species):
        raise ConfigError(f"reference_charges: no frame holds {', '.join(sorted(unknown))}")
    settings = {"species": species, "reference_charges": section.reference_charges}
    if known := settings.keys() & section.network.keys():
        raise ConfigError(f"network: {known.pop()} is known from elsewhere, leave it out")
    try:
        return NetworkConfig(**{**settings, **section.network}), None
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"network: {first_error(error)}") from error
