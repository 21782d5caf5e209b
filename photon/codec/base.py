"""What every codec of updates promises.

A part's file is a safetensors file whose header depends only on the codec and the number of elements. So its size is
known before it exists, anyone can open it with the safetensors library, and a reader computes where a range of values
is without reading the header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from photon.api.text import printable
from photon.errors import PhotonError
from photon.store.source import Source
from photon.store.tensors import Header, HeaderError

Float32 = npt.NDArray[np.float32]
Buffer = bytearray | memoryview


class CodecError(PhotonError, ValueError):
    """Values that cannot be encoded, or a file that is not what the codec writes."""


class UpdateCodec(Protocol):
    """fp32 values <-> the bytes of a part.

    ``granularity``: ranges that are decoded must start (and, but at the end of the part, stop) at multiples of it.
    ``plain``: the encoded bytes of a range *are* its fp32 values, so they may be read straight into an array.
    """

    granularity: ClassVar[int]
    plain: ClassVar[bool]

    def part_header(self, elements: int) -> Header:
        """The header of a part of ``elements`` values."""
        ...

    def part_bytes(self, elements: int) -> int:
        """Size of the whole file of a part of ``elements`` values."""
        ...

    def encode(self, values: Float32) -> bytearray:
        """The whole file of a part. values: fp32 [n]. Raises CodecError for values that it cannot represent."""
        ...

    def byte_ranges(self, elements: int, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        """(offset, length) in the file of a part of ``elements`` values of what ``decode`` needs for [start, stop)."""
        ...

    def decode(self, buffers: Sequence[Buffer], out: Float32) -> None:
        """Values from the bytes of ``byte_ranges``, one buffer a range, into ``out`` (fp32 [stop - start])."""
        ...


def part_ranges(elements: int, part_bytes: int) -> list[tuple[int, int]]:
    """Element ranges [start, stop) of the parts of a flat vector; all of ``part_bytes`` / 4 elements but the last.

    ``part_bytes`` (exchange.partBytes) is a multiple of 4096, hence of every codec's granularity.
    """
    size = part_bytes // 4
    return [(start, min(start + size, elements)) for start in range(0, elements, size)]


def check_range(codec: UpdateCodec, elements: int, start: int, stop: int) -> None:
    """Raises ValueError when [start, stop) is not a range that ``codec`` can decode by itself."""
    if not 0 <= start <= stop <= elements:
        raise ValueError(f"elements {start} to {stop} of a part of {elements}")
    if start % codec.granularity or (stop % codec.granularity and stop != elements):
        raise ValueError(f"elements {start} to {stop}: ranges are in multiples of {codec.granularity}")


def new_file(header: Header) -> bytearray:
    """A file with ``header`` written and the data still zero."""
    file = bytearray(header.file_bytes)
    file[: header.data_offset] = header.to_bytes()
    return file


def check_part_file(codec: UpdateCodec, source: Source, elements: int) -> None:
    """Check that ``source`` is a file as ``codec`` writes it for ``elements`` values; its values are not read.

    Raises:
        CodecError: Another size, or another header.
    """
    expected = codec.part_header(elements)
    if source.size_bytes != expected.file_bytes:
        raise CodecError(f"the part has {source.size_bytes} bytes where {expected.file_bytes} are due")
    found = bytearray(expected.data_offset)
    source.read_into(0, memoryview(found))
    check_part_header(codec, bytes(found), elements)


def check_part_header(codec: UpdateCodec, found: bytes, elements: int) -> None:
    """Check that ``found``, the first bytes of a part, is the header that ``codec`` writes for ``elements`` values.

    Raises:
        CodecError: Another header.
    """
    if found == codec.part_header(elements).to_bytes():
        return
    # Another writer's spelling of the same header (padding differs) would move the data: refuse, but say what it is.
    try:
        described = ", ".join(
            f"{entry.name}: {entry.dtype}{list(entry.shape)}" for entry in Header.parse(found).entries
        )
    except HeaderError as error:
        described = str(error)
    raise CodecError(f"the part's header is not that of its codec (found {printable(described, 256)})")
