"""Open connections: how many there may be, and how long one may take to say what it wants.

A connection is anonymous until a request on it has shown a token. Anonymous clients have a share of the connections
and no more, and when it is full the oldest of them makes room: one that opens connections and says nothing shuts out
neither participants nor the next anonymous client.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from dataclasses import dataclass, field
from typing import Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

HEADER_SECONDS: Final = 10.0
# How long an answer may wait for a reader that takes nothing.
WRITE_SECONDS: Final = 60.0
MOST: Final = 8192
PER_NAME: Final = 32
# Files that are not connections of ours: the store's connections, logs, the pages that are read.
_OTHER_FILES: Final = 256
# Key of a connection in the state of its requests.
CONNECTION: Final = "connection"


@dataclass(slots=True, kw_only=True)
class Connections:
    """All open connections. ``anonymous``: how many may be without a known name; ``per_name``: of one name."""

    anonymous: int
    per_name: int
    header_seconds: float = HEADER_SECONDS
    write_seconds: float = WRITE_SECONDS
    unknown: dict[Connection, None] = field(default_factory=dict)
    known: dict[str, dict[Connection, None]] = field(default_factory=dict)

    @classmethod
    def within(cls, files: int, *, names: int) -> Connections:
        """Shares for a process that may open ``files`` files, where ``names`` may identify themselves."""
        most = max(64, min(MOST, files - _OTHER_FILES))
        anonymous = most // 4
        return cls(anonymous=anonymous, per_name=max(4, min(PER_NAME, (most - anonymous) // names)))

    def protocol(self) -> type[asyncio.Protocol]:
        """The protocol's class for uvicorn, of connections that are counted here."""
        return type("Counted", (Connection,), {"all": self})

    def arrived(self, connection: Connection) -> None:
        self.unknown[connection] = None
        if len(self.unknown) > self.anonymous:
            next(iter(self.unknown)).drop()

    def identified(self, connection: Connection, name: str) -> None:
        """``connection`` has shown the token of ``name``; when it has too many, its oldest idle one is closed."""
        self.left(connection)
        connection.name = name
        own = self.known.setdefault(name, {})
        own[connection] = None
        if len(own) > self.per_name:
            idle = next((c for c in own if not c.serving), None)
            if idle is not None:
                idle.drop()

    def left(self, connection: Connection) -> None:
        self.unknown.pop(connection, None)
        if connection.name is not None:
            self.known.get(connection.name, {}).pop(connection, None)


class Connection(H11Protocol):
    """An HTTP connection that ends when its headers, or the reader of its answers, take too long."""

    all: Connections

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, CONNECTION: self}, _loop)
        self.name: str | None = None
        self._headers_due: asyncio.TimerHandle | None = None
        self._reader_due: asyncio.TimerHandle | None = None

    @property
    def serving(self) -> bool:
        """Whether a request was read and not yet answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def identified(self, name: str) -> None:
        if name != self.name:
            self.all.identified(self, name)

    def drop(self) -> None:
        """Close it now, whatever it is at."""
        self.all.left(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # The kernel gives up on a peer that takes nothing, also when we have closed our side already.
            milliseconds = int(self.all.write_seconds * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self.all.arrived(self)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.left(self)
        self._headers_came()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.serving:
            self._expect_headers()
        super().data_received(data)
        if self.serving:
            self._headers_came()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. Work on the request that it broke must not be answered on top of this."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()  # an answer is under way, or was given
        if self.serving:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reader_due is None:
            self._reader_due = self.loop.call_later(self.all.write_seconds, self.drop)

    def resume_writing(self) -> None:
        if self._reader_due is not None:
            self._reader_due.cancel()
            self._reader_due = None
        super().resume_writing()

    def _expect_headers(self) -> None:
        if self._headers_due is None and not self.transport.is_closing():
            self._headers_due = self.loop.call_later(self.all.header_seconds, self.drop)

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None


def files_at_once() -> int:
    """How many files this process may have open, after raising the soft limit as far as it may be and makes sense."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST + _OTHER_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            logger.warning("no more than %d files can be opened: %s", soft, error)
            return soft
        return wanted
    return MOST + _OTHER_FILES if soft == resource.RLIM_INFINITY else soft
