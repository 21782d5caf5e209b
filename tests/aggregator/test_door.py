"""The front door: nothing of a body is read before its sender is known, and nothing is waited for without end."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from pydantic import field_validator
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from photon.api.base import ApiModel
from photon.api.placement import StorageSpec
from photon.protocol.messages import ErrorReply
from photon.store.objects import ObjectStore
from photon_aggregator.http import bodies
from photon_aggregator.http.auth import ReadToken, Tokens
from photon_aggregator.http.connections import Connections
from photon_aggregator.http.door import Door, Guard
from photon_aggregator.http.limits import (
    BURST,
    PART_BYTES,
    REQUESTS_AT_ONCE,
    REQUESTS_PER_SECOND,
    REST_BYTES,
    UPDATES_AT_ONCE,
    Allowance,
    body_limit,
)
from tests.aggregator.fake_worker import job_document, token_digests, token_of, write_round_zero
from tests.aggregator.running import Aggregator, aggregator

UPDATE = "/v1/rounds/1/update"
HUGE = 32 * 2**20


@pytest.fixture
def running(store: ObjectStore, storage: StorageSpec) -> Iterator[Aggregator]:
    """An aggregator that is short of patience and of connections."""
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)
    few = Connections(anonymous=8, per_name=4, header_seconds=0.5)
    with aggregator(job, store, stop_when_done=False, connections=few, body_seconds=0.5, read_token="look") as started:
        started.until(lambda engine: engine.state.open is not None)
        yield started


class Spoken:
    """One request at a door, without a network: what was answered, and how often the body was asked for."""

    def __init__(self, method: str, path: str, **headers: str) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        self.asked = 0
        self.sent: list[Message] = []

    async def at(self, door: Door) -> Spoken:
        async def receive() -> Message:
            self.asked += 1
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            self.sent.append(message)

        await door(self.scope, receive, send)
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def guard(running: Aggregator, clock: Any = lambda: 0.0) -> Guard:
    tokens = Tokens(token_digests(["north", "south"]))
    return Guard(engine=running.engine, tokens=tokens, read_token=ReadToken("look"), clock=clock)


def bearer(name: str = "north") -> str:
    return f"Bearer {token_of(name)}"


def test_a_body_is_not_asked_for_before_its_sender_is_known_nor_when_it_is_too_large(running: Aggregator) -> None:
    async def main() -> None:
        door = Door(ok, guard=guard(running))
        for path in (UPDATE, "/v1/progress", "/v1/anything", "/v1/rounds/1/parts", "/v1/status", "/metrics"):
            spoken = await Spoken("POST", path, content_length=str(HUGE)).at(door)
            assert (spoken.status, spoken.asked, spoken.headers[b"connection"]) == (401, 0, b"close"), path
        for path in (UPDATE, "/v1/progress", "/v1/rounds/1/parts", "/v1/rounds/1/evaluation"):
            spoken = await Spoken("POST", path, content_length=str(HUGE), authorization=bearer()).at(door)
            assert (spoken.status, spoken.asked, spoken.headers[b"connection"]) == (413, 0, b"close"), path
        for path in ("/", "/healthz", "/assets/main.js"):
            spoken = await Spoken("POST", path, content_length=str(HUGE)).at(door)
            assert (spoken.status, spoken.asked) == (413, 0), path
        spoken = await Spoken("POST", UPDATE, content_length="9", content_encoding="gzip", authorization=bearer()).at(
            door
        )
        assert (spoken.status, spoken.asked) == (415, 0)

    asyncio.run(main())


def test_the_room_for_a_body_follows_from_the_layout_of_the_job() -> None:
    assert body_limit("POST", UPDATE, 3) == REST_BYTES + 3 * PART_BYTES
    assert body_limit("POST", "/v1/rounds/1/parts", 100_000) == REST_BYTES + 256 * PART_BYTES
    assert body_limit("POST", "/v1/rounds/1/evaluation", 100_000) == REST_BYTES
    assert body_limit("POST", "/v1/progress", 100_000) == REST_BYTES
    for method, path in (("GET", "/v1/task"), ("POST", "/v1/job"), ("POST", "/"), ("POST", "/v1/rounds/1/other")):
        assert body_limit(method, path, 100_000) == 0
    longest = {"index": 10**6, "start": 2**62, "stop": 2**62, "sizeBytes": 2**62, "sha256": "f" * 64}
    assert len(json.dumps(longest)) < PART_BYTES


def test_who_asks_too_often_waits_and_others_do_not(running: Aggregator) -> None:
    now = 100.0

    async def main() -> None:
        nonlocal now
        door = Door(ok, guard=guard(running, lambda: now))

        async def ask(name: str) -> Spoken:
            return await Spoken("GET", "/v1/task", authorization=bearer(name)).at(door)

        for _ in range(int(BURST)):
            assert (await ask("north")).status == 200
        refused = await ask("north")
        assert (refused.status, refused.headers[b"retry-after"]) == (429, b"1")
        assert (await ask("south")).status == 200
        now += 1.0
        for _ in range(int(REQUESTS_PER_SECOND)):
            assert (await ask("north")).status == 200
        assert (await ask("north")).status == 429

    asyncio.run(main())


@pytest.mark.parametrize(("path", "most"), [("/v1/task", REQUESTS_AT_ONCE), (UPDATE, UPDATES_AT_ONCE)])
def test_requests_at_a_time_are_counted_and_given_back(running: Aggregator, path: str, most: int) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            await release.wait()
            await ok(scope, receive, send)

        door = Door(held, guard=guard(running))
        under_way = [asyncio.create_task(Spoken("GET", path, authorization=bearer()).at(door)) for _ in range(most)]
        await asyncio.sleep(0)
        assert (await Spoken("GET", path, authorization=bearer()).at(door)).status == 429
        under_way[0].cancel()
        release.set()
        await asyncio.gather(*under_way, return_exceptions=True)
        for _ in range(most):
            assert (await Spoken("GET", path, authorization=bearer()).at(door)).status == 200

    asyncio.run(main())


def test_an_allowance_survives_a_clock_that_goes_back() -> None:
    allowance = Allowance(at=100.0)
    assert allowance.begin(update=False, now=50.0) is None
    assert allowance.tokens == BURST - 1


def connect(running: Aggregator) -> socket.socket:
    return socket.create_connection(running.socket.getsockname()[:2], timeout=60)


def rest_of(line: socket.socket) -> bytes:
    """All that the other side still says before it closes."""
    found = b""
    try:
        while data := line.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def head(method: str, path: str, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def ask(line: socket.socket, method: str, path: str, **headers: str) -> int:
    """The status of one request on a connection that stays open."""
    line.sendall(head(method, path, **headers))
    answer = http.client.HTTPResponse(line, method=method)
    answer.begin()
    answer.read()
    return answer.status


def error_of(answer: bytes) -> ErrorReply:
    return ErrorReply.model_validate_json(answer.partition(b"\r\n\r\n")[2])


def test_a_stranger_is_sent_away_before_the_body_has_begun(running: Aggregator) -> None:
    with connect(running) as line:
        line.sendall(head("POST", UPDATE, Content_Length=str(HUGE)))
        answer = rest_of(line)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert error_of(answer).error.reason == "Unauthenticated"


def test_a_body_that_does_not_come_ends_its_connection(running: Aggregator) -> None:
    for more in (b"", b'{"taskId"'):
        with connect(running) as line:
            line.sendall(head("POST", "/v1/progress", Content_Length="100", Authorization=bearer()) + more)
            answer = rest_of(line)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert error_of(answer).error.message == "the body did not arrive in time"


def test_a_body_that_grows_without_having_said_so_is_cut_off(running: Aggregator) -> None:
    with connect(running) as line:
        line.sendall(head("POST", "/v1/progress", Transfer_Encoding="chunked", Authorization=bearer()))
        chunk = b"%x\r\n" % 2**15 + b" " * 2**15 + b"\r\n"
        line.sendall(chunk * 3)
        answer = rest_of(line)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_is_no_http_ends_its_connection_and_nothing_is_said_twice(
    running: Aggregator, caplog: pytest.LogCaptureFixture
) -> None:
    for token in (bearer(), "Bearer wrong"):
        with connect(running) as line:
            line.sendall(head("POST", "/v1/progress", Transfer_Encoding="chunked", Authorization=token))
            line.sendall(b"5\r\nabcde\r\n")
            line.sendall(b"no size\r\n")
            assert rest_of(line).count(b"HTTP/1.1") == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


@pytest.mark.parametrize("said", [b"", b"GET /healthz HT", head("GET", "/healthz")[:-2]])
def test_headers_that_do_not_end_end_the_connection(running: Aggregator, said: bytes) -> None:
    with connect(running) as line:
        line.sendall(said)
        assert rest_of(line) == b""


def test_headers_that_do_not_end_end_a_connection_that_was_used_before(running: Aggregator) -> None:
    with connect(running) as line:
        assert ask(line, "GET", "/healthz") == 200
        line.sendall(b"GET")
        assert b"HTTP/1.1" not in rest_of(line)


def test_silent_connections_shut_out_neither_participants_nor_the_next_stranger(running: Aggregator) -> None:
    assert running.connections is not None
    running.connections.header_seconds = 600.0
    with connect(running) as worker:
        assert ask(worker, "GET", "/v1/job", Authorization=bearer()) == 200
        silent = [connect(running) for _ in range(100)]
        with connect(running) as stranger:
            assert ask(stranger, "GET", "/healthz") == 200
        assert len(running.connections.unknown) <= running.connections.anonymous
        assert ask(worker, "GET", "/v1/job", Authorization=bearer()) == 200
    for line in silent:
        line.close()


def test_one_participant_holds_few_connections(running: Aggregator) -> None:
    assert running.connections is not None
    lines: list[socket.socket] = []
    for _ in range(12):
        lines.append(connect(running))
        assert ask(lines[-1], "GET", "/v1/job", Authorization=bearer()) == 200
    assert len(running.connections.known["north"]) == running.connections.per_name
    assert rest_of(lines[0]) == b""
    for line in lines:
        line.close()


def test_shares_of_connections_stay_within_the_files_that_may_be_open() -> None:
    for files, names in ((1024, 3), (1024, 257), (2**20, 65)):
        usage = Connections.within(files, names=names)
        assert usage.anonymous >= 16
        assert usage.anonymous + usage.per_name * names < max(files, 4 * names + 1024)


class Noticed(ApiModel):
    """Says in which thread it was parsed."""

    threads: ClassVar[list[str]] = []
    text: str

    @field_validator("text")
    @classmethod
    def note(cls, value: str) -> str:
        cls.threads.append(threading.current_thread().name)
        return value


@pytest.mark.parametrize("large", [False, True])
def test_a_large_body_is_parsed_beside_the_event_loop(running: Aggregator, large: bool) -> None:
    data = json.dumps({"text": "x" * (bodies.LARGE_BYTES if large else 5)}).encode()
    Noticed.threads.clear()

    async def main() -> Noticed:
        async def receive() -> Message:
            return {"type": "http.request", "body": data, "more_body": False}

        class App:
            class state:
                aside = bodies.Aside()

        found = await bodies.body(Noticed).dependency(Request({"type": "http", "app": App, "headers": []}, receive))
        assert isinstance(found, Noticed)
        return found

    asyncio.run(main())
    assert len(Noticed.threads) == 1
    assert Noticed.threads[0].startswith("aside") is large


def test_junk_that_would_be_large_in_memory_is_one_clear_error(running: Aggregator) -> None:
    junk = b"[" + b"[]," * 15_000 + b"[]]"
    with connect(running) as line:
        headers = {"Authorization": bearer(), "Content_Length": str(len(junk)), "Connection": "close"}
        line.sendall(head("POST", "/v1/progress", **headers) + junk)
        answer = rest_of(line)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert error_of(answer).error.message.startswith("body: ")
