"""Headers of safetensors files, read and written without their data: merging streams the data section by ranges.

The layout is that of https://github.com/huggingface/safetensors (format): eight bytes with the length of a JSON object
(little-endian), the object, padded with spaces, and the tensors' bytes. A model's weights are one such file with all
tensors F32, sorted by name and without gaps, so its data section is the *flat vector* that updates, parts and the
state of the outer optimizer are ranges of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from photon.errors import PhotonError
from photon.store.source import Source

# A model's data starts on a page: stripes of the file are then whole blocks of every codec, and it can be mapped.
MODEL_ALIGNMENT: Final = 4096
# The library's own limit on the JSON object, so a forged length cannot make us allocate more.
MAX_HEADER_BYTES: Final = 100_000_000
DTYPE_BYTES: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


class HeaderError(PhotonError, ValueError):
    """The bytes are no safetensors header, or not one that this program can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor of the file; ``start`` and ``stop`` are byte offsets in the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is in a safetensors file, in the order of its bytes. ``data_offset``: where the data section starts."""

    entries: tuple[TensorEntry, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    data_offset: int

    @property
    def data_bytes(self) -> int:
        return self.entries[-1].stop if self.entries else 0

    @property
    def file_bytes(self) -> int:
        return self.data_offset + self.data_bytes

    @property
    def elements(self) -> int:
        """Elements of all tensors: the length of the flat vector."""
        return sum(entry.elements for entry in self.entries)

    @classmethod
    def build(
        cls,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        *,
        metadata: Mapping[str, str] | None = None,
        alignment: int = 64,
    ) -> Self:
        """A header for ``tensors`` (name -> dtype, shape), laid out in the given order without gaps."""
        entries: list[TensorEntry] = []
        position = 0
        for name, (dtype, shape) in tensors.items():
            size = math.prod(shape) * DTYPE_BYTES[dtype]
            entries.append(
                TensorEntry(name=name, dtype=dtype, shape=tuple(shape), start=position, stop=position + size)
            )
            position += size
        return cls._aligned(tuple(entries), dict(metadata or {}), alignment)

    @classmethod
    def for_model(cls, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """The header of a ``model.safetensors``: F32, sorted by name. ``shapes``: name -> shape."""
        return cls.build(
            {name: ("F32", tuple(shapes[name])) for name in sorted(shapes)},
            metadata={"format": "pt"},
            alignment=MODEL_ALIGNMENT,
        )

    def aligned(self, alignment: int = MODEL_ALIGNMENT) -> Header:
        """The same tensors with the data section at the first multiple of ``alignment`` that has room."""
        return self._aligned(self.entries, self.metadata, alignment)

    @classmethod
    def _aligned(cls, entries: tuple[TensorEntry, ...], metadata: Mapping[str, str], alignment: int) -> Self:
        needed = 8 + len(_json(entries, metadata))
        return cls(entries=entries, metadata=metadata, data_offset=-(-needed // alignment) * alignment)

    def to_bytes(self) -> bytes:
        """The first ``data_offset`` bytes of the file."""
        text = _json(self.entries, self.metadata)
        room = self.data_offset - 8
        if len(text) > room:
            raise HeaderError(f"a header of {len(text)} bytes does not fit before the data at {self.data_offset}")
        return room.to_bytes(8, "little") + text.ljust(room, b" ")

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read a header from the first bytes of a file (at least ``data_offset`` of them).

        Raises:
            HeaderError: Not a header, cut short, of an unknown dtype, or with gaps or overlaps between tensors.
        """
        size = header_bytes(bytes(data[:8])) - 8
        text = bytes(data[8 : 8 + size])
        if len(text) < size:
            raise HeaderError(f"the safetensors header is cut short: {len(text)} of {size} bytes")
        try:
            document = json.loads(text)
            metadata = document.pop("__metadata__", {})
            entries = [
                TensorEntry(
                    name=name,
                    dtype=value["dtype"],
                    shape=tuple(int(n) for n in value["shape"]),
                    start=int(value["data_offsets"][0]),
                    stop=int(value["data_offsets"][1]),
                )
                for name, value in document.items()
            ]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise HeaderError(f"not a safetensors header: {error}") from error
        entries.sort(key=lambda entry: (entry.start, entry.stop))
        position = 0
        for entry in entries:
            if not isinstance(entry.dtype, str) or entry.dtype not in DTYPE_BYTES:
                raise HeaderError(f"tensor {entry.name}: unknown dtype {entry.dtype}")
            if min(entry.shape, default=0) < 0 or entry.start != position:
                raise HeaderError(f"tensor {entry.name}: gaps or overlaps at byte {position} of the data")
            if entry.stop - entry.start != entry.elements * DTYPE_BYTES[entry.dtype]:
                raise HeaderError(f"tensor {entry.name}: its shape does not fill its bytes")
            position = entry.stop
        return cls(entries=tuple(entries), metadata=metadata, data_offset=8 + size)


def _json(entries: tuple[TensorEntry, ...], metadata: Mapping[str, str]) -> bytes:
    document: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for entry in entries:
        document[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.stop],
        }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def header_bytes(first_eight: bytes) -> int:
    """Length of a header (its own eight bytes included) from the file's first eight bytes."""
    if len(first_eight) < 8:
        raise HeaderError("a safetensors file has at least eight bytes")
    size = int.from_bytes(first_eight[:8], "little")
    if not 2 <= size <= MAX_HEADER_BYTES:
        raise HeaderError(f"not a safetensors file: its header would have {size} bytes")
    return 8 + size


def read_header(source: Source) -> Header:
    """The header of ``source``, by two small reads.

    Raises:
        HeaderError: Not a safetensors file, or not as long as its header says.
    """
    if source.size_bytes < 8:
        raise HeaderError("a safetensors file has at least eight bytes")
    first = bytearray(8)
    source.read_into(0, memoryview(first))
    size = header_bytes(bytes(first))
    if size > source.size_bytes:
        raise HeaderError(f"the safetensors header is cut short: the file has {source.size_bytes} bytes")
    data = bytearray(size)
    data[:8] = first
    source.read_into(8, memoryview(data)[8:])
    header = Header.parse(data)
    if header.file_bytes != source.size_bytes:
        raise HeaderError(f"the file has {source.size_bytes} bytes where its header says {header.file_bytes}")
    return header


def require_flat(header: Header) -> Header:
    """``header`` itself, when it is that of a flat vector: all tensors F32, sorted by name.

    Raises:
        HeaderError: Naming the first tensor that is not as it must be.
    """
    names = [entry.name for entry in header.entries]
    for entry in header.entries:
        if entry.dtype != "F32":
            raise HeaderError(f"tensor {entry.name} is {entry.dtype}; the weights of a job are F32")
    if names != sorted(names):
        raise HeaderError("the tensors of the weights must be sorted by name")
    return header
