"""What the commit protocol needs of the store, against a real one; and that every failure says what to do."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from threading import Barrier
from urllib.parse import urlsplit

import psutil
import pytest
from botocore.exceptions import ClientError

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.store.errors import (
    AccessDenied,
    BucketMissing,
    NotFound,
    Refused,
    StorageFull,
    StoreError,
    Unreachable,
    translate,
)
from photon.store.objects import ObjectStore, PresignedPut
from tests.faults import Fault, FaultProxy
from tests.opened import OpenStore

pytestmark = pytest.mark.s3


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def send(method: str, url: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    """One plain request: exactly these headers and Host."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=30)
    connection.putrequest(method, f"{parts.path}?{parts.query}", skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


@pytest.fixture
def proxy(s3: EmbeddedStore) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def far(storage: StorageSpec, proxy: FaultProxy, open_store: OpenStore) -> ObjectStore:
    """The same objects as ``store``, reached through the proxy."""
    return open_store(storage.model_copy(update={"endpoint": proxy.endpoint}))


# -- objects ------------------------------------------------------------------------------------------------------


def test_an_object_reads_back_as_it_was_written(store: ObjectStore, storage: StorageSpec) -> None:
    etag = store.put("a/b", b"bytes")
    assert store.get("a/b") == b"bytes"
    data, info = store.fetch("a/b")
    assert (data, info.key, info.size_bytes, info.etag) == (b"bytes", "a/b", 5, etag)
    assert store.head("a/b") == info
    assert store.uri("a/b") == f"s3://photon/{storage.prefix}/a/b"


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    assert store.head("none") is None
    with pytest.raises(NotFound, match="/none does not exist"):
        store.get("none")


def test_prefixes_keep_jobs_apart(store: ObjectStore) -> None:
    store.put("a", b"1")
    assert store.at("elsewhere").head("a") is None


def test_a_listing_goes_on_over_all_pages(store: ObjectStore) -> None:
    names = [f"few/{number:03d}" for number in range(25)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, name.encode()), names))
    store.put("other", b"")
    assert [info.key for info in store.list("few/", page_size=4)] == names
    assert [info.key for info in store.list()] == [*names, "other"]
    assert {info.size_bytes for info in store.list("few/")} == {7}
    assert list(store.list("nothing/")) == []


def test_more_objects_than_one_request_may_list_or_delete(store: ObjectStore) -> None:
    names = [f"{number:04d}" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert [info.key for info in store.list()] == names
    store.delete([*names, "never there"])
    assert list(store.list()) == []


# -- conditional writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", range(3))
def test_of_writers_that_create_at_once_exactly_one_wins(store: ObjectStore, attempt: int) -> None:
    writers = 8
    barrier = Barrier(writers)

    def create(number: int) -> bool:
        barrier.wait(timeout=30)
        return store.create("commit.json", str(number).encode())

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(create, range(writers)))
    assert sum(won) == 1
    assert store.get("commit.json") == str(won.index(True)).encode()


def test_create_leaves_what_is_there(store: ObjectStore) -> None:
    assert store.create("a", b"same")
    assert not store.create("a", b"same")
    assert not store.create("a", b"other")
    assert store.get("a") == b"same"


def test_a_creation_whose_answer_was_lost_is_still_ours(
    store: ObjectStore, far: ObjectStore, proxy: FaultProxy
) -> None:
    proxy.plan(Fault(drop_answer=True))
    assert far.create("a", b"ours")
    assert proxy.seen("PUT") == 2
    store.put("b", b"theirs")
    proxy.plan(Fault(status=503))
    assert not far.create("b", b"ours")


# -- presigned URLs -----------------------------------------------------------------------------------------------


@pytest.fixture
def announced() -> bytes:
    return os.urandom(5000)


@pytest.fixture
def put(store: ObjectStore, announced: bytes) -> PresignedPut:
    return store.presign_put("part", size_bytes=len(announced), sha256=sha256(announced), valid_seconds=60)


def test_a_presigned_put_takes_the_announced_bytes_once(
    store: ObjectStore, put: PresignedPut, announced: bytes
) -> None:
    assert send("PUT", put.url, put.headers, announced)[0] == 200
    assert store.get("part") == announced
    assert send("PUT", put.url, put.headers, announced)[0] == 412


def test_a_presigned_put_refuses_other_bytes(store: ObjectStore, put: PresignedPut, announced: bytes) -> None:
    status, answer = send("PUT", put.url, put.headers, announced[:-1] + bytes([announced[-1] ^ 1]))
    assert status == 400
    assert b"Digest" in answer or b"Checksum" in answer
    assert store.head("part") is None


