"""The updates that are merged, as ranges of values."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from photon.codec import UpdateCodec
from photon.protocol.messages import RefusalReason
from photon.store.errors import NotFound, PreconditionFailed
from photon.store.source import Source
from photon_aggregator.errors import AggregatorError

Float32 = npt.NDArray[np.float32]


class MergeError(AggregatorError):
    """The merge cannot give a model; the message says why.

    ::

        MergeError
         ├─ CorruptError          a file that is merged is not what its commit says
         ├─ NotFiniteModelError   the result holds NaN or infinity
         └─ UpdateFault           without one update it may succeed
             ├─ NotFiniteError        the update holds NaN or infinity
             └─ UpdateChangedError    the update is no longer what was admitted
    """


class CorruptError(MergeError):
    """A file that is merged has other bytes than its commit says."""


class NotFiniteModelError(MergeError):
    """The new global model, or a vector of the outer state, holds NaN or infinity, although every update is finite."""


class UpdateFault(MergeError):
    """One update cannot be merged: without it the merge may succeed."""

    reason = RefusalReason.NOT_FINITE

    def __init__(self, participant: str, message: str) -> None:
        super().__init__(message)
        self.participant = participant


class NotFiniteError(UpdateFault):
    """An update holds NaN or infinity."""

    def __init__(self, participant: str, part: int) -> None:
        super().__init__(participant, f"the update of {participant} holds NaN or infinity in part {part}")
        self.part = part


class UpdateChangedError(UpdateFault):
    """A part of an update is gone, or is no longer the object that was admitted."""

    reason = RefusalReason.MISSING_PART


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInput:
    """One participant's update.

    ``parts`` are its files in order, ``ranges`` the elements [start, stop) of the flat vector that each holds (see
    ``photon.codec.part_ranges``). ``weight`` is its share in the mean up to a common factor (tokens, or 1); its values
    are scaled by ``clip`` first.
    ``norm`` is that of ``check_update``; ``tokens`` those it was trained on (for the gradient noise scale).
    """

    participant: str
    parts: Sequence[Source]
    ranges: Sequence[tuple[int, int]]
    codec: UpdateCodec
    weight: float
    norm: float
    tokens: int
    clip: float = 1.0

    def check(self, elements: int) -> None:
        """Raises MergeError unless the parts cover exactly ``elements`` and are as large as the codec says."""
        position = 0
        for index, ((start, stop), part) in enumerate(zip(self.ranges, self.parts, strict=True)):
            if start != position or stop <= start:
                raise MergeError(f"the update of {self.participant}: part {index} does not follow the one before")
            expected = self.codec.part_bytes(stop - start)
            if part.size_bytes != expected:
                raise MergeError(
                    f"the update of {self.participant}: part {index} has {part.size_bytes} bytes, not {expected}"
                )
            position = stop
        if position != elements:
            raise MergeError(f"the update of {self.participant} has {position} elements, the model {elements}")
        if not self.weight > 0 or not np.isfinite(self.weight):
            raise MergeError(f"the update of {self.participant} has the weight {self.weight}")


class UpdateReader:
    """Reads ranges of one update into fp32 arrays. One a thread: it has a buffer for encoded bytes."""

    def __init__(self, update: UpdateInput, raw: memoryview) -> None:
        """``raw`` takes the encoded bytes of the longest range that is read (see ``raw_bytes``)."""
        self._update = update
        self._starts = [start for start, _ in update.ranges]
        self._raw = raw

    def part_of(self, element: int) -> int:
        """Index of the part that holds ``element``."""
        return bisect_right(self._starts, element) - 1

    def read(self, start: int, out: Float32) -> None:
        """Elements [start, start + out.size) into ``out``; ``start`` is on the codec's granularity."""
        position, stop = start, start + out.size
        while position < stop:
            index = self.part_of(position)
            first, last = self._update.ranges[index]
            end = min(stop, last)
            piece = out if end - position == out.size else out[position - start : end - start]
            self._read_part(index, last - first, position - first, piece)
            position = end

    def _read_part(self, index: int, elements: int, start: int, out: Float32) -> None:
        codec, part = self._update.codec, self._update.parts[index]
        places = codec.byte_ranges(elements, start, start + out.size)
        try:
            self._read_places(part, places, out)
        except (NotFound, PreconditionFailed) as error:
            name = self._update.participant
            raise UpdateChangedError(name, f"part {index} of the update of {name} has changed: {error}") from error

    def _read_places(self, part: Source, places: Sequence[tuple[int, int]], out: Float32) -> None:
        codec = self._update.codec
        if codec.plain:
            part.read_into(places[0][0], out.data.cast("B"))
            return
        buffers: list[bytearray | memoryview] = []
        used = 0
        for offset, length in places:
            buffer = self._raw[used : used + length]
            part.read_into(offset, buffer)
            buffers.append(buffer)
            used += -(-length // 64) * 64  # each begins on a cache line, so it can be viewed as any dtype
        codec.decode(buffers, out)


def raw_bytes(elements: int) -> int:
    """Enough room for the encoded bytes of ``elements`` values in any codec: none is larger than fp32."""
    return 4 * elements + 256
