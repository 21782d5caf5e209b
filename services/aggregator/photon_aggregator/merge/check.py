"""Admission's look at the values of an update: all finite, and how long. Reads it once, in a few megabytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from photon.codec import UpdateCodec
from photon.store.source import Source
from photon_aggregator.merge.inputs import UpdateInput, UpdateReader, raw_bytes
from photon_aggregator.merge.metrics import square, use_one_blas_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateCheck:
    """``norm``: L2 of the whole update (0.0 when not finite). ``bad_part``: the first that holds NaN or infinity."""

    norm: float
    finite: bool
    bad_part: int | None = None


def check_update(
    sources: Sequence[Source],
    codec: UpdateCodec,
    ranges: Sequence[tuple[int, int]],
    *,
    read_elements: int = 2**20,
    block_elements: int = 2**14,
) -> UpdateCheck:
    """Read all values of an update; stops at the first part with a value that is not finite.

    ``read_elements`` (a multiple of 1024) are asked of a source at a time; the norm does not depend on it.

    Raises:
        StoreError, OSError: From the sources.
    """
    use_one_blas_thread()
    update = UpdateInput(participant="", parts=sources, ranges=ranges, codec=codec, weight=1.0, norm=0.0, tokens=0)
    longest = max((stop - start for start, stop in ranges), default=0)
    values = np.empty(min(read_elements, longest), np.float32)
    reader = UpdateReader(update, memoryview(bytearray(raw_bytes(values.size))))
    total = 0.0
    with np.errstate(all="ignore"):
        for index, (start, stop) in enumerate(ranges):
            for first in range(start, stop, read_elements):
                piece = values[: min(read_elements, stop - first)]
                reader.read(first, piece)
                for position in range(0, piece.size, block_elements):
                    total += square(piece[position : position + block_elements])
                if not math.isfinite(total):
                    return UpdateCheck(norm=0.0, finite=False, bad_part=index)
    return UpdateCheck(norm=math.sqrt(total), finite=True)
