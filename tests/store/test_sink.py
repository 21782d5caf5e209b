"""Sinks: stripes in any order give one file and its digest; a failure leaves nothing."""

from __future__ import annotations

import hashlib
import random
import threading
from pathlib import Path

import pytest

from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from photon.store.sink import (
    MAX_PARTS,
    MIN_PART_BYTES,
    FileSink,
    MultipartSink,
    Sink,
    SinkAborted,
    Written,
    multipart_stripe_bytes,
)

STRIPE = 1000
DATA = random.Random(0).randbytes(7 * STRIPE + 123)


def write_all(sink: Sink, data: bytes, *, threads: int) -> None:
    """Each thread takes the next stripe; the first holds its own back until the others wait for it."""
    claims = iter(range(-(-len(data) // sink.stripe_bytes)))
    lock = threading.Lock()
    others_hold_stripes = threading.Barrier(threads)

    def work() -> None:
        first = True
        while True:
            with lock:
                index = next(claims, None)
            if index is None:
                return
            if first:
                others_hold_stripes.wait(10)
                first = False
            start = index * sink.stripe_bytes
            sink.write(index, memoryview(data)[start : start + sink.stripe_bytes])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("fsync", [False, True])
def test_stripes_of_many_threads_make_one_file(tmp_path: Path, threads: int, fsync: bool) -> None:
    sink = FileSink(tmp_path / "f", len(DATA), stripe_bytes=STRIPE, fsync=fsync)
    write_all(sink, DATA, threads=threads)
    assert sink.commit() == Written(size_bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "f").read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_nothing_appears_before_the_commit(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with FileSink(tmp_path / "f", len(DATA), stripe_bytes=STRIPE) as sink:
        write_all(sink, DATA, threads=1)
        assert (tmp_path / "f").read_bytes() == b"old"
    assert (tmp_path / "f").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_a_file_with_a_missing_stripe_is_not_committed(tmp_path: Path) -> None:
    with FileSink(tmp_path / "f", len(DATA), stripe_bytes=STRIPE) as sink:
        sink.write(0, memoryview(DATA)[:STRIPE])
        with pytest.raises(ValueError, match="1 of 8"):
            sink.commit()
    assert list(tmp_path.iterdir()) == []


def test_abort_wakes_those_who_wait_for_a_lower_stripe(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "f", len(DATA), stripe_bytes=STRIPE)
    raised: list[type[BaseException]] = []

    def wait() -> None:
        try:
            sink.write(1, memoryview(DATA)[STRIPE : 2 * STRIPE])
        except SinkAborted as error:
            raised.append(type(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    sink.abort()
    waiting.join(10)
    assert raised == [SinkAborted]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SinkAborted):
        sink.commit()


@pytest.mark.parametrize(("index", "size"), [(8, STRIPE), (-1, STRIPE), (0, STRIPE - 1), (7, STRIPE)])
def test_stripes_have_their_place_and_size(tmp_path: Path, index: int, size: int) -> None:
    with FileSink(tmp_path / "f", len(DATA), stripe_bytes=STRIPE) as sink, pytest.raises(ValueError, match="stripe"):
        sink.write(index, memoryview(DATA)[:size])


def test_a_stripe_is_written_once(tmp_path: Path) -> None:
    with FileSink(tmp_path / "f", len(DATA), stripe_bytes=STRIPE) as sink:
        sink.write(0, memoryview(DATA)[:STRIPE])
        with pytest.raises(ValueError, match="before"):
            sink.write(0, memoryview(DATA)[:STRIPE])


@pytest.mark.s3
def test_stripes_of_many_threads_make_one_object(store: ObjectStore) -> None:
    data = random.Random(1).randbytes(2 * MIN_PART_BYTES + 5)
    sink = MultipartSink(store.multipart("big"), len(data), stripe_bytes=MIN_PART_BYTES)
    write_all(sink, data, threads=3)
    assert sink.commit().sha256 == hashlib.sha256(data).hexdigest()
    assert store.get("big") == data


@pytest.mark.s3
def test_an_aborted_object_is_not_there(store: ObjectStore) -> None:
    with MultipartSink(store.multipart("gone"), 100, stripe_bytes=MIN_PART_BYTES) as sink:
        sink.write(0, memoryview(bytes(100)))
    with pytest.raises(NotFound):
        store.get("gone")


@pytest.mark.s3
def test_parts_that_s3_would_refuse_are_refused_first(store: ObjectStore) -> None:
    with store.multipart("small") as upload, pytest.raises(ValueError, match="S3 takes"):
        MultipartSink(upload, 100, stripe_bytes=10)


@pytest.mark.parametrize("size", [1, 10**9, 200 * 2**30, 4 * 2**40])
def test_any_model_fits_the_parts_of_s3(size: int) -> None:
    stripe = multipart_stripe_bytes(size)
    assert stripe >= MIN_PART_BYTES
    assert -(-size // stripe) <= MAX_PARTS
