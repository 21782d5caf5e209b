"""What the commit protocol needs of the store, against a real one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from photon.store.errors import NotFound, PreconditionFailed
from photon.store.objects import ObjectStore

pytestmark = pytest.mark.s3


def test_an_object_reads_back_as_it_was_written(store: ObjectStore) -> None:
    store.put("a/b", b"bytes")
    assert store.get("a/b") == b"bytes"
    assert store.uri("a/b").endswith("/a/b")


def test_of_writers_that_create_at_once_exactly_one_wins(store: ObjectStore) -> None:
    writers = 8
    barrier = Barrier(writers)

    def create(number: int) -> bool:
        barrier.wait(timeout=30)
        return store.create("commit.json", str(number).encode())

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(create, range(writers)))
    assert sum(won) == 1
    assert store.get("commit.json") == str(won.index(True)).encode()


def test_replace_refuses_another_version_than_the_one_that_was_read(store: ObjectStore) -> None:
    store.put("a", b"1")
    _, first = store.fetch("a")
    store.replace("a", b"2", etag=first.etag)
    with pytest.raises(PreconditionFailed, match="written by somebody else"):
        store.replace("a", b"3", etag=first.etag)
    assert store.get("a") == b"2"


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    assert store.head("none") is None
    with pytest.raises(NotFound, match="none does not exist"):
        store.get("none")
