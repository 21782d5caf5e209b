"""What parts an update of a job has: how many, which elements, how many bytes. A function of job.json alone."""

from __future__ import annotations

from dataclasses import dataclass

from photon.api.training import ExchangeSpec
from photon.codec import UpdateCodec, codec_for, part_ranges
from photon.protocol.records import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLayout:
    """One part as it must be: elements [start, stop) of the flat vector, as a file of ``size_bytes``."""

    start: int
    stop: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLayout:
    """All parts of an update of the job."""

    elements: int
    codec: UpdateCodec
    parts: tuple[PartLayout, ...]

    @classmethod
    def of(cls, exchange: ExchangeSpec, elements: int) -> UpdateLayout:
        codec = codec_for(exchange.codec)
        ranges = part_ranges(elements, exchange.part_bytes)
        parts = tuple(
            PartLayout(start=start, stop=stop, size_bytes=codec.part_bytes(stop - start)) for start, stop in ranges
        )
        return cls(elements=elements, codec=codec, parts=parts)

    def problem(self, part: Part) -> str | None:
        """What is wrong with ``part``, in a sentence; None when it may be part of an update."""
        if part.index >= len(self.parts):
            return f"part {part.index}: an update has {len(self.parts)} parts"
        due = self.parts[part.index]
        if (part.start, part.stop) != (due.start, due.stop):
            return f"part {part.index} covers elements {part.start} to {part.stop} instead of {due.start} to {due.stop}"
        if part.size_bytes != due.size_bytes:
            return f"part {part.index} has {part.size_bytes} bytes instead of {due.size_bytes}"
        return None
