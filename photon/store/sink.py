"""One output file, written in stripes by several threads in any order, with the sha256 of the whole.

Threads take stripes in ascending order and finish them in nearly that order; a digest needs them in exactly that order.
So ``write`` hashes when all lower stripes have been hashed and waits until then. That is short as long as every lower
stripe is under way: claim stripes in ascending order, and ``abort`` when a thread gives up.
"""

from __future__ import annotations

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from photon.store.errors import DiskFull, StoreError
from photon.store.multipart import MultipartUpload

# S3's bounds on a multipart upload.
MIN_PART_BYTES: Final = 5 * 2**20
MAX_PARTS: Final = 10_000
# A stripe takes seconds at most; a longer wait means that a thread died without abort().
TURN_SECONDS: Final = 600.0
ENOSPC: Final = frozenset({28, 122})  # no space left, quota exceeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written."""

    size_bytes: int
    sha256: str


class SinkAborted(Exception):
    """Another thread failed and aborted this sink; its error is the one that matters."""


class Sink(Protocol):
    """A file of ``size_bytes`` in stripes of ``stripe_bytes`` (the last shorter). Thread-safe.

    Nothing is there for readers until ``commit``; ``abort`` leaves nothing behind.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def stripe_bytes(self) -> int: ...

    def write(self, index: int, data: memoryview) -> None:
        """Write stripe ``index`` (from 0), whole and once. ``data`` may be reused when this returns."""
        ...

    def commit(self) -> Written:
        """Make the file appear; every stripe must have been written."""
        ...

    def give_up(self) -> None:
        """Let threads that wait in ``write`` raise SinkAborted; ``abort`` is still to come. Returns at once."""
        ...

    def abort(self) -> None:
        """Drop everything; threads that wait in ``write`` raise SinkAborted. Does nothing after ``commit``."""
        ...


class _Stripes(ABC):
    """What all sinks share: the bounds of stripes and the digest in order."""

    def __init__(self, name: str, size_bytes: int, stripe_bytes: int) -> None:
        if size_bytes < 1 or stripe_bytes < 1:
            raise ValueError(f"{name}: a sink of {size_bytes} bytes in stripes of {stripe_bytes}")
        self._name = name
        self._size_bytes = size_bytes
        self._stripe_bytes = stripe_bytes
        self._count = -(-size_bytes // stripe_bytes)
        self._digest = hashlib.sha256()
        self._next = 0
        self._done = 0
        self._active = 0
        self._aborted = False
        self._dropped = False
        self._committed = False
        self._turn = threading.Condition()

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def stripe_bytes(self) -> int:
        return self._stripe_bytes

    def write(self, index: int, data: memoryview) -> None:
        if not 0 <= index < self._count:
            raise ValueError(f"{self._name}: stripe {index} of {self._count}")
        expected = min(self._stripe_bytes, self._size_bytes - index * self._stripe_bytes)
        if len(data) != expected:
            raise ValueError(f"{self._name}: stripe {index} has {len(data)} bytes, not {expected}")
        with self._turn:
            self._active += 1
        try:
            self._hash(index, data)
            self._store(index, data)
            with self._turn:
                self._done += 1
        finally:
            with self._turn:
                self._active -= 1
                self._turn.notify_all()

    def _hash(self, index: int, data: memoryview) -> None:
        with self._turn:
            ready = self._turn.wait_for(lambda: self._aborted or self._next >= index, TURN_SECONDS)
            if self._aborted:
                raise SinkAborted(self._name)
            if not ready:
                raise StoreError(f"{self._name}: stripe {self._next} was not written within {TURN_SECONDS:.0f} s")
            if self._next > index:
                raise ValueError(f"{self._name}: stripe {index} was written before")
        # Only the thread whose turn it is gets here; hashlib lets other threads run meanwhile.
        self._digest.update(data)
        with self._turn:
            self._next = index + 1
            self._turn.notify_all()

    def give_up(self) -> None:
        """Mark it aborted, and wake who waits for a turn."""
        with self._turn:
            self._aborted = True
            self._turn.notify_all()

    def abort(self) -> None:
        """Drop everything, once no thread writes any more. Does nothing after ``commit`` or a second time."""
        self.give_up()
        with self._turn:
            first, self._dropped = not self._dropped and not self._committed, True
            # The file must not be closed (and its descriptor given to another file) under a writer's hands.
            self._turn.wait_for(lambda: self._active == 0, TURN_SECONDS)
        if first:
            self._drop()

    def commit(self) -> Written:
        """Make the file appear; every stripe must have been written."""
        with self._turn:
            if self._aborted:
                raise SinkAborted(self._name)
            if self._done != self._count:
                raise ValueError(f"{self._name}: {self._done} of {self._count} stripes were written")
        self._publish()
        self._committed = True
        return Written(size_bytes=self._size_bytes, sha256=self._digest.hexdigest())

    @abstractmethod
    def _store(self, index: int, data: memoryview) -> None:
        """Keep stripe ``index``."""

    @abstractmethod
    def _publish(self) -> None:
        """Make what was stored the object."""

    @abstractmethod
    def _drop(self) -> None:
        """Leave nothing of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()


