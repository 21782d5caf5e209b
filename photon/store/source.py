"""Random reads of one immutable file, on disk or in object storage, into buffers that the caller owns.

The merge reads ranges of many files at once into a few reused buffers; allocating per read would cost more than reading
(fresh pages are slower than the page cache). Sources are safe to use from several threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from photon.store.errors import AccessDenied, NotFound, StoreError, Unreachable
from photon.store.http import Connection, place
from photon.store.retry import RetryPolicy, TryAgain


class Source(Protocol):
    """A file of ``size_bytes`` that does not change while it is read."""

    @property
    def size_bytes(self) -> int: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` (bytes) from ``offset``, whole. Raises StoreError or OSError."""
        ...

    def close(self) -> None: ...


def _check_range(name: str, size_bytes: int, offset: int, length: int) -> None:
    if offset < 0 or offset + length > size_bytes:
        raise ValueError(f"{name}: bytes {offset} to {offset + length} of a file of {size_bytes}")


class FileSource:
    """A file on disk.

    Raises:
        NotFound: There is no such file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise NotFound(f"{self._path}: there is no such file") from error
        self._size_bytes = os.fstat(self._descriptor).st_size

    @property
    def path(self) -> str:
        """Where it is, for other processes of this machine."""
        return self._path

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        _check_range(self._path, self._size_bytes, offset, len(buffer))
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise StoreError(f"{self._path} became shorter while it was read")
            done += count

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Connections:
    """Keep-alive HTTP connections: one per thread and server, shared by all sources that are given this object.

    A round's updates are thousands of objects on one server: a connection per object and thread would run out of
    descriptors. Connections of threads that have ended are closed by ``close``.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: set[Connection] = set()
        self._closed = False

    def get(self, url: str) -> Connection:
        """This thread's connection to the server of ``url``. Raises Unreachable after ``close``."""
        mine: dict[tuple[str, str], Connection] = self._local.__dict__.setdefault("mine", {})
        server = urlsplit(url)[:2]
        connection = mine.get(server)
        if connection is None:
            connection = mine[server] = Connection(url)
            with self._lock:
                self._all.add(connection)
        if self._closed:
            raise Unreachable(f"{place(url)}: the program is ending and has closed its connections")
        return connection

    def close(self) -> None:
        """Close all of them, also under threads that still read: what they read is no longer wanted."""
        self._closed = True
        with self._lock:
            for connection in self._all:
                connection.close()


class UrlSource:
    """An object behind a (presigned) URL, read by ranged GETs.

    Args:
        url: Of a GET.
        size_bytes: Of the whole object; reads beyond it are refused here.
        etag: Pins the bytes: every request carries If-Match, and an object that was replaced raises PreconditionFailed.
        refresh: Gives a fresh URL when this one has expired (403); tried once per read.
        connections: Shared with other sources; without it the source has its own.
        retry: How often a read is tried; an attempt continues where the one before was cut.
        sleep: Waits between attempts.

    Raises (from ``read_into``):
        NotFound, AccessDenied, PreconditionFailed, DigestMismatch: As the server says; the last for another size.
        Unreachable: When no attempt is left on cut connections, 429 and 5xx.
    """

    def __init__(
        self,
        url: str,
        size_bytes: int,
        *,
        etag: str | None = None,
        refresh: Callable[[], str] | None = None,
        connections: Connections | None = None,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        self._size_bytes = size_bytes
        self._headers = {} if etag is None else {"If-Match": etag}
        self._refresh = refresh
        self._owned = Connections() if connections is None else None
        self._connections = connections or self._owned or Connections()
        self._retry = retry or RetryPolicy()
        self._sleep = sleep

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        _check_range(place(self._url), self._size_bytes, offset, len(buffer))
        done = 0
        refresh = self._refresh

        def attempt() -> None:
            nonlocal done, refresh
            url = self._url
            connection = self._connections.get(url)
            try:
                response = connection.get(
                    url, offset + done, offset + len(buffer), size_bytes=self._size_bytes, headers=self._headers
                )
                while done < len(buffer):
                    done += connection.read_into(response, buffer[done:], url)
            except AccessDenied as error:
                if refresh is None:
                    raise
                self._url, refresh = refresh(), None
                raise TryAgain(error) from error
            except BaseException:
                # Whatever interrupted it, half an answer may be under way on this connection.
                connection.close()
                raise

        if len(buffer):
            self._retry.run(attempt, sleep=self._sleep)

    def close(self) -> None:
        if self._owned is not None:
            self._owned.close()
