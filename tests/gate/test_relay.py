"""The relay between a worker's own transfers and a real object store: bytes, refusals, and ends."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.records import FileRecord
from photon.store import network
from photon.store.errors import AccessDenied, DigestMismatch, NotFound, StoreError, Unreachable
from photon.store.objects import ObjectStore
from photon.store.retry import RetryPolicy
from photon.store.source import UrlSource
from photon.store.transfer import UploadOutcome, download, upload
from photon_gate.relay.exchange import Limits
from photon_gate.relay.grants import Grants
from photon_gate.relay.passing import Outcome, Passed
from photon_gate.relay.server import Relay
from tests.faults import Fault, FaultProxy
from tests.forwarding import ForwardProxy
from tests.opened import OpenStore
from tests.tls import make_authority, server_context

pytestmark = pytest.mark.s3

DATA = random.Random(1).randbytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(DATA).hexdigest()
ONCE = RetryPolicy(attempts=1)


class Gate:
    """A relay in front of one store, and what it told of."""

    def __init__(self, store: ObjectStore, limits: Limits | None = None) -> None:
        self.store = store
        self.passed: list[Passed] = []
        self.grants = Grants([store.endpoint], clock=time.monotonic)
        self.relay = Relay(self.grants, limits=limits, on_passed=self.passed.append)

    def reading(self, key: str, size: int = len(DATA)) -> str:
        url = self.store.presign_get(key, valid_seconds=60)
        return self.relay.url(self.grants.get(url, what=key, size_bytes=size, valid_seconds=60))

    def writing(self, key: str, data: bytes = DATA) -> tuple[str, dict[str, str]]:
        digest = hashlib.sha256(data).hexdigest()
        put = self.store.presign_put(key, size_bytes=len(data), sha256=digest, valid_seconds=60)
        granted = self.grants.put(put.url, put.headers, what=key, size_bytes=len(data), sha256=digest, valid_seconds=60)
        return self.relay.url(granted), dict(put.headers)

    def send(self, key: str, data: bytes = DATA) -> UploadOutcome:
        url, headers = self.writing(key, data)
        return upload(url, headers, memoryview(data), retry=ONCE)

    def outcomes(self) -> list[Outcome]:
        return [passed.outcome for passed in self.passed]


OpenGate = Callable[..., Gate]


@pytest.fixture
def gate_to() -> Iterator[OpenGate]:
    """Opens a gate to a store; all are closed with the test, and leave no thread."""
    opened: list[Gate] = []

    def open_gate(store: ObjectStore, limits: Limits | None = None) -> Gate:
        opened.append(Gate(store, limits))
        opened[-1].relay.start()
        return opened[-1]

    before = set(threading.enumerate())
    yield open_gate
    for gate in opened:
        gate.relay.close()
    wait_until(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("relay")])


@pytest.fixture
def gate(gate_to: OpenGate, store: ObjectStore) -> Gate:
    return gate_to(store)


@pytest.fixture
def faulty(s3: EmbeddedStore) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def behind(faulty: FaultProxy, store: ObjectStore, open_store: OpenStore, storage: StorageSpec) -> ObjectStore:
    """The same bucket, behind a proxy with faults."""
    return open_store(storage.model_copy(update={"endpoint": faulty.endpoint}))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def raw(url: str, method: str, headers: dict[str, str], body: bytes = b"") -> tuple[HTTPResponse, bytes]:
    host, _, path = url.removeprefix("http://").partition("/")
    with closing(HTTPConnection(host, timeout=20)) as connection:
        connection.putrequest(method, f"/{path}", skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response, response.read()


# -- bytes --------------------------------------------------------------------------------------------------------


def test_an_object_arrives_whole_and_in_ranges(gate: Gate, store: ObjectStore, tmp_path: Path) -> None:
    store.put("model", DATA)
    url = gate.reading("model")
    file = FileRecord(name="model.safetensors", size_bytes=len(DATA), sha256=SHA256)
    download(url, tmp_path / "model", file=file, retry=ONCE)
    assert (tmp_path / "model").read_bytes() == DATA
    source = UrlSource(url, len(DATA), retry=ONCE)
    buffer = bytearray(2**20 + 3)
    source.read_into(12345, memoryview(buffer))
    source.close()
    assert buffer == DATA[12345 : 12345 + len(buffer)]
    response, body = raw(url, "GET", {})
    assert (response.status, body) == (200, DATA)
    wait_until(lambda: len(gate.passed) == 3)
    assert set(gate.outcomes()) == {Outcome.COMPLETE}
    assert sum(passed.bytes for passed in gate.passed) == 2 * len(DATA) + len(buffer)


@pytest.mark.parametrize("asked", ["bytes=9-3", "bytes=-5", "bytes=0-1,3-4", "bytes=99999999-", "lines=1-2"])
def test_a_range_that_is_none_is_refused(gate: Gate, store: ObjectStore, asked: str) -> None:
    store.put("model", DATA)
    response, _ = raw(gate.reading("model"), "GET", {"Range": asked})
    assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")


def test_an_upload_arrives_once(gate: Gate, store: ObjectStore) -> None:
    assert gate.send("part") is UploadOutcome.CREATED
    assert store.get("part") == DATA
    assert gate.send("part") is UploadOutcome.ALREADY_THERE
    assert gate.outcomes() == [Outcome.COMPLETE, Outcome.ALREADY_THERE]
    assert {(passed.sha256, passed.bytes) for passed in gate.passed} == {(SHA256, len(DATA))}


@pytest.mark.parametrize("place", [0, 2**20, len(DATA) - 1])
def test_a_wrong_byte_never_completes_an_upload(
    gate_to: OpenGate, behind: ObjectStore, store: ObjectStore, faulty: FaultProxy, place: int
) -> None:
    gate = gate_to(behind)
    url, headers = gate.writing("part")
    wrong = bytearray(DATA)
    wrong[place] ^= 1
    with pytest.raises(DigestMismatch):
        upload(url, headers, memoryview(wrong), retry=ONCE)
    assert store.head("part") is None
    (passed,) = gate.passed
    assert passed.outcome is Outcome.WRONG_BYTES
    assert passed.bytes < len(DATA)
    assert upload(url, headers, memoryview(DATA), retry=ONCE) is UploadOutcome.CREATED


def test_what_the_worker_adds_to_a_request_does_not_leave(
    gate_to: OpenGate, behind: ObjectStore, faulty: FaultProxy
) -> None:
    seen: list[dict[str, str]] = []
    faulty.instead = lambda asked: seen.append(dict(asked.headers))
    gate = gate_to(behind)
    url, headers = gate.writing("part")
    response, _ = raw(url, "PUT", {"Content-Length": str(len(DATA)), "X-Patient": "secret", "Cookie": "secret"}, DATA)
    assert response.status == 200
    assert {name.lower() for name in seen[0]} == {name.lower() for name in headers} | {"host"}


# -- refusals -----------------------------------------------------------------------------------------------------


def test_an_unknown_id_another_method_or_size_is_refused(gate: Gate, store: ObjectStore) -> None:
    store.put("model", DATA)
    reading = gate.reading("model")
    writing, headers = gate.writing("part")
    with pytest.raises(AccessDenied):
        upload(reading, headers, memoryview(DATA), retry=ONCE)
    with pytest.raises(AccessDenied):
        upload(gate.relay.url("x" * 22), headers, memoryview(DATA), retry=ONCE)
    for method, url, sent, status in (
        ("GET", writing, {}, 403),
        ("GET", gate.relay.url("../" + "x" * 19), {}, 403),
        ("PUT", writing, {"Content-Length": "3"}, 400),
        ("PUT", writing, {"Transfer-Encoding": "chunked"}, 400),
        ("POST", writing, {"Content-Length": "0"}, 501),
        ("DELETE", writing, {}, 501),
    ):
        response, body = raw(url, method, sent, b"abc" if sent.get("Content-Length") == "3" else b"")
        assert response.status == status
        assert b"<html" not in body.lower()
        assert response.headers["Server"] == "photon-gate"
    gate.grants.forget()
    with pytest.raises(AccessDenied):
        upload(writing, headers, memoryview(DATA), retry=ONCE)
    assert store.head("part") is None
    assert gate.passed == []


def test_the_worker_is_told_what_the_store_says(
    gate_to: OpenGate, behind: ObjectStore, faulty: FaultProxy, tmp_path: Path
) -> None:
    gate = gate_to(behind)
    file = FileRecord(name="model.safetensors", size_bytes=len(DATA), sha256=SHA256)

    def read(url: str) -> None:
        download(url, tmp_path / "model", file=file, connections=1, retry=ONCE)

    with pytest.raises(NotFound):
        read(gate.reading("absent"))
    for status, kind in ((503, Unreachable), (403, AccessDenied), (507, StoreError)):
        faulty.plan(Fault(status=status), Fault(status=status))
        with pytest.raises(kind):
            read(gate.reading("absent"))
        with pytest.raises(kind):
            gate.send("part")
    behind.put("model", DATA[:-1])
    with pytest.raises(DigestMismatch):
        read(gate.reading("model"))


def test_a_redirect_is_not_followed(gate_to: OpenGate, behind: ObjectStore, faulty: FaultProxy) -> None:
    faulty.instead = lambda _: (307, {"Location": "http://127.0.0.1:9/elsewhere"}, b"")
    gate = gate_to(behind)
    response, body = raw(gate.reading("model"), "GET", {})
    assert response.status == 400
    assert b"redirects" in body
    assert len(faulty.requests) == 1


# -- ends ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_in_the_middle_ends_the_transfer(gate: Gate, store: ObjectStore) -> None:
    store.put("model", DATA)
    writing, headers = gate.writing("part")
    path = writing.partition("/o/")[2]
    with socket.create_connection(("127.0.0.1", gate.relay.port)) as worker:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        worker.sendall(f"PUT /o/{path} HTTP/1.1\r\nHost: gate\r\n{head}\r\n".encode() + DATA[: 2**20])
        wait_until(lambda: gate.relay.connections == 1)
    wait_until(lambda: gate.relay.connections == 0)
    assert gate.outcomes() == [Outcome.BROKEN]
    assert store.head("part") is None
    assert gate.send("part") is UploadOutcome.CREATED


@pytest.mark.parametrize("fault", [Fault(cut_request_after=1000), Fault(drop_answer=True)])
def test_a_store_that_dies_in_an_upload_is_tried_again_by_the_worker(
    gate_to: OpenGate, behind: ObjectStore, store: ObjectStore, faulty: FaultProxy, fault: Fault
) -> None:
    gate = gate_to(behind)
    faulty.plan(fault)
    url, headers = gate.writing("part")
    upload(url, headers, memoryview(DATA), sleep=lambda _: None)
    assert store.get("part") == DATA
    assert gate.outcomes()[0] is Outcome.BROKEN


def test_a_store_that_dies_in_a_download_is_tried_again_by_the_worker(
    gate_to: OpenGate, behind: ObjectStore, store: ObjectStore, faulty: FaultProxy, tmp_path: Path
) -> None:
    store.put("model", DATA)
    gate = gate_to(behind)
    faulty.plan(Fault(cut_answer_after=5000))
    file = FileRecord(name="model.safetensors", size_bytes=len(DATA), sha256=SHA256)
    download(gate.reading("model"), tmp_path / "model", file=file, sleep=lambda _: None)
    assert (tmp_path / "model").read_bytes() == DATA
    wait_until(lambda: len(gate.passed) == 2)
    assert gate.outcomes() == [Outcome.BROKEN, Outcome.COMPLETE]
    assert sum(passed.bytes for passed in gate.passed) == len(DATA)


HASTY = Limits(idle_seconds=20, grace_seconds=0.3, least_bytes_per_second=2**40)


def test_a_worker_that_sends_a_byte_now_and_then_is_cut(gate_to: OpenGate, store: ObjectStore) -> None:
    gate = gate_to(store, HASTY)
    url, headers = gate.writing("part")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", gate.relay.port), timeout=20) as worker:
        worker.sendall(f"PUT /o/{url.partition('/o/')[2]} HTTP/1.1\r\nHost: gate\r\n{head}\r\n".encode())
        with suppress(OSError):
            for byte in DATA:
                worker.sendall(bytes([byte]))
                time.sleep(0.02)
    wait_until(lambda: gate.relay.connections == 0)
    assert store.head("part") is None


def test_a_worker_that_never_ends_its_head_is_cut(gate_to: OpenGate, store: ObjectStore) -> None:
    gate = gate_to(store, Limits(idle_seconds=0.9, grace_seconds=0.1))
    with socket.create_connection(("127.0.0.1", gate.relay.port), timeout=20) as worker, suppress(OSError):
        worker.sendall(b"GET /o/x HTTP/1.1\r\n")
        while gate.relay.connections == 0:
            time.sleep(0.01)
        while gate.relay.connections:
            worker.sendall(b"x")
            time.sleep(0.05)
    wait_until(lambda: gate.relay.connections == 0)


def test_a_worker_that_asks_nothing_more_is_cut(gate_to: OpenGate, store: ObjectStore) -> None:
    gate = gate_to(store, Limits(idle_seconds=0.2))
    with socket.create_connection(("127.0.0.1", gate.relay.port), timeout=20) as worker:
        assert worker.recv(1) == b""


def test_a_store_that_does_not_answer_is_given_up() -> None:
    passed: list[Passed] = []
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        origin = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        grants = Grants([origin], clock=time.monotonic)
        granted = grants.get(f"{origin}/bucket/model", what="model", size_bytes=10, valid_seconds=60)
        with Relay(grants, limits=HASTY, on_passed=passed.append) as relay:
            with suppress(OSError, HTTPException):
                response, _ = raw(relay.url(granted), "GET", {})
                assert response.status == 503
            wait_until(lambda: relay.connections == 0)
    assert [one.outcome for one in passed] == [Outcome.BROKEN]


def test_connections_are_bounded(gate_to: OpenGate, store: ObjectStore) -> None:
    gate = gate_to(store, Limits(connections=1))
    with socket.create_connection(("127.0.0.1", gate.relay.port), timeout=20):
        wait_until(lambda: gate.relay.connections == 1)
        with socket.create_connection(("127.0.0.1", gate.relay.port), timeout=20) as second:
            assert second.recv(1) == b""
    wait_until(lambda: gate.relay.connections == 0)
    assert gate.send("part") is UploadOutcome.CREATED


def test_closing_ends_what_is_under_way(gate_to: OpenGate, store: ObjectStore) -> None:
    gate = gate_to(store)
    with socket.create_connection(("127.0.0.1", gate.relay.port), timeout=20) as worker:
        wait_until(lambda: gate.relay.connections == 1)
        gate.relay.close()
        assert gate.relay.connections == 0
        assert worker.recv(1) == b""


# -- the way out --------------------------------------------------------------------------------------------------


def test_bytes_pass_a_proxy_with_credentials_and_a_private_authority(
    gate_to: OpenGate,
    store: ObjectStore,
    s3: EmbeddedStore,
    storage: StorageSpec,
    open_store: OpenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "NO_PROXY", "ALL_PROXY", *network.CA_VARIABLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    authority = make_authority(tmp_path)
    with (
        FaultProxy(s3.endpoint, tls=server_context(authority)) as secure,
        ForwardProxy({"store.invalid": secure.port}, credentials="north:secret") as proxy,
    ):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority / "ca.crt"))
        monkeypatch.setenv("HTTPS_PROXY", f"http://north:secret@{proxy.address}")
        spec = storage.model_copy(update={"endpoint": "https://store.invalid"})
        gate = gate_to(open_store(spec))
        assert gate.send("part") is UploadOutcome.CREATED
        response, body = raw(gate.reading("part"), "GET", {})
        assert (response.status, body) == (200, DATA)
        assert set(proxy.seen) == {"CONNECT store.invalid"}
        gate.relay.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET /o/x\r\n",
        b"GET /o/x HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /o/x HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET /o/x HTTP/1.1\r\n" + b"a: " + b"b" * 70_000 + b"\r\n\r\n",
        b"GET http://hub.example.org/o/x HTTP/1.1\r\nHost: hub.example.org\r\n\r\n",
        b"CONNECT hub.example.org:443 HTTP/1.1\r\n\r\n",
        b"PUT /o/x HTTP/1.1\r\nContent-Length: -5\r\n\r\nabcde",
        b"PUT /o/x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /o/x HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"PUT /o/x HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
    ],
    ids=range(13),
)
def test_what_is_no_request_is_refused_and_leaves_nothing(gate_to: OpenGate, store: ObjectStore, sent: bytes) -> None:
    gate = gate_to(store)
    with socket.create_connection(("127.0.0.1", gate.relay.port), timeout=20) as worker:
        with suppress(OSError):
            worker.sendall(sent)
            worker.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := worker.recv(65536):
                answer += piece
    assert answer[:9] in (b"HTTP/1.1 ", b"<Error><C", b"")
    assert answer[9:12] not in (b"200", b"500", b"502", b"503")
    assert b"html" not in answer.lower()
    wait_until(lambda: gate.relay.connections == 0)
    assert gate.passed == []
