"""An answer made of pieces of text that were compressed before: what was sent once costs the next reader a copy.

A piece is packed as a run of deflate blocks that refer to nothing outside it and end on a byte (RFC 1951), so any
sequence of pieces is a valid stream, and with a header and a checksum a gzip file (RFC 1952).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

_LEVEL: Final = 4
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
# An empty last block.
_END: Final = b"\x03\x00"
_LONGEST_STORED: Final = 2**16 - 1


class Piece(NamedTuple):
    """Some text, and the same as deflate blocks."""

    text: bytes
    packed: bytes


def pack(text: bytes) -> Piece:
    """A piece worth compressing: it is kept, or long."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return Piece(text, packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH))


def glue(text: bytes) -> Piece:
    """A few words between pieces, as they are."""
    assert len(text) <= _LONGEST_STORED
    return Piece(text, struct.pack("<BHH", 0, len(text), len(text) ^ 0xFFFF) + text)


def plain(pieces: Sequence[Piece]) -> bytes:
    return b"".join([piece.text for piece in pieces])


def gzipped(pieces: Sequence[Piece]) -> bytes:
    checksum = size = 0
    for text, _ in pieces:
        checksum = zlib.crc32(text, checksum)
        size += len(text)
    tail = _END + struct.pack("<II", checksum, size & 0xFFFFFFFF)
    return b"".join([_GZIP_HEADER, *[piece.packed for piece in pieces], tail])
