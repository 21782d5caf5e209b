"""What is read at a time: a file, or a range of one."""

from __future__ import annotations

from dataclasses import dataclass

from photon_worker.data.findings import printable
from photon_worker.data.names import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file, or a range of one: bytes [start, stop) of JSON lines, row groups [start, stop) of Parquet.

    ``kind`` is what the name says; for a range, what the content is. ``lenient``: that this is text at all is a guess
    (a source tree), so bytes that are none are left out rather than an error. ``named``: it was named by itself.
    """

    uri: str
    name: str
    kind: Kind
    size_bytes: int
    stamp: str
    lenient: bool = False
    named: bool = False
    start: int = 0
    stop: int | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return printable(self.name if "/.prepare/stream-" in self.uri else self.uri)
