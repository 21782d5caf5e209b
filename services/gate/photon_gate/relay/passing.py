"""One object through the relay: a GET in ranges, or a PUT whose sha256 is computed on the way.

The last bytes of a PUT are sent only once all of them are known to be the announced ones, so the store never completes
an object with others. Redirects are not followed. The relay itself tries nothing twice: that is the worker's part.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from photon.store.http import Connection
from photon_gate.relay.grants import Grant

BLOCK_BYTES: Final = 1024 * 1024
_TAG: Final = re.compile(r'"[!#-~]{1,128}"')
_RANGE: Final = re.compile(r"bytes=(\d{1,15})-(\d{1,15})?")

Given = TypeVar("Given")


class Outcome(StrEnum):
    """How a transfer ended."""

    COMPLETE = "Complete"
    ALREADY_THERE = "AlreadyThere"
    WRONG_BYTES = "WrongBytes"
    UNRECORDED = "Unrecorded"
    REFUSED = "Refused"
    BROKEN = "Broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What went through: for records and metrics. ``bytes`` is what was handed to the other side, complete or not.

    ``sha256``: of the bytes of a PUT that was read to its end.
    """

    grant: Grant
    outcome: Outcome
    bytes: int
    sha256: str | None


class Reads(Protocol):
    """Reads at most what the buffer holds, with one call of the socket; 0 at the end."""

    def __call__(self, buffer: memoryview, /) -> int: ...


class WorkerGone(Exception):
    """The worker's side ended in the middle. No OSError: that would be taken for the store's."""


class WrongBytes(Exception):
    """The sha256 is not the announced one."""


def span_of(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """[first, stop) of a Range header, the whole without one; None for what is not one range within the object."""
    if header is None:
        return 0, size_bytes
    found = _RANGE.fullmatch(header)
    if found is None:
        return None
    first = int(found[1])
    stop = size_bytes if found[2] is None else min(int(found[2]) + 1, size_bytes)
    return (first, stop) if first < stop else None


class Upload:
    """The body of a PUT on its way: read from the worker, hashed, handed on; ``leaving`` is asked before its end is."""

    def __init__(self, grant: Grant, read: Reads, leaving: Callable[[Grant], object]) -> None:
        self._grant = grant
        self._leaving = leaving
        self._read = read
        self.left = grant.size_bytes
        self.sent = 0
        self.sha256: str | None = None

    def pieces(self) -> Iterator[memoryview]:
        """The body, piece by piece; the last one only when the sha256 is right, and it is on record.

        Raises WorkerGone, WrongBytes, and what ``leaving`` raises (no OSError).
        """
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(BLOCK_BYTES, self._grant.size_bytes)))
        while self.left:
            piece = buffer[: self.read(buffer)]
            digest.update(piece)
            if not self.left:
                self.sha256 = digest.hexdigest()
                if self.sha256 != self._grant.sha256:
                    raise WrongBytes
                self._leaving(self._grant)
            self.sent += len(piece)
            yield piece

    def drain(self) -> None:
        """Read what is left: a client that still writes would lose the answer to a reset. Raises WorkerGone."""
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while self.left:
            self.read(buffer)

    def read(self, buffer: memoryview) -> int:
        """Some bytes of the body, at least one. Raises WorkerGone."""
        try:
            count = self._read(buffer[: min(len(buffer), self.left)])
        except OSError as error:
            raise WorkerGone from error
        if count == 0:
            raise WorkerGone
        self.left -= count
        return count


class Download:
    """The body of a GET on its way to the worker."""

    def __init__(self, grant: Grant, span: tuple[int, int]) -> None:
        self._grant = grant
        self._span = span
        self.sent = 0

    def run(self, connection: Connection, head: Callable[[str], object], write: Callable[[memoryview], object]) -> None:
        """Copy the span; ``head`` gets the object's ETag before the first ``write``.

        Raises StoreError and TryAgain for the store's side, WorkerGone for the other.
        """
        first, stop = self._span
        url = self._grant.url
        response = connection.get(url, first, stop, size_bytes=self._grant.size_bytes)
        tag = response.headers.get("ETag", "")
        try:
            _to_worker(head, tag if _TAG.fullmatch(tag) else '"relayed"')
            buffer = memoryview(bytearray(min(BLOCK_BYTES, stop - first)))
            while first < stop:
                count = connection.read_into(response, buffer[: min(len(buffer), stop - first)], url)
                _to_worker(write, buffer[:count])
                first += count
                self.sent += count
        finally:
            if first < stop:
                # What was not read would be taken for the next answer.
                connection.close()


def _to_worker(do: Callable[[Given], object], given: Given) -> None:
    try:
        do(given)
    except OSError as error:
        raise WorkerGone from error
