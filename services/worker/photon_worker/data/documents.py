"""Documents out of text files, JSON, Parquet and source trees, as UTF-8 bytes, one at a time.

The same piece gives the same documents in the same order each time it is read: preparation reads everything twice.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from photon_worker.data import remote
from photon_worker.data.findings import Findings, printable
from photon_worker.data.index import PreparationSettings
from photon_worker.data.names import COMPRESSED, Kind, ending
from photon_worker.data.parquet import rows
from photon_worker.data.piece import Piece
from photon_worker.data.reading import LARGEST_DOCUMENT, Reading
from photon_worker.data.recognize import HEAD, LONG_HEAD, recognize
from photon_worker.data.rows import json_lines, json_values
from photon_worker.data.streams import converted, joined, stream
from photon_worker.data.text import text_documents
from photon_worker.lifecycle.data_errors import DataError


def documents(piece: Piece, settings: PreparationSettings, findings: Findings) -> Iterator[bytes]:
    """The documents of ``piece``; none is empty or only white space.

    Raises:
        DataError: A file is gone or damaged, or something in it is wrong that the settings do not let pass.
    """
    reading = Reading(piece=piece, settings=settings, findings=findings)
    for text in _texts(reading):
        if len(text) > LARGEST_DOCUMENT:
            reading.bad("is larger than a document may be (256 MiB)")
        elif text.strip():
            yield text
        else:
            reading.note("empty")


def _texts(reading: Reading) -> Iterator[bytes]:
    piece = reading.piece
    if piece.stop is not None:  # a range: it was looked at when it was made
        if piece.kind == "parquet":
            yield from rows(piece.uri, reading)
        else:
            start = max(0, piece.start - 1)
            with stream(piece.uri, start, label=piece.label) as file:
                yield from json_lines(file, reading, start)
        return
    if piece.size_bytes == 0:
        if piece.kind == "parquet" or ending(piece.name) in COMPRESSED:
            raise reading.error("is empty, which no such file is: copy it again")
        reading.note("empty")
        return
    with stream(piece.uri, label=piece.label) as file:
        head = file.read(HEAD)
        content = recognize(head, reading, whole=len(head) < HEAD, last=False)
        if content is None:
            head += file.read(LONG_HEAD - len(head))
            content = recognize(head, reading, whole=len(head) < LONG_HEAD, last=True)
            assert content is not None, "the last head decides"
        file = joined(head[content.mark :], file)
        if content.kind == "parquet":
            yield from _parquet(file, head[:4], reading)
            return
        if content.encoding is not None:
            file = converted(file, content.encoding)
            reading.converted = True
            reading.note("converted")
        elif piece.lenient and content.kind != "jsonl" and b"\0" in head:
            reading.note("not_text")
            return
        yield from _text(file, content.kind, reading)


def _text(file: BinaryIO, kind: Kind, reading: Reading) -> Iterator[bytes]:
    if kind == "jsonl":
        return json_lines(file, reading, 0)
    if kind == "json":
        return json_values(file, reading)
    return text_documents(file, reading, reading.settings.cut_bytes if kind == "text" else 0)


def _parquet(file: BinaryIO, magic: bytes, reading: Reading) -> Iterator[bytes]:
    uri = reading.piece.uri
    if not remote.is_remote(uri):
        with Path(uri).open("rb") as raw:
            if raw.read(len(magic)) == magic:
                yield from rows(uri, reading)
                return
    # Parquet is read from its end: a copy for the time of reading is simpler than a second S3 client.
    with tempfile.TemporaryDirectory(prefix="photon-") as folder:
        copy = Path(folder) / "input.parquet"
        with copy.open("wb") as target:
            try:
                shutil.copyfileobj(file, target, 2**20)
            except OSError as error:
                if error.errno is None or error.filename is not None:
                    raise
                raise DataError(f"{printable(uri)} cannot be copied to {folder}: {error.strerror}") from error
        yield from rows(str(copy), reading)
