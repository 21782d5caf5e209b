"""What is to be read: inputs (files, folders, s3:// prefixes) as a fixed list of units of about the same size.

A unit is what one process reads at a time. The list depends on the input alone, never on the number of processes, so
the prepared bytes do not either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from photon_worker.data import remote
from photon_worker.data.findings import Findings
from photon_worker.data.index import PreparationSettings
from photon_worker.data.listing import FoundFile
from photon_worker.data.names import Kind, kind_of, suffix
from photon_worker.data.parquet import row_group_sizes
from photon_worker.data.piece import Piece
from photon_worker.data.reading import Reading
from photon_worker.data.recognize import HEAD, LONG_HEAD, recognize
from photon_worker.data.streams import compression, peek

_SMALLEST_UNIT: Final = 2 * 2**20
_LARGEST_UNIT: Final = 256 * 2**20
_MOST_UNITS: Final = 1024


def fingerprint(found: Sequence[FoundFile]) -> str:
    """Changes when any file of the input is added, removed or gets another content."""
    lines = "\n".join(f"{one.relative}\t{one.size_bytes}\t{one.stamp}" for one in found)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def units(found: Sequence[FoundFile], settings: PreparationSettings) -> list[list[Piece]]:
    """The pieces of each unit, in order.

    Raises:
        DataError: A file that is too large for one unit cannot be read.
    """
    total = sum(one.size_bytes for one in found)
    limit = min(_LARGEST_UNIT, max(_SMALLEST_UNIT, total // _MOST_UNITS))
    result: list[list[Piece]] = [[]]
    size = 0
    for one in found:
        for piece in _pieces(one, settings, limit):
            if size and size + piece.size_bytes > limit:
                result.append([])
                size = 0
            result[-1].append(piece)
            size += piece.size_bytes
    return result


def _pieces(one: FoundFile, settings: PreparationSettings, limit: int) -> Iterator[Piece]:
    kind: Kind = "unknown" if one.spooled else kind_of(one.relative)
    if settings.format != "auto":
        kind = settings.format
    whole = Piece(
        uri=one.uri,
        name=one.relative,
        kind=kind,
        size_bytes=one.size_bytes,
        stamp=one.stamp,
        lenient=kind == "source" or (kind == "text" and settings.format == "auto" and suffix(one.relative) == ""),
        named=one.named,
    )
    if one.size_bytes <= limit:
        yield whole
    elif kind == "parquet" and not remote.is_remote(one.uri) and peek(one.uri, 4) == b"PAR1":
        first, size = 0, 0
        sizes = row_group_sizes(one.uri)
        for number, group in enumerate(sizes):
            size += group
            if size >= limit or number == len(sizes) - 1:
                yield replace(whole, size_bytes=size, start=first, stop=number + 1)
                first, size = number + 1, 0
    elif _is_plain_json_lines(whole, settings):
        for start in range(0, one.size_bytes, limit):
            stop = min(start + limit, one.size_bytes)
            yield replace(whole, kind="jsonl", size_bytes=stop - start, start=start, stop=stop)
    else:
        yield whole


def _is_plain_json_lines(piece: Piece, settings: PreparationSettings) -> bool:
    """Whether the file can be read from any line on."""
    if piece.kind not in ("jsonl", "json", "text", "unknown"):
        return False
    for size in (HEAD, LONG_HEAD):
        head = peek(piece.uri, size)
        if compression(head) is not None:
            return False
        reading = Reading(piece=piece, settings=settings, findings=Findings())
        content = recognize(head, reading, whole=len(head) < size, last=size == LONG_HEAD)
        if content is not None:
            return content.kind == "jsonl" and content.encoding is None and content.mark == 0
    return False
