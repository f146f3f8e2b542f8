"""The store keeps maggma's promises, checked against MemoryStore, and its own: durability, many writers, identity."""

import os
import pickle
import signal
import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.records import Frame
from fieldloop.workflows import sqlite_file
from fieldloop.workflows.store import SQLiteStore, StoreError
from fieldloop.workflows.store_queries import necessary_condition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobflow import Flow, JobStore, run_locally
from maggma.core import Sort, Store
from maggma.stores import MemoryStore

import flow_jobs  # isort: skip

PEOPLE = [
    {"uuid": "a", "index": 1, "name": "Ada", "tags": ["x", "y"], "meta": {"kind": "label", "size": 3}, "score": 0.5},
    {"uuid": "b", "index": 1, "name": "Bob", "tags": [], "meta": {"kind": "train"}, "score": 2},
    {"uuid": "c", "index": 2, "name": "Cyd", "meta": [{"kind": "label"}, {"kind": "md"}], "score": None},
    {"uuid": "d", "index": 2, "name": "Ada", "tags": "x", "flag": True, "score": 2.0},
]


def without_id(documents) -> list[dict]:
    return [{key: value for key, value in document.items() if key != "_id"} for document in documents]


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path) -> Store:
    """The same promises of either store."""
    made = MemoryStore(key="uuid") if request.param == "memory" else SQLiteStore(tmp_path / "store.sqlite")
    made.connect()
    return made


@pytest.fixture
def sqlite_store(tmp_path) -> SQLiteStore:
    made = SQLiteStore(tmp_path / "store.sqlite")
    made.connect()
    return made