@pytest.mark.parametrize(
    "change",
    [
        {"Content-Length": "4999"},
        {"x-amz-checksum-sha256": "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="},
        {"x-amz-checksum-sha256": None},
        {"If-None-Match": None},
        {"If-None-Match": "other"},
    ],
    ids=["size", "digest", "no digest", "no condition", "condition"],
)
def test_a_presigned_put_refuses_other_headers(
    store: ObjectStore, put: PresignedPut, announced: bytes, change: dict[str, str | None]
) -> None:
    headers = {name: value for name, value in (put.headers | change).items() if value is not None}
    assert send("PUT", put.url, headers, announced[: int(headers["Content-Length"])])[0] == 403
    assert store.head("part") is None


def test_a_presigned_put_refuses_another_key_and_method(
    store: ObjectStore, put: PresignedPut, announced: bytes
) -> None:
    assert send("PUT", put.url.replace("/part?", "/other?"), put.headers, announced)[0] == 403
    store.put("part", announced)
    assert send("GET", put.url, {})[0] == 403
    assert send("DELETE", put.url, {})[0] == 403
    assert [info.key for info in store.list()] == ["part"]


def test_a_presigned_get_reads_ranges_and_nothing_else(store: ObjectStore, announced: bytes) -> None:
    store.put("a", announced)
    url = store.presign_get("a", valid_seconds=60)
    assert send("GET", url, {}) == (200, announced)
    assert send("GET", url, {"Range": "bytes=10-19"}) == (206, announced[10:20])
    assert send("PUT", url, {"Content-Length": "1"}, b"x")[0] == 403
    assert send("GET", url.replace("/a?", "/b?"), {})[0] == 403


def test_a_presigned_get_holds_to_one_version_when_asked(store: ObjectStore, announced: bytes) -> None:
    etag = store.put("a", announced)
    url = store.presign_get("a", valid_seconds=60)
    assert send("GET", url, {"Range": "bytes=0-9", "If-Match": etag}) == (206, announced[:10])
    store.put("a", b"another version")
    assert send("GET", url, {"Range": "bytes=0-9", "If-Match": etag})[0] == 412


def test_urls_are_not_made_for_longer_than_signatures_last(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="604800"):
        store.presign_get("a", valid_seconds=604_801)


# -- multipart ----------------------------------------------------------------------------------------------------

PART = 5 * 2**20


def test_parts_may_arrive_in_any_order_from_many_threads(store: ObjectStore) -> None:
    parts = [os.urandom(PART), os.urandom(PART), b"the short end"]
    with store.multipart("big") as upload, ThreadPoolExecutor(3) as pool:
        list(pool.map(upload.upload_part, (3, 1, 2), map(memoryview, (parts[2], parts[0], parts[1]))))
        assert store.head("big") is None
        etag = upload.complete()
    data, info = store.fetch("big")
    assert data == b"".join(parts)
    assert info.etag == etag


def test_an_upload_that_fails_leaves_nothing(store: ObjectStore) -> None:
    upload = store.multipart("big")
    with suppress(RuntimeError), upload:
        upload.upload_part(1, memoryview(bytes(PART)))
        raise RuntimeError("half-way")
    assert list(store.list()) == []
    with pytest.raises(StoreError):
        upload.upload_part(2, memoryview(b"too late"))


def test_a_completion_whose_answer_was_lost_is_done(store: ObjectStore, far: ObjectStore, proxy: FaultProxy) -> None:
    with far.multipart("big") as upload:
        upload.upload_part(1, b"all of it")
        proxy.plan(Fault(method="POST", drop_answer=True))
        etag = upload.complete()
    data, info = store.fetch("big")
    assert (data, info.etag) == (b"all of it", etag)


def test_an_upload_that_another_one_aborted_does_not_complete(store: ObjectStore) -> None:
    with store.multipart("big") as upload:
        upload.upload_part(1, b"all of it")
        (listed,) = store.unfinished("b")
        store.abort(listed)
        store.abort(listed)
        assert store.unfinished() == []
        with pytest.raises(NotFound):
            upload.complete()
    assert store.head("big") is None


def test_an_upload_without_parts_is_a_mistake(store: ObjectStore) -> None:
    with store.multipart("big") as upload, pytest.raises(ValueError, match="at least one part"):
        upload.complete()


def test_a_store_that_was_closed_keeps_no_connection(far: ObjectStore, proxy: FaultProxy) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: far.put(f"a{number}", b"1"), range(40)))
    assert connections_to(proxy.port) > 0
    with far:
        pass
    assert connections_to(proxy.port) == 0
    assert far.get("a1") == b"1"


def connections_to(port: int) -> int:
    """Open sockets of this process whose other end is this port."""
    return sum(one.raddr.port == port for one in psutil.Process().net_connections("tcp") if one.raddr)


# -- failures -----------------------------------------------------------------------------------------------------


