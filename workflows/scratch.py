"""The store a job sees while it runs: it catches the job's documents and forgets them."""

from __future__ import annotations

from typing import Any

from jobflow.core.store import JobStore
from maggma.stores import MemoryStore

from .store_queries import encode


class ScratchStore(JobStore):
    """A job store in memory. Additional stores are left to the driver, which splits the documents when it writes."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())

    def update(self, docs: Any, key: list | str | None = None, save: Any = None) -> None:
        """Take documents whole, whatever ``save`` says."""
        super().update(docs, key=key, save={})  # type: ignore[arg-type]

    def documents(self) -> tuple[str, ...]:
        """Every document taken, as extended JSON without MongoDB's ``_id``."""
        return tuple(encode(document) for document in self.docs_store.query(properties={"_id": 0}))
