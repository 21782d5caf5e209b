"""Admission's look at an update: every byte is hashed, every value finite, and how long it is. Reads it once.

The bytes of a part are read in their order, a few megabytes at a time, and hashed and decoded from the same buffer:
what was measured is what was hashed, whatever the store promised about digests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from photon.codec import CodecError, UpdateCodec, check_part_header
from photon.store.source import Source
from photon_aggregator.merge.statistics import square, use_one_blas_thread
from photon_aggregator.merge.updates import Float32, raw_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateCheck:
    """``norm``: L2 of the whole update (0.0 when not finite). ``bad_part``: the first that holds NaN or infinity.

    ``sha256`` of each part, up to the first bad one.
    """

    norm: float
    finite: bool
    sha256: tuple[str, ...]
    bad_part: int | None = None


def check_update(
    sources: Sequence[Source],
    codec: UpdateCodec,
    ranges: Sequence[tuple[int, int]],
    *,
    read_elements: int = 2**20,
    block_elements: int = 2**14,
) -> UpdateCheck:
    """Read all bytes of an update; stops at the first part with a value that is not finite.

    ``read_elements`` (a multiple of 1024) are asked of a source at a time; the norm does not depend on it.

    Raises:
        CodecError: A part is not a file of its codec.
        StoreError, OSError: From the sources.
    """
    use_one_blas_thread()
    longest = max((stop - start for start, stop in ranges), default=0)
    values = np.empty(min(read_elements, longest), np.float32)
    raw = memoryview(bytearray(raw_bytes(values.size)))
    total = 0.0
    digests: list[str] = []
    with np.errstate(all="ignore"):
        for index, (source, (start, stop)) in enumerate(zip(sources, ranges, strict=True)):
            part = _Part(source, codec, stop - start, raw, index)
            for first in range(0, stop - start, read_elements):
                piece = values[: min(read_elements, stop - start - first)]
                part.read(first, piece)
                for position in range(0, piece.size, block_elements):
                    total += square(piece[position : position + block_elements])
                if not math.isfinite(total):
                    return UpdateCheck(norm=0.0, finite=False, sha256=tuple(digests), bad_part=index)
            digests.append(part.sha256())
    return UpdateCheck(norm=math.sqrt(total), finite=True, sha256=tuple(digests))


class _Part:
    """One part, read from its first byte to its last.

    Of a codec's regions only the last is as long as the part; those before it (scales) are kept whole.
    """

    def __init__(self, source: Source, codec: UpdateCodec, elements: int, raw: memoryview, index: int) -> None:
        header = codec.part_header(elements)
        if source.size_bytes != header.file_bytes:
            raise CodecError(f"part {index} has {source.size_bytes} bytes where {header.file_bytes} are due")
        self._source, self._codec, self._elements, self._raw = source, codec, elements, raw
        self._digest = hashlib.sha256()
        self._position = 0
        found = self._next(memoryview(bytearray(header.data_offset)))
        try:
            check_part_header(codec, bytes(found), elements)
        except CodecError as error:
            raise CodecError(f"part {index}: {error}") from error
        regions = codec.byte_ranges(elements, 0, elements)
        self._starts = [offset for offset, _ in regions]
        self._kept = [self._next(memoryview(bytearray(length))) for _, length in regions[:-1]]
        if self._position != self._starts[-1]:
            raise CodecError(f"part {index}: the regions of the codec do not follow one another")

    def read(self, first: int, out: Float32) -> None:
        """The next values, which begin at element ``first`` of the part."""
        *before, (_, length) = self._codec.byte_ranges(self._elements, first, first + out.size)
        if self._codec.plain:
            self._next(out.data.cast("B"))
            return
        buffers: list[bytearray | memoryview] = []
        for kept, begin, (offset, size) in zip(self._kept, self._starts, before, strict=False):
            buffers.append(kept[offset - begin : offset - begin + size])
        buffers.append(self._next(self._raw[:length]))
        self._codec.decode(buffers, out)

    def sha256(self) -> str:
        """Of the whole file, all of which was read."""
        return self._digest.hexdigest()

    def _next(self, buffer: memoryview) -> memoryview:
        self._source.read_into(self._position, buffer)
        self._digest.update(buffer)
        self._position += len(buffer)
        return buffer
