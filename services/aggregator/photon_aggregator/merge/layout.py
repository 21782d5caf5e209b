"""How a merge is cut up: which bytes and elements are a stripe, and how much is read and computed at a time.

Everything here depends on sizes only, so two runs of one merge cut alike. Blocks depend on the number of updates alone:
the mean and the outer step do not care where they are cut, but the metrics' sums do in their last bits.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from photon.store.tensors import MODEL_ALIGNMENT, Header, TensorEntry

# The blocks of all updates together: a thread's share of the third-level cache. Blocks of a quarter the size fit the
# second level and are no faster on one thread; on two they are twice as slow, for then calls are so short that the
# threads wait for each other's interpreter lock (measured on Zen 4, 8 updates).
CACHE_BYTES: Final = 4 * 2**20
LEAST_BLOCK: Final = 1024
LARGEST_BLOCK: Final = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """How much a merge does at once.

    ``threads``: stripes in work. ``read_bytes``: fp32 bytes asked of each update at a time, at most. ``memory_bytes``:
    for all buffers together; ``read_bytes`` gives way to it.
    """

    threads: int = 2
    read_bytes: int = 2**19
    memory_bytes: int = 256 * 2**20


# Reads of half a megabyte keep a cold disk busy (with 128 KiB a merge took twice as long), and eight of them still are
# in the third-level cache when they are added.
FROM_FILES: Final = MergeSettings()
# A request costs a millisecond, and while one thread waits for bytes another computes.
FROM_STORE: Final = MergeSettings(threads=4, read_bytes=8 * 2**20, memory_bytes=384 * 2**20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripe:
    """Stripe ``index`` of the output files: elements [start, stop), after ``header`` bytes of header (stripe 0)."""

    index: int
    header: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The cut of one merge, worked on by ``threads``. ``block`` and ``read`` are in elements; ``read`` is a multiple of
    ``block``."""

    header: Header
    threads: int
    stripe_bytes: int
    block: int
    read: int

    @property
    def stripes(self) -> int:
        return -(-self.header.file_bytes // self.stripe_bytes)

    def stripe(self, index: int) -> Stripe:
        """Bytes [index * stripe_bytes, ...) of the file as elements."""
        offset = self.header.data_offset
        first = index * self.stripe_bytes
        last = min(first + self.stripe_bytes, self.header.file_bytes)
        return Stripe(
            index=index,
            header=max(0, min(offset, last) - first),
            start=max(0, first - offset) // 4,
            stop=max(0, last - offset) // 4,
        )


def cut(header: Header, *, stripe_bytes: int, updates: int, states: int, settings: MergeSettings) -> Layout:
    """The layout for ``updates`` updates and ``states`` vectors of outer state.

    The stripes of very large models are large: fewer threads then share the memory.

    Raises:
        ValueError: Stripes that blocks of a codec could straddle, or a memory budget too small for one block.
    """
    if stripe_bytes % MODEL_ALIGNMENT or header.data_offset % MODEL_ALIGNMENT:
        raise ValueError(f"stripes and the start of the data are multiples of {MODEL_ALIGNMENT} bytes")
    block = block_elements(updates)
    one = (1 + states) * stripe_bytes + 4 * 6 * block  # fixed buffers of a thread
    least = one + 4 * (updates + 1) * block
    threads = min(settings.threads, settings.memory_bytes // least)
    if threads < 1:
        raise ValueError(
            f"merging {updates} updates needs {least >> 20} MiB, more than the {settings.memory_bytes} bytes"
        )
    each = (settings.memory_bytes // threads - one) // (4 * (updates + 1))
    read = min(settings.read_bytes // 4, each, stripe_bytes // 4) // block * block
    return Layout(header=header, threads=threads, stripe_bytes=stripe_bytes, block=block, read=max(read, block))


def block_elements(updates: int) -> int:
    """Elements computed at a time: a power of two, so that a block of every update fits the cache together."""
    block = LARGEST_BLOCK
    while block > LEAST_BLOCK and 4 * block * updates > CACHE_BYTES:
        block //= 2
    return block


_NUMBERED: Final = re.compile(r"^(.+?\.\d+)(?:\.|$)")


def layer_of(tensor: str) -> str:
    """``model.layers.0`` for its tensors; else the tensor's module (``model.norm`` for ``model.norm.weight``)."""
    numbered = _NUMBERED.match(tensor)
    if numbered:
        return numbered[1]
    return tensor.rpartition(".")[0] or tensor


class Layers:
    """Which elements of the flat vector belong to which layer."""

    def __init__(self, entries: Sequence[TensorEntry]) -> None:
        self.names: list[str] = []
        self._starts: list[int] = []
        self._layers: list[int] = []
        known: dict[str, int] = {}
        for entry in entries:
            name = layer_of(entry.name)
            layer = known.setdefault(name, len(known))
            if layer == len(self.names):
                self.names.append(name)
            if not self._layers or self._layers[-1] != layer:
                self._starts.append(entry.start // 4)
                self._layers.append(layer)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(layer, first, last) that together are elements [start, stop), relative to ``start``."""
        index = bisect_right(self._starts, start) - 1
        position = start
        while position < stop:
            following = self._starts[index + 1] if index + 1 < len(self._starts) else stop
            end = min(stop, following)
            if end > position:
                yield self._layers[index], position - start, end - start
            position = end
            index += 1
