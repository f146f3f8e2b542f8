"""Wavefunctions and density in the ``.save`` folder of pw.x, read and written.

Plain builds write Fortran records (``wfc1.dat``, ``charge-density.dat``), builds with HDF5 the same content as
``wfc1.hdf5`` (layout: Quantum ESPRESSO, ``Modules/io_base.f90``). A file is written as a copy of one of pw.x's own
with other coefficients, so that everything else in it stays as pw.x expects it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

_NAME = re.compile(r"wfc(?P<spin>up|dw)?(?P<number>\d+)\.(dat|hdf5)")


class SaveFileError(RuntimeError):
    """A file of the ``.save`` folder is missing or broken; names it."""


@dataclass(frozen=True)
class Wavefunctions:
    """The bands of one k-point and spin.

    Attributes:
        kpoint: in units of the reciprocal lattice vectors, (3,).
        miller: plane waves, integers (M, 3).
        coefficients: of the periodic parts, orthonormal, complex (bands, M).
    """

    kpoint: np.ndarray
    miller: np.ndarray
    coefficients: np.ndarray


def wavefunction_files(save: Path) -> list[list[Path]]:
    """Files by spin channel, in the order of pw.x's k-points.

    Raises:
        SaveFileError: there are none.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in save.glob("wfc*"):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(match["spin"] or "up", {})[int(match["number"])] = path
    if not found:
        raise SaveFileError(f"{save} holds no wavefunctions")
    return [[files[n] for n in sorted(files)] for _, files in sorted(found.items(), reverse=True)]


def read_wavefunctions(path: Path) -> Wavefunctions:
    """Read one k-point.

    Raises:
        SaveFileError: missing or broken.
    """
    if path.suffix == ".hdf5":
        with _hdf5(path) as file:
            miller = np.array(file["MillerIndices"])
            reciprocal = np.array([file["MillerIndices"].attrs[f"bg{i}"] for i in (1, 2, 3)])
            bands = np.ascontiguousarray(file["evc"]).view(complex)
            return Wavefunctions(_fractional(np.array(file.attrs["xk"]), reciprocal), miller, bands)
    records = _records(path, at_least=5)
    reciprocal = np.frombuffer(records[2], "<f8").reshape(3, 3)
    bands = np.stack([np.frombuffer(record, "<c16") for record in records[4:]])
    miller = np.frombuffer(records[3], "<i4").reshape(-1, 3)
    if bands.shape[1] != len(miller):
        raise SaveFileError(f"{path} is broken: {bands.shape[1]} coefficients for {len(miller)} plane waves")
    return Wavefunctions(_fractional(np.frombuffer(records[0][4:28], "<f8"), reciprocal), miller, bands)


def write_wavefunctions(path: Path, source: Path, coefficients: np.ndarray) -> None:
    """Write a copy of ``source`` with other coefficients for its lowest bands, complex (bands, M)."""
    if path.suffix == ".hdf5":
        _copy(source, path)
        with _hdf5(path, "r+") as file:
            _dataset(file, "evc")[: len(coefficients)] = np.ascontiguousarray(coefficients).view(float)
        return
    records = _records(source, at_least=5)
    kept = records[4 + len(coefficients) :]
    _write_records(path, [*records[:4], *(row.astype("<c16").tobytes() for row in coefficients), *kept])


def density_file(save: Path) -> Path:
    """The charge density.

    Raises:
        SaveFileError: there is none.
    """
    for name in ("charge-density.dat", "charge-density.hdf5"):
        if (save / name).is_file():
            return save / name
    raise SaveFileError(f"{save} holds no charge density")


def read_density(path: Path) -> np.ndarray:
    """Fourier components of density and spin density, complex (1 or 2, G).

    Raises:
        SaveFileError: missing or broken.
    """
    if path.suffix == ".hdf5":
        with _hdf5(path) as file:
            return np.stack([np.ascontiguousarray(file[name]).view(complex) for name in _density_names(file)])
    return np.stack([np.frombuffer(record, "<c16") for record in _records(path, at_least=4)[3:]])


def write_density(path: Path, source: Path, density: np.ndarray) -> None:
    """Write a copy of ``source`` with other Fourier components, complex (1 or 2, G)."""
    if path.suffix == ".hdf5":
        _copy(source, path)
        with _hdf5(path, "r+") as file:
            for name, values in zip(_density_names(file), density, strict=True):
                _dataset(file, name)[...] = np.ascontiguousarray(values).view(float)
        return
    records = _records(source, at_least=4)
    _write_records(path, [*records[:3], *(row.astype("<c16").tobytes() for row in density)])


def _density_names(file: h5py.File) -> list[str]:
    return [name for name in ("rhotot_g", "rhodiff_g") if name in file]


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise SaveFileError(f"{file.filename} is broken: {name} is no data set")
    return dataset


def _fractional(kpoint: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    return kpoint @ np.linalg.inv(reciprocal)


def _hdf5(path: Path, mode: str = "r") -> h5py.File:
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise SaveFileError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _copy(source: Path, path: Path) -> None:
    if source.resolve() != path.resolve():
        shutil.copyfile(source, path)


def _records(path: Path, at_least: int) -> list[bytes]:
    """Records of a sequential unformatted Fortran file, each between two counts of its bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SaveFileError(f"{path} cannot be read: {error.strerror}") from error
    records, place = [], 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "little")
        record, tail = content[place + 4 : place + 4 + size], content[place + 4 + size : place + 8 + size]
        if len(tail) < 4 or int.from_bytes(tail, "little") != size:
            raise SaveFileError(f"{path} is broken after {place} bytes")
        records.append(record)
        place += 8 + size
    if len(records) < at_least:
        raise SaveFileError(f"{path} is broken: only {len(records)} records")
    return records


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    with path.open("wb") as file:
        for record in records:
            count = len(record).to_bytes(4, "little")
            file.write(count + record + count)
