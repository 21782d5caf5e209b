"""Documents out of text files: cut where they are long, one block in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from photon_worker.data.reading import LARGEST_DOCUMENT, Reading

_BLOCK: Final = 8 * 2**20


def text_documents(file: BinaryIO, reading: Reading, limit: int) -> Iterator[bytes]:
    """The documents of one text file; ``limit`` 0: it is one."""
    reading.byte = 0
    for raw in cut(file, limit) if limit else _whole(file, reading):
        start = reading.byte
        text = reading.utf8(raw, nul=True)
        reading.byte = start
        if text is not None:
            yield text
        reading.byte = start + len(raw)


def cut(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """The text of ``file`` in parts of at most ``limit`` bytes: at a blank line in the second half, else at a line's
    end, else between two characters."""
    text, start = file.read(_BLOCK), 0
    while True:
        while len(text) - start > limit:
            half, end = start + limit // 2, start + limit
            at = text.rfind(b"\n\n", half, end)
            at = at + 2 if at >= 0 else text.rfind(b"\n", half, end) + 1
            if at <= start:
                at = character_start(text, end)
            if at <= start:  # a limit below the size of a character
                at = end
            yield text[start:at]
            start = at
        more = file.read(_BLOCK)
        if not more:
            yield text[start:]
            return
        text, start = text[start:] + more, 0


def character_start(text: bytes, at: int) -> int:
    """The largest offset up to ``at`` that is not inside a UTF-8 character."""
    for back in range(4):
        if at - back <= 0 or at >= len(text) or text[at - back] & 0xC0 != 0x80:
            return at - back
    return at  # four of them in a row are no UTF-8


def _whole(file: BinaryIO, reading: Reading) -> Iterator[bytes]:
    text = file.read(LARGEST_DOCUMENT + 1)
    if len(text) > LARGEST_DOCUMENT:
        reading.bad("is larger than a document may be (256 MiB): cut it by --format text and --cut-bytes")
    else:
        yield text
