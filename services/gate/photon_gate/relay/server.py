"""The relay: listens on the institution's side at ``/o/ID``, a thread for each connection, and passes bytes.

Threads and http.server, whose requests are bounded in their number and size: reading sockets in asyncio costs twice the
CPU. What a worker sends is used only as far as the grant says: nothing else of it reaches a store.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Event, Lock, Thread, current_thread
from types import TracebackType
from typing import Any, Final, Self

from photon.errors import PhotonError
from photon.store.errors import StoreError
from photon.store.retry import TryAgain
from photon_gate.relay import answers
from photon_gate.relay.answers import Answer, answer_for
from photon_gate.relay.exchange import Exchange, Limits
from photon_gate.relay.grants import MAX_PUT_BYTES, Grant, Grants
from photon_gate.relay.passing import BLOCK_BYTES, Download, Outcome, Passed, Upload, WorkerGone, WrongBytes, span_of

log = logging.getLogger(__name__)

_PATH: Final = re.compile(r"/o/([A-Za-z0-9_-]{22})")
LOOK_SECONDS: Final = 0.5
CLOSE_SECONDS: Final = 5.0
OnPassed = Callable[[Passed], None]
OnLeaving = Callable[[Grant], None]


class Relay:
    """Serves the grants between ``start`` and ``close``, or in a ``with`` block.

    ``on_passed`` is told of every transfer that began, from the thread that made it. ``on_leaving`` is asked before the
    end of an upload leaves: what it raises (a PhotonError: it cannot be recorded) ends the upload. ``context``: how
    certificates of stores are verified; by default as the environment says.
    """

    def __init__(
        self,
        grants: Grants,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = None,
        on_passed: OnPassed | None = None,
        on_leaving: OnLeaving | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Listen at ``host:port`` (0: any free one). Raises OSError when the address is taken."""
        self.grants = grants
        self.limits = limits or Limits()
        self._on_passed = on_passed or (lambda _: None)
        self.leaving = on_leaving or (lambda _: None)
        self._context = context
        self._lock = Lock()
        self._exchanges: set[Exchange] = set()
        self._closing = Event()
        self._server = _Server((host, port), self)
        self._threads = [
            Thread(target=self._server.serve_forever, args=(LOOK_SECONDS,), name="relay", daemon=True),
            Thread(target=self._look, name="relay-deadlines", daemon=True),
        ]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, identifier: str, host: str = "127.0.0.1") -> str:
        """What the worker is given in place of the store's URL."""
        return f"http://{host}:{self.port}/o/{identifier}"

    @property
    def connections(self) -> int:
        """Connections of workers that are open now."""
        with self._lock:
            return len(self._exchanges)

    def start(self) -> None:
        """Begin to serve."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End all transfers and stop; returns when no thread serves any more, after a few seconds in any case."""
        self._closing.set()
        with suppress(OSError):
            # Wakes the thread that listens, which would look only at its next turn.
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            left = list(self._exchanges)
        for exchange in left:
            exchange.end()
        deadline = time.monotonic() + CLOSE_SECONDS
        while self.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def enter(self, client: Any) -> Exchange | None:
        """A worker has connected; None when there are too many, or when this ends."""
        with self._lock:
            if self._closing.is_set() or len(self._exchanges) >= self.limits.connections:
                return None
            exchange = Exchange(client, self.limits, self._context)
            self._exchanges.add(exchange)
            return exchange

    def leave(self, exchange: Exchange) -> None:
        """Its thread ends."""
        exchange.close()
        with self._lock:
            self._exchanges.discard(exchange)

    def passed(self, passed: Passed) -> None:
        """Tell of a transfer."""
        try:
            self._on_passed(passed)
        except PhotonError as error:
            log.error("relay: a transfer ended as %s: %s", passed.outcome, error)

    def _look(self) -> None:
        while not self._closing.wait(min(LOOK_SECONDS, self.limits.grace_seconds)):
            now = time.monotonic()
            with self._lock:
                late = [exchange for exchange in self._exchanges if exchange.over(now)]
            for exchange in late:
                log.debug("a transfer took too long and was ended")
                exchange.end()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], relay: Relay) -> None:
        self.relay = relay
        # Handlers are made below, with their exchange.
        super().__init__(address, BaseHTTPRequestHandler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks DNS for this machine's name.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        current_thread().name = "relay-connection"
        exchange = self.relay.enter(request)
        if exchange is None:
            self.shutdown_request(request)
            return
        try:
            with suppress(OSError, HTTPException):
                _Handler(request, client_address, self, exchange)
        finally:
            self.relay.leave(exchange)
            self.shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __init__(self, request: Any, client_address: Any, server: _Server, exchange: Exchange) -> None:
        self.exchange = exchange
        request.settimeout(exchange.limits.idle_seconds)
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:
        """Pass an object, or one range of it, to the worker."""
        grant = self._granted("GET")
        if grant is None:
            return
        if self._has_body():
            self._refuse(answers.WRONG_REQUEST)
            return
        asked = self.headers.get("Range")
        span = span_of(asked, grant.size_bytes)
        if span is None:
            self._answer(answers.WRONG_RANGE, {"Content-Range": f"bytes */{grant.size_bytes}"})
            return
        first, stop = span

        def head(tag: str) -> None:
            self.send_response(HTTPStatus.OK if asked is None else HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(stop - first))
            self.send_header("ETag", tag)
            if asked is not None:
                self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{grant.size_bytes}")
            self.end_headers()
            self.headed = True

        self.headed = False
        download = Download(grant, span)
        outcome = Outcome.BROKEN
        self.exchange.begin(stop - first)
        try:
            download.run(self.exchange.store(grant.url), head, self.wfile.write)
            outcome = Outcome.COMPLETE
        except TryAgain as again:
            self._failed(again.error)
        except StoreError as error:
            outcome = Outcome.REFUSED
            self._failed(error)
        except WorkerGone:
            self.close_connection = True
        finally:
            self.exchange.rest()
            self.server.relay.passed(Passed(grant=grant, outcome=outcome, bytes=download.sent, sha256=None))

    def do_PUT(self) -> None:
        """Pass an object to the store, if it is the announced one."""
        grant = self._granted("PUT")
        if grant is None:
            return
        length = self.headers.get_all("Content-Length", [])
        if length != [str(grant.size_bytes)] or "Transfer-Encoding" in self.headers:
            self._refuse(answers.WRONG_LENGTH)
            return
        upload = Upload(grant, self.rfile.readinto1, self.server.relay.leaving)
        self.exchange.begin(grant.size_bytes)
        try:
            outcome, answer = self._put(grant, upload)
        except WorkerGone:
            outcome, answer = Outcome.BROKEN, None
            self.close_connection = True
        finally:
            self.exchange.rest()
        # Before the worker knows: what it takes for done is in the records.
        self.server.relay.passed(Passed(grant=grant, outcome=outcome, bytes=upload.sent, sha256=upload.sha256))
        if outcome is Outcome.COMPLETE:
            self._answer_created(grant)
        elif answer is not None:
            self._answer(answer)
        with suppress(WorkerGone):
            self.exchange.begin(upload.left)
            upload.drain()
        self.exchange.rest()

    def _put(self, grant: Grant, upload: Upload) -> tuple[Outcome, Answer]:
        """Raises WorkerGone."""
        try:
            created = self.exchange.store(grant.url).put(grant.url, grant.headers, upload.pieces())
        except WrongBytes:
            return Outcome.WRONG_BYTES, answers.WRONG_BYTES
        except TryAgain as again:
            log.info("relay: %s", again.error)
            return Outcome.BROKEN, answer_for(again.error)
        except StoreError as error:
            log.info("relay: %s", error)
            return Outcome.REFUSED, answer_for(error)
        except PhotonError as error:
            log.error("relay: %s", error)
            return Outcome.UNRECORDED, answers.UNRECORDED
        return Outcome.COMPLETE if created else Outcome.ALREADY_THERE, answers.EXISTS

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses: not its page, and nothing of what was sent comes back."""
        del message, explain
        status = HTTPStatus(code)
        self._answer(Answer(status, "InvalidRequest", status.phrase), close=True)

    def version_string(self) -> str:
        """The header Server."""
        return "photon-gate"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: a path is a credential."""

    def _granted(self, method: str) -> Grant | None:
        """The grant of this request; None when it was refused."""
        found = _PATH.fullmatch(self.path)
        grant = self.server.relay.grants.find(found[1]) if found else None
        if grant is None or grant.method != method:
            self._refuse(answers.UNKNOWN_ID if grant is None else answers.WRONG_METHOD)
            return None
        return grant

    def _has_body(self) -> bool:
        return "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"

    def _refuse(self, answer: Answer) -> None:
        """Answer at once, then read the body: a client that still writes would lose the answer to a reset."""
        if not self._has_body():
            self._answer(answer)
            return
        self._answer(answer, close=True)
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or not len(length) < 16:
            return
        left = min(int(length), MAX_PUT_BYTES)
        self.exchange.begin(left)
        while left and (read := len(self.rfile.read1(min(left, BLOCK_BYTES)))):
            left -= read

    def _failed(self, error: StoreError) -> None:
        """Say what the store's side of a GET met, or cut an answer that has begun."""
        log.info("relay: %s", error)
        if self.headed:
            self.close_connection = True
        else:
            self._answer(answer_for(error))

    def _answer_created(self, grant: Grant) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("ETag", f'"{grant.sha256}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, answer: Answer, headers: dict[str, str] | None = None, *, close: bool = False) -> None:
        """Send an error; the connection is closed when the worker's body was not read."""
        body = answer.body()
        try:
            self.send_response(answer.status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            if close:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
