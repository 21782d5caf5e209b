"""Appends to the ledger: a file a month, each line on the disk before ``append`` returns.

A process that is killed in the middle of a line leaves a torn one. The next start moves those bytes to a file beside
the ledger and says so in an entry; a failed write (a full disk) is taken back at once. Nothing else is ever changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

from photon.files import lock
from photon_gate.ledger.entries import NOTHING_BEFORE, Direction, Entry, LedgerError, What, digest_of, write_line
from photon_gate.ledger.verify import months, read_ledger

LOCK: Final = "lock"


def utc_now() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


class Ledger:
    """The ledger in a folder, for one process at a time. Thread-safe."""

    def __init__(self, folder: Path, *, now: Callable[[], datetime] = utc_now) -> None:
        """Open or begin it. Raises LedgerError: damaged, in use by another process, or not writable."""
        self._folder = folder
        self._now = now
        self._lock = Lock()
        self._file: int | None = None
        self._month = ""
        self._bytes = 0
        self._head = NOTHING_BEFORE
        self._seq = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._take_lock()
            self._recover()
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> str:
        """sha256 of the last line: who notes it can later tell that nothing before was changed."""
        return self._head

    @property
    def size(self) -> int:
        """Entries until now."""
        return self._seq

    def append(self, what: What) -> Entry:
        """Write an entry; it is on the disk when this returns. Raises LedgerError, and then nothing was written."""
        with self._lock:
            if self._held < 0:
                raise LedgerError(f"{self._folder}: the ledger is closed")
            at = self._now()
            entry = Entry(**what.model_dump(), seq=self._seq + 1, at=at, prev=self._head)
            line = write_line(entry)
            try:
                self._open(at)
                self._write(line)
            except OSError as error:
                raise self._failed(error) from error
            self._seq, self._head = entry.seq, digest_of(line[:-1])
            return entry

    def close(self) -> None:
        """Release the folder. Safe to call twice."""
        with self._lock:
            for descriptor in (self._file, self._held):
                if descriptor is not None and descriptor >= 0:
                    os.close(descriptor)
            self._file, self._held = None, -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take_lock(self) -> None:
        if not lock(self._held):
            raise LedgerError(f"{self._folder}: another process writes this ledger")

    def _recover(self) -> None:
        """Find the end of the ledger, and cut what an interrupted write left there."""
        if not months(self._folder):
            return
        torn = None
        try:
            for line in read_ledger(self._folder):
                if line.problem is not None:
                    raise LedgerError(
                        f"{self._folder / line.file}, line {line.number}: {line.problem}. Keep the folder as evidence "
                        "and start with another one"
                    )
                if line.torn:
                    torn = line
                elif line.entry is not None:
                    self._seq, self._head = line.entry.seq, line.digest
            self._month = months(self._folder)[-1].stem
            if torn is not None:
                self._cut(self._folder / torn.file)
        except OSError as error:
            raise self._failed(error) from error

    def _cut(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        aside = path.with_suffix(f".torn-{self._seq + 1}")
        with aside.open("wb") as file:
            file.write(data[whole:])
            file.flush()
            os.fsync(file.fileno())
        with path.open("rb+") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        self._sync_folder()
        self.append(
            What(
                direction=Direction.NONE,
                kind="Ledger",
                decision="Recovered",
                name=aside.name,
                bytes=len(data) - whole,
                message="the gate was ended while it wrote the line that is kept in this file",
            )
        )

    def _open(self, at: datetime) -> None:
        """The file of the month; never an earlier one than the last, whatever the clock says."""
        month = max(f"{at.astimezone(UTC):%Y-%m}", self._month)
        if self._file is not None and month == self._month:
            return
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._file = os.open(
            self._folder / f"{month}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640
        )
        self._month = month
        self._bytes = os.fstat(self._file).st_size
        self._sync_folder()

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._bytes)
            raise
        self._bytes += len(line)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _failed(self, error: OSError) -> LedgerError:
        return LedgerError(f"{self._folder}: the ledger cannot be written: {error.strerror or error}")
