"""What the tests' proxies share: an HTTP server in a thread, and a request passed on to another server.

Leaving the ``with`` block also ends the connections that clients keep, and with them the threads that wait on them.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "date", "server"}


@dataclass(frozen=True)
class Passed:
    """The answer to a request that was passed on, without what concerns only its connection."""

    status: int
    headers: dict[str, str]
    data: bytes
    announced_bytes: int


def pass_on(upstream: str, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> Passed:
    """Send a request as it is to ``HOST:PORT``; raises OSError or HTTPException when that gives no answer."""
    with closing(HTTPConnection(upstream, timeout=30)) as inner:
        inner.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            inner.putheader(name, value)
        inner.endheaders()
        # Refused before all was read: the answer says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            inner.send(body)
        response = inner.getresponse()
        data = response.read()
    kept = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
    announced = int(response.headers.get("Content-Length", 0)) if method == "HEAD" else len(data)
    return Passed(status=response.status, headers=kept, data=data, announced_bytes=announced)


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1, is quiet, and lets clients and the server behind it go away."""

    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(OSError, HTTPException):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._lock = Lock()
        self._kept: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._kept.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._kept.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Wake the threads that wait for another request."""
        with self._lock:
            for request in self._kept:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Serves ``handler`` on a port of 127.0.0.1 while in a ``with`` block."""

    def __init__(self, handler: type[Handler], *, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server(handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        port: int = self._server.server_address[1]
        return port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server.end_connections()
