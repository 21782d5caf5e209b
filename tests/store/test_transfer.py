"""Workers' transfers over presigned URLs, through a proxy that breaks things, against a real store."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.records import FileRecord
from photon.store.errors import AccessDenied, DigestMismatch, NotFound, StorageFull, Unreachable
from photon.store.http import Connection
from photon.store.objects import ObjectStore
from photon.store.retry import RetryPolicy
from photon.store.transfer import UploadOutcome, download, upload
from tests.faults import Fault, FaultProxy
from tests.opened import OpenStore

pytestmark = pytest.mark.s3

SIZE = 20 * 2**20 + 12_345  # three stripes, the last one short
RETRY = RetryPolicy(attempts=4, first_pause_seconds=0.01, longest_pause_seconds=0.02)


@pytest.fixture(scope="module")
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def proxy(s3: EmbeddedStore) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def far(store: ObjectStore, storage: StorageSpec, proxy: FaultProxy, open_store: OpenStore) -> ObjectStore:
    """The same objects as ``store``, reached through the proxy."""
    return open_store(storage.model_copy(update={"endpoint": proxy.endpoint}))


def record(data: bytes) -> FileRecord:
    return FileRecord(name="model.safetensors", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def push(far: ObjectStore, key: str, data: bytes) -> UploadOutcome:
    put = far.presign_put(key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), valid_seconds=600)
    return upload(put.url, put.headers, memoryview(data), retry=RETRY)


def pull(far: ObjectStore, key: str, path: Path, file: FileRecord) -> None:
    download(far.presign_get(key, valid_seconds=600), path, file=file, retry=RETRY)


def test_what_was_uploaded_comes_down_the_same(far: ObjectStore, data: bytes, tmp_path: Path) -> None:
    arrived: list[int] = []
    assert push(far, "a", data) is UploadOutcome.CREATED
    download(
        far.presign_get("a", valid_seconds=600), tmp_path / "a", file=record(data), on_bytes=arrived.append, retry=RETRY
    )
    assert (tmp_path / "a").read_bytes() == data
    assert sum(arrived) == SIZE
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_empty_file_needs_no_request(far: ObjectStore, proxy: FaultProxy, tmp_path: Path) -> None:
    pull(far, "never asked for", tmp_path / "empty", record(b""))
    assert (tmp_path / "empty").read_bytes() == b""
    assert proxy.seen("GET") == 0


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(status=503)] * 3,
        [Fault(status=500, body="")],
        [Fault(cut_answer_after=1_000_000)] * 3,
        [Fault(cut_answer_after=0)],
        [Fault(drop_answer=True)],
        [Fault(status=503), Fault(cut_answer_after=5_000_000), Fault(drop_answer=True)],
    ],
    ids=["503", "500", "cut", "cut at once", "no answer", "mixed"],
)
def test_a_download_outlives_a_bad_network(
    far: ObjectStore, store: ObjectStore, proxy: FaultProxy, data: bytes, tmp_path: Path, faults: list[Fault]
) -> None:
    store.put("a", data)
    proxy.plan(*faults)
    pull(far, "a", tmp_path / "a", record(data))
    assert (tmp_path / "a").read_bytes() == data


def test_a_download_goes_on_where_it_was_cut(
    far: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    small = os.urandom(2**20)
    store.put("a", small)
    proxy.plan(Fault(cut_answer_after=600_000))
    arrived: list[int] = []
    repeated: list[None] = []
    download(
        far.presign_get("a", valid_seconds=600),
        tmp_path / "a",
        file=record(small),
        on_bytes=arrived.append,
        on_retry=lambda: repeated.append(None),
        retry=RETRY,
    )
    assert sum(arrived) == len(small)
    assert len(repeated) == 1
    assert proxy.seen("GET") == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=503), r"the object store fails for http://.*: 503 SlowDown .*\(after 4 attempts\)"),
        (Fault(cut_answer_after=100), r"the connection to 127.0.0.1:\d+ broke .*\(after 4 attempts\)"),
    ],
)
def test_a_download_ends_after_so_many_attempts(
    far: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path, fault: Fault, message: str
) -> None:
    store.put("a", b"x" * 10_000)
    proxy.plan(*[fault] * 50)
    with pytest.raises(Unreachable, match=message) as caught:
        pull(far, "a", tmp_path / "a", record(b"x" * 10_000))
    assert proxy.seen("GET") == RETRY.attempts
    assert "X-Amz" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fault", [Fault(flip_answer_byte=77), Fault(shorten_answer_by=1)], ids=["another byte", "a shorter answer"]
)
def test_bytes_that_are_not_the_recorded_ones_are_never_delivered(
    far: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    stored = os.urandom(10_000)
    store.put("a", stored)
    other = stored[:77] + bytes([stored[77] ^ 1]) + stored[78:]
    with pytest.raises(DigestMismatch, match="sha256 is"):
        pull(far, "a", tmp_path / "a", record(other))
    with pytest.raises(DigestMismatch, match=r"has 10000 bytes, its record says 9999"):
        pull(far, "a", tmp_path / "a", record(stored[:-1]))
    with pytest.raises(DigestMismatch, match=r"has 10000 bytes, its record says 10001"):
        pull(far, "a", tmp_path / "a", record(stored + b"."))
    proxy.plan(fault)
    if fault.shorten_answer_by:
        pull(far, "a", tmp_path / "a", record(stored))  # the missing byte is asked for
        assert (tmp_path / "a").read_bytes() == stored
    else:
        with pytest.raises(DigestMismatch, match="sha256 is"):
            pull(far, "a", tmp_path / "a", record(stored))
        assert list(tmp_path.iterdir()) == []


def test_a_missing_object_and_an_altered_url_are_named_at_once(
    far: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="/none does not exist"):
        pull(far, "none", tmp_path / "a", record(b"1"))
    store.put("a", b"1")
    url = far.presign_get("a", valid_seconds=600).replace("Signature=", "Signature=0")
    with pytest.raises(AccessDenied, match="expired or is for another request"):
        download(url, tmp_path / "a", file=record(b"1"), retry=RETRY)
    assert proxy.seen("GET") == 2


def test_a_file_that_this_disk_cannot_hold_is_not_begun(far: ObjectStore, proxy: FaultProxy, tmp_path: Path) -> None:
    huge = FileRecord(name="model.safetensors", size_bytes=2**60, sha256="0" * 64)
    with pytest.raises(StorageFull, match=r"disk is full: .* no room for model.safetensors"):
        pull(far, "a", tmp_path / "a", huge)
    assert proxy.seen("GET") == 0


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(status=503)] * 3,
        [Fault(cut_request_after=3_000_000)] * 3,
        [Fault(cut_request_after=0)],
    ],
    ids=["503", "cut", "cut at once"],
)
def test_an_upload_outlives_a_bad_network(
    far: ObjectStore, store: ObjectStore, proxy: FaultProxy, data: bytes, faults: list[Fault]
) -> None:
    proxy.plan(*faults)
    assert push(far, "a", data) is UploadOutcome.CREATED
    assert store.get("a") == data


def test_an_upload_whose_answer_was_lost_finds_its_object(
    far: ObjectStore, store: ObjectStore, proxy: FaultProxy, data: bytes
) -> None:
    proxy.plan(Fault(drop_answer=True))
    assert push(far, "a", data) is UploadOutcome.ALREADY_THERE
    assert store.get("a") == data


def test_an_upload_ends_after_so_many_attempts(far: ObjectStore, store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.plan(*[Fault(cut_request_after=10)] * 50)
    with pytest.raises(Unreachable, match=r"broke .*\(after 4 attempts\)"):
        push(far, "a", b"x" * 10_000)
    assert proxy.seen("PUT") == RETRY.attempts
    assert store.head("a") is None


def test_a_full_store_is_named_and_not_tried_again(far: ObjectStore, proxy: FaultProxy) -> None:
    said = "<Error><Code>InternalError</Code><Message>write /data/1.dat: no space left on device</Message></Error>"
    proxy.plan(Fault(status=500, body=said))
    with pytest.raises(StorageFull, match="storage is full"):
        push(far, "a", b"x")
    assert proxy.seen("PUT") == 1


def test_an_upload_that_is_refused_before_it_was_read_is_answered_not_broken(store: ObjectStore, data: bytes) -> None:
    """Straight to the store: 20 MiB to a key that exists. The store answers 412 and closes while we still send."""
    store.put("a", b"earlier")
    assert push(store, "a", data) is UploadOutcome.ALREADY_THERE
    assert store.get("a") == b"earlier"


def test_the_answer_counts_when_a_store_closes_before_it_has_read_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(
                    b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

        with ThreadPoolExecutor(1) as pool:
            refusing = pool.submit(refuse)
            url = f"http://127.0.0.1:{server.getsockname()[1]}/a"
            headers = {"Content-Length": str(SIZE)}
            once = RetryPolicy(attempts=1)
            assert upload(url, headers, memoryview(bytes(SIZE)), retry=once) is UploadOutcome.ALREADY_THERE
            refusing.result(timeout=10)


def test_other_bytes_than_announced_are_refused(store: ObjectStore) -> None:
    put = store.presign_put("a", size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest(), valid_seconds=60)
    with pytest.raises(DigestMismatch, match="refused the bytes"):
        upload(put.url, put.headers, memoryview(b"abd"), retry=RETRY)
    with pytest.raises(ValueError, match="is for 3 bytes, not for 4"):
        upload(put.url, put.headers, memoryview(b"abcd"), retry=RETRY)
    assert store.head("a") is None


def test_nobody_at_the_endpoint_is_said_with_host_and_port() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: nobody can
        port = reserved.getsockname()[1]
        with pytest.raises(Unreachable, match=rf"no object store answers at 127.0.0.1:{port}"):
            upload(f"http://127.0.0.1:{port}/a", {}, memoryview(b""), retry=RETRY)


def test_a_proxy_of_the_environment_is_used(
    s3: EmbeddedStore, store: ObjectStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    with Connection("http://store.invalid") as connection:
        connection.send("GET", "http://store.invalid/a?secret", {}).read()
    assert proxy.requests == [("GET", "http://store.invalid/a")]
