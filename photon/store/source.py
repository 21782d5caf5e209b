"""Random reads of one immutable file, on disk or in object storage, into buffers that the caller owns.

The merge reads ranges of many files at once into a few reused buffers; allocating per read would cost more than reading
(fresh pages are slower than the page cache). Sources are safe to use from several threads.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

from photon.store.errors import AccessDenied, NotFound, PreconditionFailed, StoreError, Unreachable

ATTEMPTS: Final = 6
FIRST_BACKOFF_SECONDS: Final = 0.2
TIMEOUT_SECONDS: Final = 60.0


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

    def __init__(self, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout_seconds
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: set[http.client.HTTPConnection] = set()
        self._tls: ssl.SSLContext | None = None

    def get(self, url: SplitResult) -> http.client.HTTPConnection:
        mine: dict[tuple[str, str], http.client.HTTPConnection] = self._local.__dict__.setdefault("mine", {})
        key = (url.scheme, url.netloc)
        connection = mine.get(key)
        if connection is None:
            connection = mine[key] = self._open(url)
        return connection

    def _open(self, url: SplitResult) -> http.client.HTTPConnection:
        if url.hostname is None or url.scheme not in ("http", "https"):
            raise ValueError(f"not an http or https URL: {url.scheme}://{url.netloc}")
        connection: http.client.HTTPConnection
        with self._lock:
            if url.scheme == "https":
                self._tls = self._tls or ssl.create_default_context()
                connection = http.client.HTTPSConnection(
                    url.hostname, url.port, timeout=self._timeout, context=self._tls
                )
            else:
                connection = http.client.HTTPConnection(url.hostname, url.port, timeout=self._timeout)
            self._all.add(connection)
        return connection

    def close(self) -> None:
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
        sleep: Waits between attempts.

    Raises (from ``read_into``):
        NotFound, AccessDenied, PreconditionFailed: As the server says.
        Unreachable: After ``ATTEMPTS`` attempts (about 6 s of waiting) on cut connections, 429 and 5xx.
    """

    def __init__(
        self,
        url: str,
        size_bytes: int,
        *,
        etag: str | None = None,
        refresh: Callable[[], str] | None = None,
        connections: Connections | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = urlsplit(url)
        self._size_bytes = size_bytes
        self._etag = etag
        self._refresh = refresh
        self._owned = Connections() if connections is None else None
        self._connections = connections or self._owned or Connections()
        self._sleep = sleep

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def _name(self) -> str:
        """The URL without its query, which is a credential."""
        return f"{self._url.scheme}://{self._url.netloc}{self._url.path}"

    def read_into(self, offset: int, buffer: memoryview) -> None:
        _check_range(self._name(), self._size_bytes, offset, len(buffer))
        if not len(buffer):
            return
        refreshed = False
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1))
            try:
                status = self._attempt(offset, buffer)
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
                continue
            if status is None:
                return
            if status == 403 and self._refresh is not None and not refreshed:
                self._url = urlsplit(self._refresh())
                refreshed = True
                continue
            self._raise_final(status)
            problem = f"status {status}"
        raise Unreachable(f"{self._name()}: {problem}, after {ATTEMPTS} attempts")

    def _attempt(self, offset: int, buffer: memoryview) -> int | None:
        """None when ``buffer`` is full, else the status that the server gave."""
        url = self._url
        connection = self._connections.get(url)
        headers = {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}
        if self._etag is not None:
            headers["If-Match"] = self._etag
        try:
            connection.request("GET", f"{url.path}?{url.query}" if url.query else url.path, headers=headers)
            with connection.getresponse() as response:
                whole = response.status == 200 and len(buffer) == self._size_bytes
                if response.status != 206 and not whole:
                    # Read a short answer to its end, so that the connection can be used again.
                    response.read(65536)
                    if not response.isclosed():
                        connection.close()
                    return response.status
                done = 0
                while done < len(buffer):
                    count = response.readinto(buffer[done:])
                    if count == 0:
                        raise http.client.IncompleteRead(b"", len(buffer) - done)
                    done += count
                response.read()
        except BaseException:
            # Whatever interrupted it, half an answer may be under way on this connection.
            connection.close()
            raise
        return None

    def _raise_final(self, status: int) -> None:
        if status == 404:
            raise NotFound(f"{self._name()}: there is no such object")
        if status == 412:
            raise PreconditionFailed(f"{self._name()} is no longer the object that was checked")
        if status in (401, 403):
            raise AccessDenied(f"{self._name()}: the store refuses this URL (expired, or not for this object)")
        if status < 500 and status not in (408, 429):
            raise StoreError(f"{self._name()}: unexpected status {status} for a ranged GET")

    def close(self) -> None:
        if self._owned is not None:
            self._owned.close()
