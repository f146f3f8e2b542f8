"""Damaged outputs of real runs: an error that names file and cause, or exactly the numbers of the whole output."""

from __future__ import annotations

import gzip
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.espresso import PwOutputError, ingest, read_pw_output
from fieldloop.dft_inputs.stencil import Stencil

RUNS = ["alas_cubic_rattled/zero", "alas_primitive/field+x", "quartz/field-z", "allegro_pol/SiO2-T300/Ex"]
FILES = ("pw.out", "pw.xml")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: gzip.decompress((folder / f"{name}.gz").read_bytes()) for name in FILES}


@pytest.fixture(scope="module", params=RUNS)
def whole(request, data):
    """The two files of a run, and what they read as."""
    return contents(data / request.param), read_pw_output(data / request.param)


def same(left, right) -> bool:
    """All attributes are equal to the last bit."""
    pairs = [(getattr(left, f.name), getattr(right, f.name)) for f in fields(left)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


def judge(folder: Path, files: dict[str, bytes], expected) -> str:
    """Read a damaged run; anything but a clear error or the very same numbers fails the test."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        output = read_pw_output(folder)
    except PwOutputError as error:
        message = str(error)
        assert message.startswith(str(folder)), message
        assert any(name in message for name in FILES), message
        assert "\n" not in message
        assert len(message) > len(str(folder)) + 20, message
        return "refused"
    assert same(output, expected)
    return "read"


def without(content: bytes, start: int, count: int = 1) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:start] + lines[start + count :])


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere(whole, tmp_path, name):
    files, expected = whole
    for cut in np.random.default_rng(1).integers(len(files[name].rstrip()), size=200):
        assert judge(tmp_path, {**files, name: files[name][:cut]}, expected) == "refused"


@pytest.mark.parametrize("name", FILES)
def test_any_line_or_block_deleted(whole, tmp_path, name):
    files, expected = whole
    random = np.random.default_rng(2)
    length = len(files[name].splitlines())
    counts = np.where(random.random(200) < 0.5, 1, random.integers(2, 200, size=200))
    outcomes = [
        judge(tmp_path, {**files, name: without(files[name], start, count)}, expected)
        for start, count in zip(random.integers(length, size=200), counts, strict=True)
    ]
    assert set(outcomes) == {"read", "refused"}


def test_every_single_line_deleted(data, tmp_path):
    """Exhaustively on a small run: no line of either file can go and change a number."""
    files, expected = contents(data / RUNS[1]), read_pw_output(data / RUNS[1])
    for name in FILES:
        for start in range(len(files[name].splitlines())):
            judge(tmp_path, {**files, name: without(files[name], start)}, expected)


@pytest.mark.parametrize("name", FILES)
def test_garbage_bytes(whole, tmp_path, name):
    files, expected = whole
    random = np.random.default_rng(3)
    for start in random.integers(len(files[name]), size=100):
        garbage = random.integers(256, size=int(random.integers(6, 300)), dtype=np.uint8).tobytes()
        damaged = files[name][:start] + garbage + files[name][start + len(garbage) :]
        judge(tmp_path, {**files, name: damaged}, expected)


def test_one_character_changed(data, tmp_path):
    """Python reads ``1_0`` and digits of other alphabets as numbers; Fortran writes neither."""
    files, expected = contents(data / RUNS[1]), read_pw_output(data / RUNS[1])
    random = np.random.default_rng(4)
    start, end = files["pw.xml"].index(b"<output>"), files["pw.xml"].index(b"</output>")
    for place in random.integers(start, end, size=300):
        for character in ("_", "\N{ARABIC-INDIC DIGIT FOUR}", " ", "x", "\0"):
            damaged = files["pw.xml"][:place] + character.encode() + files["pw.xml"][place + 1 :]
            judge(tmp_path, {**files, "pw.xml": damaged}, expected)


def test_swapped_files(data, tmp_path):
    """No two runs of a stencil can lend each other a file, though symmetry makes their energies equal."""
    for folder in ("alas_primitive", "alas_cubic_rattled", "quartz"):
        runs = {path.name: contents(path) for path in sorted((data / folder).iterdir()) if path.is_dir()}
        for one in runs:
            for other in set(runs) - {one}:
                files = {"pw.out": runs[one]["pw.out"], "pw.xml": runs[other]["pw.xml"]}
                assert judge(tmp_path, files, None) == "refused"


def test_both_names_hold_the_same_file(whole, tmp_path):
    files, expected = whole
    for name in FILES:
        assert judge(tmp_path, dict.fromkeys(FILES, files[name]), expected) == "refused"


def test_damaged_gzip(data, tmp_path):
    source = (data / RUNS[0] / "pw.out.gz").read_bytes()
    xml = (data / RUNS[0] / "pw.xml.gz").read_bytes()
    (tmp_path / "pw.xml.gz").write_bytes(xml)
    random = np.random.default_rng(5)
    for cut in random.integers(len(source), size=50):
        for damaged in (source[:cut], source[:cut] + b"\xff\x00\xff" + source[cut + 3 :]):
            if damaged != source:
                (tmp_path / "pw.out.gz").write_bytes(damaged)
                try:
                    assert read_pw_output(tmp_path).n_electrons == 32  # damage in the header's time stamp
                except PwOutputError as error:
                    assert "pw.out.gz" in str(error)


def test_ingest_names_the_damaged_run(data, copied):
    directory = copied(data / "alas_cubic_rattled")
    runs = {name: directory / (name if name == "zero" else f"field{name}") for name in Stencil().points()}
    damaged = runs["-y"] / "pw.out.gz"
    text = gzip.decompress(damaged.read_bytes())
    damaged.write_bytes(gzip.compress(text[: len(text) // 2]))
    with pytest.raises(PwOutputError, match=r"field-y/pw\.out\.gz: incomplete output, the run did not end$"):
        ingest(runs, Stencil())