class TestContract:
    def test_update_replaces_by_key(self, store):
        store.update(PEOPLE)
        store.update({"uuid": "b", "name": "Bea"})
        assert store.count() == 4
        assert without_id(store.query({"uuid": "b"})) == [{"uuid": "b", "name": "Bea"}]

    def test_several_fields_make_a_key(self, store):
        for index, value in [(1, "first"), (2, "second"), (1, "again")]:
            store.update({"uuid": "a", "index": index, "value": value}, key=["uuid", "index"])
        assert [d["value"] for d in store.query({"uuid": "a"}, sort={"index": 1})] == ["again", "second"]

    @pytest.mark.parametrize(
        ("criteria", "expected"),
        [
            (None, "abcd"),
            ({}, "abcd"),
            ({"uuid": "b"}, "b"),
            ({"uuid": {"$in": ["a", "d", "z"]}}, "ad"),
            ({"name": "Ada", "index": 2}, "d"),
            ({"tags": "x"}, "ad"),
            ({"tags": ["x", "y"]}, "a"),
            ({"meta.kind": "label"}, "ac"),
            ({"meta.kind": {"$in": ["md", "train"]}}, "bc"),
            ({"score": 2}, "bd"),
            ({"score": None}, "c"),
            ({"tags": None}, "c"),
            ({"flag": True}, "d"),
            ({"flag": {"$exists": False}}, "abc"),
            ({"score": {"$gt": 0.4, "$lt": 1}}, "a"),
            ({"$or": [{"uuid": "a"}, {"score": 2}]}, "abd"),
            ({"$and": [{"name": "Ada"}, {"tags": "x"}, {"index": 1}]}, "a"),
            ({"name": {"$ne": "Ada"}}, "bc"),
            ({"name": {"$regex": "^A"}}, "ad"),
            ({"meta.0.kind": "label"}, "c"),
            ({"name": {"$in": ["Ada"], "$ne": "Bob"}}, "ad"),
        ],
    )
    def test_queries(self, store, criteria, expected):
        store.update(PEOPLE)
        assert "".join(sorted(d["uuid"] for d in store.query(criteria))) == expected
        assert store.count(criteria) == len(expected)

    def test_sort_skip_limit(self, store):
        store.update(PEOPLE)
        assert [d["uuid"] for d in store.query(sort={"name": 1, "uuid": -1})] == ["d", "a", "b", "c"]
        assert [d["uuid"] for d in store.query(sort={"uuid": Sort.Descending}, skip=1, limit=2)] == ["c", "b"]
        assert [d["uuid"] for d in store.query(sort={"score": 1}, limit=1)] == ["c"]
        assert store.query_one({"name": "Ada"}, sort={"uuid": -1})["uuid"] == "d"
        assert store.query_one({"name": "Zoe"}) is None

    @pytest.mark.parametrize(
        "properties",
        [
            ["name"],
            ["meta.kind"],
            {"meta.kind": 1, "score": 1},
            {"tags": 0},
            {"meta.kind": 0, "_id": 0},
            [],
            {"_id": 0},
        ],
    )
    def test_projections(self, sqlite_store, properties):
        memory = MemoryStore(key="uuid")
        memory.connect()
        for store in (memory, sqlite_store):
            store.update(PEOPLE)
        assert without_id(sqlite_store.query(properties=properties)) == without_id(memory.query(properties=properties))

    def test_distinct(self, store):
        store.update(PEOPLE)
        assert set(store.distinct("name")) == {"Ada", "Bob", "Cyd"}
        assert set(store.distinct("tags")) == {"x", "y"}
        assert set(store.distinct("meta.kind", {"index": 1})) == {"label", "train"}

    def test_groupby(self, store):
        store.update(PEOPLE)
        groups = {
            (keys["name"], keys["index"]): docs for keys, docs in store.groupby(["name", "index"], properties=["uuid"])
        }
        assert {key: [d["uuid"] for d in docs] for key, docs in groups.items()} == {
            ("Ada", 1): ["a"],
            ("Ada", 2): ["d"],
            ("Bob", 1): ["b"],
            ("Cyd", 2): ["c"],
        }
        nested = {keys["meta"]["kind"]: len(docs) for keys, docs in store.groupby("meta.kind", {"index": 1})}
        assert nested == {"label": 1, "train": 1}

    def test_remove(self, store):
        store.update(PEOPLE)
        store.remove_docs({"name": "Ada"})
        assert sorted(store.distinct("uuid")) == ["b", "c"]

    def test_dates(self, store):
        early, late = datetime(2026, 1, 2, 3, 4, 5, 678000), datetime(2026, 2, 1)
        aware = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
        for name, date in [("early", early), ("late", late), ("aware", aware)]:
            store.update({"uuid": name, "last_updated": date})
        dates = {d["uuid"]: d["last_updated"] for d in store.query()}
        assert dates == {"early": early, "late": late, "aware": datetime(2026, 3, 1, 10)}
        assert {d["uuid"] for d in store.query({"last_updated": {"$gte": late}})} == {"late", "aware"}
        assert store.count({"last_updated": datetime(2026, 3, 1, 10, tzinfo=UTC)}) == 1
        assert store.last_updated == datetime(2026, 3, 1, 10)

    def test_newer_in(self, store):
        source = MemoryStore(key="uuid")
        source.connect()
        source.update([{"uuid": name, "last_updated": datetime(2026, 1, day)} for name, day in [("a", 1), ("b", 3)]])
        store.update({"uuid": "a", "last_updated": datetime(2026, 1, 2)})
        assert store.newer_in(source) == ["b"]
        assert store.newer_in(source, exhaustive=True) == ["b"]

    def test_plain_values_come_back(self, store):
        store.update({"uuid": "f", "array": np.arange(3), "text": 'q"\u00e9\u2028', "big": 2**60, "pair": (1, "x")})
        document = store.query_one({"uuid": "f"})
        assert document["array"] == [0, 1, 2]
        assert document["pair"] == [1, "x"]
        assert document["big"] == 2**60
        assert document["text"] == 'q"\u00e9\u2028'

    def test_not_a_number_survives(self, store):
        store.update({"uuid": "n", "values": [float("nan"), float("inf"), 1.5]})
        values = store.query_one({"uuid": "n"})["values"]
        assert np.isnan(values[0])
        assert values[1:] == [float("inf"), 1.5]

    def test_writing_while_reading(self, store):
        store.update([{"uuid": str(n), "n": n} for n in range(250)])
        for document in store.query({"n": {"$gte": 0}}):
            store.update(document | {"seen": True})
        assert store.count({"seen": True}) == 250


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.1, 0.5, 1.0, 2**53 + 0.0, float("inf"), -float("inf")]),
    st.sampled_from(["", "1", "[", "a", "\0"]),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.fixed_dictionaries({}, optional={"k": SCALARS, "l": SCALARS})
)
VALUES_OR_ROWS = st.one_of(
    VALUES, st.lists(st.fixed_dictionaries({}, optional={"k": SCALARS, "l": SCALARS}), max_size=2)
)
DOCUMENTS = st.lists(st.fixed_dictionaries({}, optional={"a": VALUES_OR_ROWS, "b": VALUES_OR_ROWS}), max_size=8)
FIELDS = st.sampled_from(["a", "b", "a.k", "a.l", "b.k", "a.0", "missing"])
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([0.1, 0.5, 1.0, -0.25, 2**53 + 0.0, float("inf")]))
CONDITIONS = st.one_of(
    SCALARS,
    st.builds(lambda v: {"$eq": v}, SCALARS),
    st.builds(lambda v: {"$ne": v}, SCALARS),
    st.builds(lambda v: {"$in": v}, st.lists(SCALARS, max_size=3)),
    st.builds(lambda v, w: {"$in": v, "$ne": w}, st.lists(SCALARS, max_size=3), SCALARS),
    st.builds(lambda v: {"$exists": v}, st.booleans()),
    st.builds(lambda name, v: {name: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS),
    st.builds(lambda v, w: {"$gte": v, "$lt": w}, NUMBERS, NUMBERS),
)
SIMPLE = st.dictionaries(FIELDS, CONDITIONS, max_size=2)
CRITERIA = st.one_of(
    SIMPLE,
    st.builds(lambda parts: {"$and": parts}, st.lists(SIMPLE, min_size=1, max_size=2)),
    st.builds(lambda parts: {"$or": parts}, st.lists(SIMPLE, min_size=1, max_size=2)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=DOCUMENTS, criteria=CRITERIA)
def test_sql_never_changes_the_answer(tmp_path_factory, documents, criteria):
    """MemoryStore sees every document; SQLite must not have held a match back, nor an index have changed anything."""
    sqlite_store = SQLiteStore(tmp_path_factory.getbasetemp() / "random.sqlite")
    memory = MemoryStore(key="uuid")
    documents = [document | {"uuid": str(n)} for n, document in enumerate(documents)]
    for store in (memory, sqlite_store):
        store.connect()
        store.remove_docs({})
        if documents:
            store.update(documents)
    for field in ("a", "a.k"):
        sqlite_store.ensure_index(field)
    assert [d["uuid"] for d in sqlite_store.query(criteria)] == [d["uuid"] for d in memory.query(criteria)]
    sqlite_store.close()


def test_common_queries_use_an_index(sqlite_store):
    sqlite_store.update([{"uuid": str(n), "index": 1, "meta": {"key": str(n)}} for n in range(50)])
    assert sqlite_store.ensure_index("meta.key")
    for criteria in ({"uuid": "7"}, {"uuid": {"$in": ["7", "8"]}, "index": 1}, {"meta.key": "7"}):
        condition, parameters = necessary_condition(criteria)
        plan = sqlite_store._collection.execute(f"EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE {condition}", parameters)
        assert any("USING INDEX" in row[-1] for row in plan), criteria


def test_unique_index_is_refused_where_values_repeat(sqlite_store):
    sqlite_store.update(PEOPLE)
    assert not sqlite_store.ensure_index("name", unique=True)
    assert sqlite_store.ensure_index("uuid", unique=True)
    assert not sqlite_store.ensure_index("meta.0.kind")


def test_records_are_stored_whole_or_refused(sqlite_store):
    """MemoryStore would keep their text, from which nothing comes back."""
    frame = Frame(species=("Al",), positions=np.zeros((1, 3)), cell=np.eye(3))
    sqlite_store.update({"uuid": "f", "frame": frame})
    assert Frame(**sqlite_store.query_one({"uuid": "f"})["frame"]) == frame
    with pytest.raises(StoreError, match="cannot be stored"):
        sqlite_store.update({"uuid": "g", "thing": object()})


def test_update_is_all_or_nothing(sqlite_store):
    with pytest.raises(StoreError, match="without uuid cannot be stored"):
        sqlite_store.update([{"uuid": "a"}, {"name": "nobody"}])
    assert sqlite_store.count() == 0


def test_collections_share_a_file(tmp_path):
    jobs, frames = (SQLiteStore(tmp_path / "store.sqlite", collection=name) for name in ("jobs", "frames"))
    for store in (jobs, frames):
        store.connect()
    jobs.update({"uuid": "a"})
    assert (jobs.count(), frames.count()) == (1, 0)
    with pytest.raises(StoreError, match="cannot name a collection"):
        SQLiteStore(tmp_path / "store.sqlite", collection="x; DROP TABLE jobs")


def test_travels_as_its_path(sqlite_store):
    sqlite_store.update(PEOPLE)
    for copy in (SQLiteStore.from_dict(sqlite_store.as_dict()), pickle.loads(pickle.dumps(sqlite_store))):
        assert copy == sqlite_store
        copy.connect()
        assert copy.count() == 4


def test_serves_jobflow(sqlite_store):
    first = flow_jobs.add(1, 2)
    second = flow_jobs.add(first.output, 10)
    store = JobStore(sqlite_store, additional_stores={"data": SQLiteStore(sqlite_store.path, collection="blobs")})
    run_locally(Flow([first, second]), store=store, log=False, ensure_success=True)
    assert store.get_output(second.uuid) == 13


WRITER = """
import sys
from fieldloop.workflows.store import SQLiteStore
path, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = SQLiteStore(path)
store.connect()
for n in range(number):
    store.update({"uuid": f"{name}-{n}", "payload": "x" * 2000})
    store.update({"uuid": "shared", "by": name, "n": n})
    print(n, flush=True)
"""


def test_writers_lose_nothing(tmp_path, start_python):
    """They also race to create the file."""
    path = tmp_path / "new" / "store.sqlite"
    writers = [start_python(WRITER, path, name, 25) for name in "abcdefgh"]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    store = SQLiteStore(path, read_only=True)
    store.connect()
    assert store.count() == 8 * 25 + 1
    assert store.query_one({"uuid": "shared"})["n"] == 24


def test_kill_9_loses_nothing_acknowledged(tmp_path, start_python):
    path = tmp_path / "store.sqlite"
    writer = start_python(WRITER, path, "w", 100_000)
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 60:
            break
    writer.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, writer.stdout.read().split("\n")[:-1])])
    store = SQLiteStore(path)
    store.connect()
    found = {document["uuid"] for document in store.query()}
    assert {f"w-{n}" for n in range(acknowledged + 1)} <= found
    assert store._collection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_after_a_fork_parent_and_child_write(sqlite_store):
    sqlite_store.update({"uuid": "before"})
    child = os.fork()
    if child == 0:
        try:
            sqlite_store.update({"uuid": "child"})
        finally:
            os._exit(0)
    sqlite_store.update({"uuid": "parent"})
    os.waitpid(child, 0)
    assert sorted(sqlite_store.distinct("uuid")) == ["before", "child", "parent"]


