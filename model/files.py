"""Model files: weights as safetensors, everything else as JSON. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..dft_inputs.files import write_atomically
from .label_range import LabelRange
from .network import EnthalpyNetwork
from .settings import NetworkConfig

FORMAT_VERSION = 1
_WEIGHTS, _CONFIG = "weights.safetensors", "config.json"


class ModelFileError(ValueError):
    """A model directory that cannot be read or must not be trusted."""


def save_model(model: EnthalpyNetwork, directory: Path, labels: LabelRange | None = None) -> str:
    """Write a model and return its ``model_id``, the hash of weights and architecture.

    Args:
        model: the network.
        directory: of its files.
        labels: range of the labels it was trained on, where it is known; no part of the id.
    """
    directory.mkdir(parents=True, exist_ok=True)
    blob = save(_tensors(model))
    digest = hashlib.sha256(blob).hexdigest()
    config = {
        "format_version": FORMAT_VERSION,
        "network": model.config.model_dump(mode="json"),
        "weights_sha256": digest,
        "model_id": model_id(model),
    }
    if labels is not None:
        config["labels"] = labels.model_dump(mode="json")
    write_atomically(directory / _WEIGHTS, blob)
    write_atomically(directory / _CONFIG, json.dumps(config, indent=1))
    return config["model_id"]


def load_model(directory: Path | str) -> EnthalpyNetwork:
    """Read a model written by ``save_model``, onto the CPU.

    Args:
        directory: of its files.

    Raises:
        ModelFileError: files missing, of a newer format, or with weights that are not those of the config.
    """
    return read_model(*model_bytes(directory), place=str(directory))


def model_bytes(directory: Path | str) -> tuple[bytes, bytes]:
    """The two files of a model as they are: config and weights.

    Raises:
        ModelFileError: files missing.
    """
    try:
        return (Path(directory) / _CONFIG).read_bytes(), (Path(directory) / _WEIGHTS).read_bytes()
    except OSError as error:
        raise ModelFileError(f"no readable model in {directory}: {error}") from error


def read_model(config: bytes, weights: bytes, place: str) -> EnthalpyNetwork:
    """A model from the bytes of its files.

    Args:
        config, weights: as of ``model_bytes``.
        place: where they are from, for errors.

    Raises:
        ModelFileError: as of ``load_model``.
    """
    try:
        found = json.loads(config)
    except ValueError as error:
        raise ModelFileError(f"no readable model in {place}: {error}") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"no readable model in {place}: {_CONFIG} is no mapping")
    if found.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{place} has model format {found.get('format_version')}, this version reads {FORMAT_VERSION}: "
            "update fieldloop"
        )
    if hashlib.sha256(weights).hexdigest() != found.get("weights_sha256"):
        raise ModelFileError(f"{place}/{_WEIGHTS} is not the file its config was written for: restore both")
    try:
        network = NetworkConfig(**found["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{place}/{_CONFIG} was changed after it was written: restore it") from error
    model = EnthalpyNetwork(network)
    try:
        model.load_state_dict(load(weights))
    except RuntimeError as error:
        raise ModelFileError(f"{place}: weights do not fit the architecture: {str(error).splitlines()[0]}") from error
    if model_id(model) != found.get("model_id"):
        raise ModelFileError(f"{place}/{_CONFIG} was changed after it was written: restore it")
    return model


def read_label_range(directory: Path | str) -> LabelRange | None:
    """The range of the labels that a model was trained on; None where its files do not say.

    Args:
        directory: of the model.

    Raises:
        ModelFileError: no readable config.
    """
    path = Path(directory) / _CONFIG
    try:
        found = json.loads(path.read_text()).get("labels")
        return None if found is None else LabelRange(**found)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(f"no readable model in {directory}: {error}") from error


def model_id(model: EnthalpyNetwork) -> str:
    """Hash of weights and architecture, 16 hex digits."""
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    digest.update(save(_tensors(model)))
    return digest.hexdigest()[:16]


def _tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in sorted(model.state_dict().items())}
