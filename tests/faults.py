"""A proxy that does what networks and busy stores do: answer 503, cut connections, deliver less or other bytes.

A real HTTP server on a real socket, in front of a real store: open an ObjectStore at ``proxy.endpoint`` and everything
that it signs passes through here. With ``tls`` it is the server that ends TLS for the store.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from urllib.parse import urlsplit

from tests.proxying import Handler, Proxy, pass_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What befalls one request. ``method`` restricts it to requests of that kind.

    ``status``: answer this and do not ask the store. ``cut_request_after``: close after so many bytes of the request's
    body. ``drop_answer``: let the store do its work, then close without an answer. ``cut_answer_after``: close after so
    many bytes of the answer's body. ``shorten_answer_by``: a whole but shorter answer. ``flip_answer_byte``: another
    byte at this place.
    """

    method: str | None = None
    status: int | None = None
    body: str = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    cut_request_after: int | None = None
    drop_answer: bool = False
    cut_answer_after: int | None = None
    shorten_answer_by: int | None = None
    flip_answer_byte: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way to the store."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


# Status, headers and body of an answer.
Answer = tuple[int, dict[str, str], bytes]
Instead = Callable[[Asked], Answer | None]


class FaultProxy(Proxy):
    """Forwards to ``upstream`` and applies each planned fault to one request, in the order of their arrival."""

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None, instead: Instead | None = None) -> None:
        """``instead`` may answer a request in the store's place; None passes it on."""
        self.instead = instead
        self._faults: deque[Fault] = deque()
        self._lock = Lock()
        self.requests: list[tuple[str, str]] = []
        self._scheme = "http" if tls is None else "https"
        super().__init__(_handler(self, urlsplit(upstream).netloc), tls=tls)

    @property
    def endpoint(self) -> str:
        """URL of this proxy."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def plan(self, *faults: Fault) -> None:
        """The next requests meet these; those after them pass."""
        with self._lock:
            self._faults.extend(faults)

    def heal(self) -> None:
        """What was planned and has not happened does not happen."""
        with self._lock:
            self._faults.clear()

    def seen(self, method: str) -> int:
        """How many requests of this kind came by."""
        with self._lock:
            return sum(seen == method for seen, _ in self.requests)

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for the request that has just come."""
        with self._lock:
            self.requests.append((method, path.partition("?")[0]))
            if self._faults and self._faults[0].method in (None, method):
                return self._faults.popleft()
            return None


def _handler(proxy: FaultProxy, upstream: str) -> type[Handler]:
    class Faulty(Handler):
        def do(self) -> None:
            fault = proxy.take(self.command, self.path) or Fault()
            length = int(self.headers.get("Content-Length", 0))
            if fault.cut_request_after is not None:
                self.rfile.read(min(fault.cut_request_after, length))
                self.cut()
                return
            if fault.status is not None:
                self.rfile.read(length)
                self.answer(fault.status, {}, fault.body.encode())
                return
            body = self.rfile.read(length)
            if proxy.instead is not None:
                answered = proxy.instead(Asked(self.command, self.path, dict(self.headers), body))
                if answered is not None:
                    self.answer(*answered)
                    return
            passed = pass_on(upstream, self.command, self.path, self.headers.items(), body)
            if fault.drop_answer:
                self.cut()
                return
            data = passed.data
            if fault.flip_answer_byte is not None:
                place = fault.flip_answer_byte
                data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            length = passed.announced_bytes
            if fault.shorten_answer_by is not None:
                data = data[: -fault.shorten_answer_by]
                length = len(data)
            self.answer(passed.status, passed.headers, data, length=length, cut_after=fault.cut_answer_after)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do

        def answer(
            self,
            status: int,
            headers: dict[str, str],
            data: bytes,
            *,
            length: int | None = None,
            cut_after: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(data) if length is None else length))
            self.end_headers()
            self.wfile.write(data if cut_after is None else data[:cut_after])
            if cut_after is not None:
                self.cut()

        def cut(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    return Faulty