def test_threads_write(sqlite_store):
    threads = [threading.Thread(target=sqlite_store.update, args=({"uuid": str(n)},)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sqlite_store.count() == 8


def test_a_store_belongs_to_one_project(sqlite_store):
    sqlite_store.bind_project({"project": "alas", "protocol": "abc"})
    again = SQLiteStore(sqlite_store.path)
    again.bind_project({"protocol": "abc", "project": "alas"})
    assert again.project_identity == {"project": "alas", "protocol": "abc"}
    with pytest.raises(StoreError) as refusal:
        again.bind_project({"project": "alas", "protocol": "xyz"})
    assert str(refusal.value).endswith('belongs to another project or protocol: protocol is "abc", not "xyz"')
    assert "\n" not in str(refusal.value)


def test_read_only(sqlite_store, tmp_path):
    sqlite_store.update(PEOPLE)
    reader = SQLiteStore(sqlite_store.path, read_only=True)
    reader.connect()
    assert reader.count() == 4
    for write in (lambda: reader.update({"uuid": "z"}), lambda: reader.remove_docs({})):
        with pytest.raises(StoreError, match="reading only"):
            write()
    with pytest.raises(StoreError, match="no store at"):
        SQLiteStore(tmp_path / "none.sqlite", read_only=True).connect()
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(StoreError, match="no collection 'other'"):
        SQLiteStore(sqlite_store.path, collection="other", read_only=True).connect()


def test_strange_files_are_refused(tmp_path):
    text = tmp_path / "text.sqlite"
    text.write_text("not a database " * 100)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE jobs (x)")
    newer = SQLiteStore(tmp_path / "newer.sqlite")
    newer.connect()
    newer._collection.execute("PRAGMA user_version = 99")
    newer.close()
    cases = [
        (text, "not a database"),
        (foreign, "another program"),
        (newer.path, "newer fieldloop"),
        (tmp_path, "cannot open"),
    ]
    for path, reason in cases:
        before = Path(path).read_bytes() if Path(path).is_file() else None
        with pytest.raises(StoreError, match=reason):
            SQLiteStore(path).connect()
        assert before is None or Path(path).read_bytes() == before


def test_rollback_journal_on_a_network_file_system(tmp_path, monkeypatch):
    local = SQLiteStore(tmp_path / "store.sqlite")
    local.connect()
    assert local._collection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    local.update({"uuid": "a"})
    local.close()
    monkeypatch.setattr(sqlite_file, "file_system", lambda path: "nfs4")
    store = SQLiteStore(tmp_path / "store.sqlite")
    with pytest.warns(UserWarning, match=r"network file system \(nfs4\)"):
        store.connect()
    assert store._collection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert store.count() == 1


def test_file_system_of_a_path_is_found():
    assert sqlite_file.file_system(Path("/proc/self/status")) == "proc"
