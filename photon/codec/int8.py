"""Block-wise int8: a quarter of the bytes, with a scale for every 256 values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Final

import numpy as np

from photon.codec.base import Buffer, CodecError, Float32, check_range, new_file
from photon.store.tensors import Header

BLOCK: Final = 256


@lru_cache(maxsize=64)
def _header(elements: int) -> Header:
    """Asked for at every block of every part while merging, for a handful of lengths."""
    return Header.build({"scales": ("F32", (-(-elements // BLOCK),)), "values": ("I8", (elements,))})


class BlockInt8:
    """Symmetric: ``scales`` F32 [ceil(n / 256)] = largest magnitude of the block / 127; ``values`` I8 [n].

    value = code * scale, code = value / scale rounded to nearest, ties to even, within +-127: the error is at most half
    a scale. A block of zeros has scale 0.
    """

    granularity: ClassVar[int] = BLOCK
    plain: ClassVar[bool] = False

    def part_header(self, elements: int) -> Header:
        return _header(elements)

    def part_bytes(self, elements: int) -> int:
        return self.part_header(elements).file_bytes

    def encode(self, values: Float32) -> bytearray:
        header = self.part_header(values.size)
        file = new_file(header)
        blocks = -(-values.size // BLOCK)
        scales = np.frombuffer(file, np.float32, count=blocks, offset=header.data_offset)
        codes = np.frombuffer(file, np.int8, offset=header.data_offset + 4 * blocks)
        step = 256 * BLOCK  # temporaries stay in the cache
        for start in range(0, values.size, step):
            piece = values[start : start + step]
            count = -(-piece.size // BLOCK)
            padded = np.zeros((count, BLOCK), np.float32)
            padded.reshape(-1)[: piece.size] = piece
            if not np.isfinite(padded).all():
                raise CodecError("a value is not finite: it has no int8 code")
            scale = np.abs(padded).max(axis=1)
            scale /= np.float32(127)
            scales[start // BLOCK : start // BLOCK + count] = scale
            # Where the scale is 0 (all zero, or too small for a scale) the codes are 0.
            np.divide(padded, scale[:, None], out=padded, where=scale[:, None] > 0)
            padded[scale == 0] = 0
            np.clip(np.rint(padded, out=padded), -127, 127, out=padded)
            codes[start : start + step] = padded.reshape(-1)[: piece.size].astype(np.int8)
        return file

    def byte_ranges(self, elements: int, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        check_range(self, elements, start, stop)
        offset = self.part_header(elements).data_offset
        first, last, blocks = start // BLOCK, -(-stop // BLOCK), -(-elements // BLOCK)
        return ((offset + 4 * first, 4 * (last - first)), (offset + 4 * blocks + start, stop - start))

    def decode(self, buffers: Sequence[Buffer], out: Float32) -> None:
        scales = np.frombuffer(buffers[0], np.float32)
        np.copyto(out, np.frombuffer(buffers[1], np.int8))
        whole = out.size - out.size % BLOCK
        blocks = out[:whole].reshape(-1, BLOCK)
        np.multiply(blocks, scales[: whole // BLOCK, None], out=blocks)
        if whole < out.size:
            np.multiply(out[whole:], scales[-1], out=out[whole:])
