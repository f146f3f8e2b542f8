"""Keys follow the content: what means the same has the same key, what differs has another."""

import dataclasses
import enum
import json
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.records import Frame
from fieldloop.workflows.keys import content_job, content_key, content_uuid, is_content_keyed
from hypothesis import given
from hypothesis import strategies as st
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice

import flow_jobs  # isort: skip


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Settings:
    step: float
    names: tuple[str, ...] = ()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(JSON)
def test_survive_a_trip_through_json(value):
    assert content_key(value) == content_key(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.0, -0.0),
        ((1, 2), [1, 2]),
        (np.arange(3), [0, 1, 2]),
        (np.float64(0.1), 0.1),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y"}, {"y", "x"}),
        (Colour.RED, "red"),
        (Path("a/b"), "a/b"),
        (Settings(0.5, ("a",)), {"step": 0.5, "names": ["a"]}),
        ({"@version": "1.0", "a": 1}, {"@version": "2.0", "a": 1}),
    ],
)
def test_same_content_same_key(one, other):
    assert content_key(one) == content_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, "1"),
        (0.1, 0.1 + 1e-16),
        ([1, [2]], [[1], 2]),
        (None, {}),
        ([1, 2], [2, 1]),
        (Lattice.cubic(3), Lattice.cubic(4)),
    ],
)
def test_other_content_other_key(one, other):
    assert content_key(one) != content_key(other)


def test_parts_are_kept_apart():
    assert content_key("ab", "c") != content_key("a", "bc")
    assert len(content_key()) == 32


def test_records_have_keys():
    frames = [Frame(species=("Al",), positions=np.full((1, 3), x), cell=np.eye(3)) for x in (0.0, 0.0, 0.1)]
    assert content_key(frames[0]) == content_key(frames[1]) != content_key(frames[2])


@pytest.mark.parametrize("value", [object(), lambda: 1, {1.5: 2}, Settings])
def test_undefined_content_is_refused(value):
    with pytest.raises(TypeError, match="content key"):
        content_key(value)


def test_non_finite_numbers_are_refused():
    with pytest.raises(ValueError, match="nan"):
        content_key([float("nan")])


def test_references_follow_the_new_identity():
    first = content_job(flow_jobs.add(1, 2), content_key("three"), "sums/three")
    second = flow_jobs.add(first.output, 1)
    assert first.uuid == content_uuid(content_key("three"))
    assert first.metadata == {"content_key": content_key("three"), "directory": "sums/three"}
    assert is_content_keyed(first)
    assert not is_content_keyed(second)
    store = JobStore(MemoryStore())
    run_locally(Flow([first, second]), store=store, log=False, ensure_success=True)
    assert store.get_output(second.uuid) == 4


@pytest.mark.parametrize("directory", ["/tmp", "../x", "a/../../b", ""])
def test_directories_stay_below_the_root(directory):
    with pytest.raises(ValueError, match="below the root"):
        content_job(flow_jobs.add(1, 2), "k", directory)
