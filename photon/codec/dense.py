"""Dense codecs: every value by itself, as fp32 or rounded to bf16."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np

from photon.codec.base import Buffer, CodecError, Float32, check_range, new_file
from photon.store.tensors import Header


@lru_cache(maxsize=64)
def _header(dtype: str, elements: int) -> Header:
    """Asked for at every block of every part while merging, for a handful of lengths."""
    return Header.build({"values": (dtype, (elements,))})


class DenseFP32:
    """The values as they are: ``values`` F32 [n]."""

    granularity: ClassVar[int] = 1
    plain: ClassVar[bool] = True

    def part_header(self, elements: int) -> Header:
        return _header("F32", elements)

    def part_bytes(self, elements: int) -> int:
        return self.part_header(elements).file_bytes

    def encode(self, values: Float32) -> bytearray:
        header = self.part_header(values.size)
        file = new_file(header)
        np.frombuffer(file, np.float32, offset=header.data_offset)[:] = values
        return file

    def byte_ranges(self, elements: int, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        check_range(self, elements, start, stop)
        return ((self.part_header(elements).data_offset + 4 * start, 4 * (stop - start)),)

    def decode(self, buffers: Sequence[Buffer], out: Float32) -> None:
        np.copyto(out, np.frombuffer(buffers[0], np.float32))


class DenseBF16:
    """The upper halves of the values, rounded to nearest, ties to even: ``values`` BF16 [n].

    Finite values beyond the largest bf16 (3.39e38) would become infinite; they are refused.
    """

    granularity: ClassVar[int] = 1
    plain: ClassVar[bool] = False

    def part_header(self, elements: int) -> Header:
        return _header("BF16", elements)

    def part_bytes(self, elements: int) -> int:
        return self.part_header(elements).file_bytes

    def encode(self, values: Float32) -> bytearray:
        header = self.part_header(values.size)
        file = new_file(header)
        out = np.frombuffer(file, np.uint16, offset=header.data_offset)
        block = 1 << 16  # temporaries stay in the cache
        for start in range(0, values.size, block):
            piece = np.ascontiguousarray(values[start : start + block])
            finite = bool(np.isfinite(piece).all())
            bits = piece.view(np.uint32)
            rounded = bits >> np.uint32(16)
            rounded &= np.uint32(1)
            rounded += np.uint32(0x7FFF)
            rounded += bits
            rounded >>= np.uint32(16)
            if finite and bool(((rounded & np.uint32(0x7F80)) == 0x7F80).any()):
                raise CodecError("a value is larger than the largest bf16 (3.39e38)")
            if not finite:
                # Rounding could carry a NaN's payload into infinity or zero: NaN stays NaN, whatever its payload.
                nan = np.isnan(piece)
                rounded[nan] = (bits[nan] >> np.uint32(16)) | np.uint32(0x0040)
            out[start : start + block] = rounded
        return file

    def byte_ranges(self, elements: int, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        check_range(self, elements, start, stop)
        return ((self.part_header(elements).data_offset + 2 * start, 2 * (stop - start)),)

    def decode(self, buffers: Sequence[Buffer], out: Float32) -> None:
        bits = out.view(np.uint32)
        np.copyto(bits, np.frombuffer(buffers[0], np.uint16))
        np.left_shift(bits, np.uint32(16), out=bits)