def opened(storage: StorageSpec, s3: EmbeddedStore, **changed: str) -> ObjectStore:
    keys = {"access_key": s3.access_key, "secret_key": s3.secret_key}
    keys |= {name: changed.pop(name) for name in tuple(changed) if name in keys}
    return ObjectStore.open(storage.model_copy(update=changed), **keys)


def test_an_endpoint_where_nobody_is_is_named(storage: StorageSpec, s3: EmbeddedStore) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: nobody can
        port = reserved.getsockname()[1]
        nowhere = opened(storage, s3, endpoint=f"http://127.0.0.1:{port}")
        with pytest.raises(Unreachable, match=rf"no object store answers at 127.0.0.1:{port}: check storage.endpoint"):
            nowhere.check()


def test_an_endpoint_that_accepts_and_says_nothing_is_named(
    storage: StorageSpec, s3: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("photon.store.objects.CHECK_TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(Unreachable, match=rf"127.0.0.1:{port} did not answer in time"):
            opened(storage, s3, endpoint=f"http://127.0.0.1:{port}").check()


def test_a_server_that_is_no_object_store_is_named(storage: StorageSpec, s3: EmbeddedStore, proxy: FaultProxy) -> None:
    proxy.plan(*[Fault(status=404, body="<html>nothing here</html>")] * 4)
    with pytest.raises(Unreachable, match=r"is not an S3 API \(404 for a bucket\): check storage\.endpoint"):
        opened(storage, s3, endpoint=proxy.endpoint).check()


def test_a_wrong_access_key_is_named(store: ObjectStore, storage: StorageSpec, s3: EmbeddedStore) -> None:
    with pytest.raises(AccessDenied, match="does not know this access key: check AWS_ACCESS_KEY_ID"):
        opened(storage, s3, access_key="nobody").check(create_bucket=True)


def test_a_wrong_secret_key_is_named(store: ObjectStore, storage: StorageSpec, s3: EmbeddedStore) -> None:
    with pytest.raises(AccessDenied, match="refused the signature: check AWS_SECRET_ACCESS_KEY") as caught:
        opened(storage, s3, secret_key="a wrong secret").check()
    assert "a wrong secret" not in str(caught.value)


def test_a_missing_bucket_is_named_with_how_to_create_it_or_created(storage: StorageSpec, s3: EmbeddedStore) -> None:
    elsewhere = opened(storage, s3, bucket=f"bucket-{storage.prefix}")
    with pytest.raises(BucketMissing, match=rf"aws s3 mb s3://bucket-{storage.prefix} --endpoint-url {s3.endpoint}"):
        elsewhere.check()
    with pytest.raises(BucketMissing):
        elsewhere.put("a", b"1")
    elsewhere.check(create_bucket=True)
    elsewhere.check(create_bucket=True)
    elsewhere.put("a", b"1")


def test_a_busy_store_is_asked_again_within_bounds(store: ObjectStore, far: ObjectStore, proxy: FaultProxy) -> None:
    store.put("a", b"1")
    proxy.plan(Fault(status=503), Fault(cut_answer_after=0))
    assert far.get("a") == b"1"
    proxy.plan(*[Fault(status=503)] * 20)
    with pytest.raises(Unreachable, match=r"fails for .*/a: 503 SlowDown"):
        far.get("a")
    assert proxy.seen("GET") == 3 + 3


def test_an_answer_that_breaks_off_is_an_error_not_half_an_object(
    store: ObjectStore, far: ObjectStore, proxy: FaultProxy
) -> None:
    store.put("a", b"x" * 1000)
    proxy.plan(*[Fault(cut_answer_after=500)] * 3)
    with pytest.raises(Unreachable, match="broke"):
        far.get("a")
    assert proxy.seen("GET") == 3


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "said"),
    [
        (500, "InternalError", "write /data/1.dat: no space left on device", StorageFull, "storage is full"),
        (507, "", "", StorageFull, "storage is full"),
        (
            507,
            "XMinioStorageFull",
            "Storage backend has reached its minimum free drive",
            StorageFull,
            "storage is full",
        ),
        (403, "AccessDenied", "", AccessDenied, "check the credentials' rights"),
        (403, "RequestTimeTooSkewed", "", AccessDenied, "clock"),
        (409, "ConditionalRequestConflict", "", Unreachable, "busy with another write"),
        (500, "InternalError", "", Unreachable, "127.0.0.1:8333 fails"),
        (429, "TooManyRequests", "", Unreachable, "429 TooManyRequests"),
        (400, "EntityTooLarge", "too large", Refused, "EntityTooLarge too large"),
    ],
)
def test_answers_of_other_stores_are_understood(
    status: int, code: str, message: str, kind: type[StoreError], said: str
) -> None:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translate(
        ClientError(response, "PutObject"),  # type: ignore[arg-type]
        endpoint="http://127.0.0.1:8333",
        bucket="photon",
        key="job/a",
    )
    assert type(error) is kind
    assert said in str(error)
