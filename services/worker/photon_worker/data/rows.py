"""Texts out of JSON: an object a line, or one array of objects."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NoReturn

from photon_worker.data.reading import LARGEST_DOCUMENT, Reading
from photon_worker.data.records import BadRecord, parsed, text_of

_LONGEST_ROW: Final = 2 * LARGEST_DOCUMENT
_TOO_LONG: Final = "is longer than a row may be (512 MiB)"
_BLOCK: Final = 2**20
_SPACE: Final = " \t\r\n"


def json_lines(file: BinaryIO, reading: Reading, position: int) -> Iterator[bytes]:
    """The texts of the lines that begin in [start, stop) of the piece; the line that crosses a border belongs to the
    piece in which it begins.

    Args:
        position: The byte at which ``file`` is.
    """
    piece, number = reading.piece, 0
    if piece.start:
        position += len(file.readline())
    while piece.stop is None or position < piece.stop:
        line = file.readline(_LONGEST_ROW)
        if not line:
            return
        number += 1
        reading.byte, reading.line = position, None if piece.start else number
        position += len(line)
        if len(line) == _LONGEST_ROW:
            while line and not line.endswith(b"\n"):
                line = file.readline(_BLOCK)
                position += len(line)
            reading.bad(_TOO_LONG)
        elif not line.isspace():
            yield from _text_of_line(line, reading)


def _text_of_line(line: bytes, reading: Reading) -> Iterator[bytes]:
    try:
        try:
            decoded = line.decode()
        except UnicodeDecodeError:
            decoded = reading.decoded(line)
        text = text_of(parsed(decoded), reading.settings.text_field)
    except BadRecord as error:
        reading.bad(str(error))
        return
    yield from text_bytes(text, reading)


def text_bytes(text: str | None, reading: Reading) -> Iterator[bytes]:
    """UTF-8 of a record's text, in which surrogates stand for bytes that were not UTF-8; nothing to leave it out."""
    if text is None:
        yield b""
        return
    try:
        yield text.encode()
        return
    except UnicodeEncodeError:
        pass
    try:
        raw = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a pair, from an escape: no character
        reading.note("replaced")
        yield text.encode(errors="replace")
        return
    repaired = reading.utf8(raw)
    if repaired is not None:
        yield repaired


def json_values(file: BinaryIO, reading: Reading) -> Iterator[bytes]:
    """The texts of the elements of one JSON array; or of the one object that the file is."""
    values = _Values(file, reading)
    reading.row, reading.line, reading.byte = 0, None, None
    if values.next() == "{":
        elements = iter([values.value()])
    else:
        values.skip()
        elements = _elements(values)
    for number, element in enumerate(elements, start=1):
        reading.row = number
        try:
            text = text_of(element, reading.settings.text_field)
        except BadRecord as error:
            reading.bad(str(error))
            continue
        yield from text_bytes(text, reading)
    if values.next():
        raise reading.error("is damaged: there is more after the end of its JSON")


def _elements(values: _Values) -> Iterator[Any]:
    if values.next() == "]":
        values.skip()
        return
    while True:
        yield values.value()
        separator = values.next()
        values.skip()
        if separator == "]":
            return
        if separator != ",":
            values.fail("is damaged: its array is cut short" if not separator else "is damaged: a comma is missing")


class _Values:
    """JSON values out of a stream, each in memory for itself."""

    def __init__(self, file: BinaryIO, reading: Reading) -> None:
        self._file = file
        self._reading = reading
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._text = ""
        self._at = 0
        self._ended = False

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def skip(self) -> None:
        """Pass over that character."""
        self._at += 1

    def value(self) -> Any:
        """The value that begins here."""
        self.next()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except RecursionError:
                self.fail("a row is nested too deeply")
            except ValueError as error:
                if not isinstance(error, json.JSONDecodeError):
                    self.fail(f"a row has a number that cannot be read: {error}")
                at = error.pos
                cut = self._text.startswith('"', at) or at >= len(self._text) - 16
                if self._ended or not cut:
                    self.fail(f"is damaged, no JSON: {error.msg}")
                self._more()
            else:
                if end < len(self._text) or self._ended:  # else a number may go on
                    self._at = end
                    return value
                self._more()

    def fail(self, problem: str) -> NoReturn:
        assert self._reading.row is not None
        self._reading.row += 1
        raise self._reading.error(problem)

    def _more(self) -> None:
        if len(self._text) - self._at > _LONGEST_ROW:
            self.fail(_TOO_LONG)
        block = self._file.read(max(_BLOCK, len(self._text) - self._at))
        self._ended = not block
        self._text = self._text[self._at :] + self._decoder.decode(block, final=not block)
        self._at = 0