class FileSink(_Stripes):
    """A file on disk: written beside its place and renamed into it by ``commit``.

    Args:
        path: Its folder must exist; a file that is there is replaced.
        fsync: Also wait for the disk, so that the file outlives a power cut.

    Raises:
        DiskFull: The disk has no room left.
    """

    def __init__(
        self, path: str | Path, size_bytes: int, *, stripe_bytes: int = 8 * 2**20, fsync: bool = False
    ) -> None:
        super().__init__(str(path), size_bytes, stripe_bytes)
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        self._fsync = fsync
        self._descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def _store(self, index: int, data: memoryview) -> None:
        offset, done = index * self._stripe_bytes, 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)
        except OSError as error:
            if error.errno in ENOSPC:
                raise DiskFull(f"{self._path}: the disk is full; free or add space") from error
            raise

    def _publish(self) -> None:
        if self._fsync:
            os.fsync(self._descriptor)
        self._temporary.replace(self._path)
        os.close(self._descriptor)
        if self._fsync:
            _fsync_folder(self._path.parent)

    def _drop(self) -> None:
        os.close(self._descriptor)
        self._temporary.unlink(missing_ok=True)


class MultipartSink(_Stripes):
    """An object in the store: each stripe is a part of a multipart upload.

    Args:
        upload: As ``ObjectStore.multipart`` begins it; this sink completes or aborts it.
        size_bytes: Of the object.
        stripe_bytes: See ``multipart_stripe_bytes``.
    """

    def __init__(self, upload: MultipartUpload, size_bytes: int, *, stripe_bytes: int, name: str = "object") -> None:
        super().__init__(name, size_bytes, stripe_bytes)
        if self._count > MAX_PARTS or (self._count > 1 and stripe_bytes < MIN_PART_BYTES):
            raise ValueError(f"{name}: S3 takes at most {MAX_PARTS} parts of at least {MIN_PART_BYTES} bytes")
        self._upload = upload

    def _store(self, index: int, data: memoryview) -> None:
        self._upload.upload_part(index + 1, data)

    def _publish(self) -> None:
        self._upload.complete()

    def _drop(self) -> None:
        self._upload.abort()


class DigestSink(_Stripes):
    """Keeps nothing but size and sha256: what would have been written."""

    def _store(self, index: int, data: memoryview) -> None:
        pass

    def _publish(self) -> None:
        pass

    def _drop(self) -> None:
        pass


def multipart_stripe_bytes(size_bytes: int, *, least: int = 8 * 2**20) -> int:
    """The smallest power of two from ``least`` that keeps a file of ``size_bytes`` within S3's 10,000 parts."""
    stripe = least
    while size_bytes > stripe * MAX_PARTS:
        stripe *= 2
    return stripe


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
