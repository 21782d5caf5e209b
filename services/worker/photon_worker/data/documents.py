"""Documents out of text files, JSON lines, Parquet and source trees, as UTF-8 bytes, one at a time.

The same piece gives the same documents in the same order each time it is read: preparation reads everything twice.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from photon_worker.data import remote
from photon_worker.data.errors import DataError
from photon_worker.data.index import Settings
from photon_worker.data.inputs import Piece
from photon_worker.data.parquet import rows

_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True, kw_only=True)
class Skipped:
    """Counts what a reader passes over."""

    empty: int = 0
    not_text: int = 0


def documents(piece: Piece, settings: Settings, skipped: Skipped) -> Iterator[bytes]:
    """The documents of ``piece``; none is empty or only white space.

    Raises:
        DataError: A file is gone or damaged, or a record has no text where it is looked for.
    """
    if piece.kind == "jsonl":
        texts = _json_lines(piece, settings.text_field)
    elif piece.kind == "parquet":
        texts = _parquet(piece, settings.text_field)
    else:
        texts = _file(piece, settings.cut_bytes if piece.kind == "text" else 0, skipped)
    for text in texts:
        if text.strip():
            yield text
        else:
            skipped.empty += 1


def cut(text: bytes, limit: int) -> Iterator[bytes]:
    """``text`` in documents of at most ``limit`` bytes: at a blank line in the second half, else at a line's end."""
    start = 0
    while len(text) - start > limit:
        half, end = start + limit // 2, start + limit
        at = text.rfind(b"\n\n", half, end)
        at = at + 2 if at >= 0 else text.rfind(b"\n", half, end) + 1
        if at <= start:
            at = character_start(text, end)
        yield text[start:at]
        start = at
    yield text[start:]


def character_start(text: bytes, at: int) -> int:
    """The largest offset up to ``at`` that does not lie inside a UTF-8 character."""
    while 0 < at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    return at


@contextmanager
def _stream(uri: str, start: int = 0) -> Iterator[BinaryIO]:
    """``uri`` from byte ``start`` on, decompressed.

    Raises:
        DataError: It is gone or damaged.
    """
    with ExitStack() as opened:
        try:
            yield _opened(uri, start, opened)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise DataError(f"{uri} cannot be read: {error}") from error


def _opened(uri: str, start: int, opened: ExitStack) -> BinaryIO:
    raw: BinaryIO
    if remote.is_remote(uri):
        bucket, key = remote.split_uri(uri)
        with remote.explained(uri):
            body = remote.client().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-")["Body"]
        opened.callback(body.close)
        raw = cast(BinaryIO, io.BufferedReader(cast(Any, body), 1 << 20))
    else:
        raw = opened.enter_context(Path(uri).open("rb"))  # noqa: SIM115 - it is one
        raw.seek(start)
    if uri.endswith(".gz"):
        return cast(BinaryIO, opened.enter_context(gzip.GzipFile(fileobj=raw)))
    if uri.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return cast(BinaryIO, opened.enter_context(io.BufferedReader(reader, 1 << 20)))
    return raw


def _file(piece: Piece, limit: int, skipped: Skipped) -> Iterator[bytes]:
    if piece.size_bytes == 0:
        skipped.empty += 1
        return
    with _stream(piece.uri) as file:
        text = file.read().removeprefix(_BOM)
    try:
        if b"\0" in text:
            raise ValueError("a NUL byte")
        text.decode()
    except ValueError:
        skipped.not_text += 1
        return
    if limit:
        yield from cut(text, limit)
    else:
        yield text


def _json_lines(piece: Piece, field: str) -> Iterator[bytes]:
    """Lines that begin in [start, stop); the line that crosses a border belongs to the piece it begins in."""
    if piece.size_bytes == 0:
        return
    position = max(0, piece.start - 1)
    with _stream(piece.uri, position) as file:
        if piece.start:
            position += len(file.readline())
        while piece.stop is None or position < piece.stop:
            line = file.readline()
            if not line:
                return
            if line.strip():
                yield _text_of(line, field, f"{piece.uri} (the line at byte {position})")
            position += len(line)


def _text_of(line: bytes, field: str, where: str) -> bytes:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}") from error
    if not isinstance(record, dict) or field not in record:
        there = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{where} has no field {field!r} (it has {there}): name the one with the text by --text-field")
    text = record[field]
    if text is None:
        return b""
    if not isinstance(text, str):
        raise DataError(f"{where}: the field {field!r} holds no text but {type(text).__name__}: see --text-field")
    return text.encode(errors="replace")


def _parquet(piece: Piece, field: str) -> Iterator[bytes]:
    if remote.is_remote(piece.uri):
        # Parquet is read from its end: a copy for the time of reading is simpler than a second S3 client.
        with tempfile.TemporaryDirectory(prefix="photon-") as folder:
            local = Path(folder) / "input.parquet"
            remote.fetch(piece.uri, local)
            yield from rows(str(local), piece.uri, field, piece.start, piece.stop)
    else:
        yield from rows(piece.uri, piece.uri, field, piece.start, piece.stop)
