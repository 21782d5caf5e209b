"""Whole objects to and from presigned URLs: all that a worker, which holds no key of the bucket, can do with the store.

Every attempt, pause and wait is bounded; what arrives is checked against the size and sha256 that the coordinator's
records name, and appears under its name only then.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from enum import Enum
from http.client import HTTPResponse
from pathlib import Path
from threading import Event, Lock, local
from typing import Final

from photon.files import replacing
from photon.protocol.records import FileRecord
from photon.store.errors import DigestMismatch, DiskFull
from photon.store.http import TIMEOUT_SECONDS, Connection, place
from photon.store.retry import RetryPolicy

STRIPE_BYTES: Final = 8 * 1024 * 1024
# Bytes between two reports of progress, and between two looks at whether the transfer was given up.
STEP_BYTES: Final = 1024 * 1024
OnBytes = Callable[[int], None]
OnRetry = Callable[[], None]


class UploadOutcome(Enum):
    """How an upload ended well."""

    CREATED = "created"
    ALREADY_THERE = "already there"


def upload(
    url: str,
    headers: Mapping[str, str],
    data: memoryview,
    *,
    on_retry: OnRetry | None = None,
    retry: RetryPolicy | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> UploadOutcome:
    """Send ``data`` to a presigned PUT with exactly its headers.

    ALREADY_THERE when an object of this key exists (412): an earlier attempt whose answer was lost, or another worker
    process of the same participant. Raises StoreError: at once when refused, after ``retry.attempts`` when unreachable.
    """
    if int(headers.get("Content-Length", data.nbytes)) != data.nbytes:
        raise ValueError(f"{place(url)} is for {headers['Content-Length']} bytes, not for {data.nbytes}")
    policy = retry or RetryPolicy()
    with Connection(url, timeout_seconds=timeout_seconds) as connection:

        def attempt() -> UploadOutcome:
            created = connection.put(url, headers, data)
            return UploadOutcome.CREATED if created else UploadOutcome.ALREADY_THERE

        return policy.run(attempt, sleep=sleep, on_retry=on_retry)


def download(
    url: str,
    path: Path,
    *,
    file: FileRecord,
    connections: int = 4,
    on_bytes: OnBytes | None = None,
    on_retry: OnRetry | None = None,
    retry: RetryPolicy | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch an object to ``path`` over several connections; the file is there, whole and verified, or not at all.

    ``on_bytes`` is told of every few bytes that arrived, one call at a time, and ``on_retry`` of each repeated request,
    both from other threads. Raises DigestMismatch
    when size or sha256 are not those of ``file``, DiskFull when this machine's disk is full, otherwise StoreError.
    """
    if shutil.disk_usage(path.parent).free < file.size_bytes:
        raise _disk_full(path, file)
    try:
        with replacing(path, several=True) as part:
            fetch = _Download(
                url, part.fileno(), file=file, on_bytes=on_bytes, on_retry=on_retry, timeout_seconds=timeout_seconds
            )
            digest = fetch.run(connections, policy=retry or RetryPolicy(), sleep=sleep)
            if digest != file.sha256:
                raise DigestMismatch(
                    f"{place(url)}: the sha256 is {digest}, the record of {file.name} says {file.sha256}"
                )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(path, file) from error
        raise


class _Download:
    """One object on its way into one file: stripes arrive in any order, the digest follows in theirs."""

    def __init__(
        self,
        url: str,
        descriptor: int,
        *,
        file: FileRecord,
        on_bytes: OnBytes | None,
        on_retry: OnRetry | None,
        timeout_seconds: float,
    ) -> None:
        self._url = url
        self._descriptor = descriptor
        self._file = file
        self._on_bytes = on_bytes
        self._on_retry = on_retry
        self._timeout_seconds = timeout_seconds
        self._given_up = Event()
        self._lock = Lock()
        self._mine = local()
        self._connections = ExitStack()

    def run(self, connections: int, *, policy: RetryPolicy, sleep: Callable[[float], None]) -> str:
        """Fetch all stripes; returns the sha256 of the whole."""
        size = self._file.size_bytes
        digest = hashlib.sha256()
        starts = range(0, size, STRIPE_BYTES)
        with self._connections, ThreadPoolExecutor(connections, thread_name_prefix="download") as pool:
            stripes = [
                pool.submit(self._fetch, start, min(start + STRIPE_BYTES, size), policy, sleep) for start in starts
            ]
            try:
                for start, stripe in zip(starts, stripes, strict=True):
                    stripe.result()
                    # Read back, hot from the page cache, while later stripes arrive.
                    digest.update(os.pread(self._descriptor, STRIPE_BYTES, start))
            except BaseException:
                self._given_up.set()
                pool.shutdown(cancel_futures=True)
                raise
        return digest.hexdigest()

    def _fetch(self, start: int, stop: int, policy: RetryPolicy, sleep: Callable[[float], None]) -> None:
        """Bytes [start, stop). An attempt goes on where the one before was cut."""
        connection = self._connection()
        position = start

        def attempt() -> None:
            nonlocal position
            response = connection.get(self._url, position, stop, size_bytes=self._file.size_bytes)
            while position < stop and not self._given_up.is_set():
                position += self._step(connection, response, position, stop)

        policy.run(attempt, sleep=sleep, given_up=self._given_up, on_retry=self._on_retry)

    def _step(self, connection: Connection, response: HTTPResponse, position: int, stop: int) -> int:
        buffer: bytearray = self._mine.buffer
        wanted = memoryview(buffer)[: min(STEP_BYTES, stop - position)]
        count = connection.read_into(response, wanted, self._url)
        written = 0
        while written < count:
            written += os.pwrite(self._descriptor, wanted[written:count], position + written)
        if self._on_bytes is not None:
            with self._lock:
                self._on_bytes(count)
        return count

    def _connection(self) -> Connection:
        """This thread's connection (and buffer), closed when the download ends."""
        if not hasattr(self._mine, "connection"):
            opened = Connection(self._url, timeout_seconds=self._timeout_seconds)
            self._mine.buffer = bytearray(STEP_BYTES)
            self._mine.connection = opened
            with self._lock:
                self._connections.enter_context(opened)
        connection: Connection = self._mine.connection
        return connection


def _disk_full(path: Path, file: FileRecord) -> DiskFull:
    return DiskFull(f"the disk is full: {path.parent} has no room for {file.name} ({file.size_bytes} bytes)")
