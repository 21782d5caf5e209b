"""What a file holds, by its first bytes: names mislead (``c4-train.00000-of-01024.json.gz`` holds JSON lines)."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from photon_worker.data.names import COMPRESSED, Kind, ending
from photon_worker.data.reading import Reading, wide_encoding
from photon_worker.data.records import BadRecord, text_of

HEAD: Final = 2**16
LONG_HEAD: Final = 2**22  # where the first row is longer than that
_LFS: Final = b"version https://git-lfs.github.com/spec/"
# UTF-32 first: its little-endian mark begins like that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OTHERS: Final = (
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"ARROW1", "an Arrow file"),
    (b"%PDF", "a PDF document"),
    (b"SQLite format 3\0", "an SQLite database"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """``mark``: bytes to pass over; ``encoding``: what the rest is to be converted from."""

    kind: Kind
    mark: int = 0
    encoding: str | None = None


def recognize(head: bytes, reading: Reading, *, whole: bool, last: bool) -> Content | None:
    """What begins with ``head``; None if that takes a longer head to tell.

    Args:
        whole: ``head`` is the whole content.
        last: There will be no longer head: decide.

    Raises:
        DataError: It stands for a file that is not here, or cannot be read as what it is.
    """
    if head.startswith(_LFS):
        raise reading.error("is a Git LFS pointer, not the file: run `git lfs pull` where it comes from")
    kind, auto = reading.piece.kind, reading.settings.format == "auto"
    if auto and head.startswith((b"PAR1", b"PARE")):
        return Content(kind="parquet")
    other = next((name for magic, name in _OTHERS if head.startswith(magic)), None)
    if other is not None and not reading.piece.lenient:
        raise reading.error(f"is {other}: unpack or convert it first, or leave it out by --exclude")
    mark, encoding = (3, None) if head.startswith(codecs.BOM_UTF8) else _marked(head)
    if mark == 0:
        encoding = _other_encoding(head, reading, whole=whole)
    if kind == "source" or not (auto or kind == "jsonl"):
        return Content(kind=kind, mark=mark, encoding=encoding)
    text = codecs.getincrementaldecoder(encoding or "utf-8")(errors="replace").decode(head[mark:], final=whole)
    if kind == "parquet":
        rows = _rows(text.lstrip(), "unknown", reading, whole=whole, last=True)
        return Content(kind="parquet" if rows == "none" or rows is None else rows, mark=mark, encoding=encoding)
    shape = _shape(text, kind, reading, whole=whole, last=whole or last)
    if shape is None:
        return None
    if shape == "jsonl" and mark == 0 and encoding is not None and not wide_encoding(encoding):
        encoding = None  # row by row
    return Content(kind=shape, mark=mark, encoding=encoding)


def _marked(head: bytes) -> tuple[int, str | None]:
    return next(((len(bom), name) for bom, name in _MARKS if head.startswith(bom)), (0, None))


def _other_encoding(head: bytes, reading: Reading, *, whole: bool) -> str | None:
    """The encoding that was named, where the head is not UTF-8."""
    named = reading.settings.encoding
    if named is None:
        return None
    if wide_encoding(named):
        return named if b"\0" in head[:256] else None
    seen = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(head, final=whole)
    wrong = seen.count("\ufffd")
    # UTF-8 with a few other bytes in it is converted where they are, not as a whole.
    return named if 2 * wrong > sum(not character.isascii() for character in seen) else None


def _shape(text: str, kind: Kind, reading: Reading, *, whole: bool, last: bool) -> Kind | None:
    """``jsonl``, ``json`` (an array, or one object over several lines), or how text that is no JSON is read."""
    shape = _rows(text.lstrip(), kind, reading, whole=whole, last=last)
    if shape == "none":
        if kind == "jsonl" or (kind == "json" and _is_data(reading)):
            return "jsonl"
        if kind == "json":
            reading.note("json_as_text")
        return "source" if kind == "json" else "text" if kind == "unknown" else kind
    return shape


def _rows(text: str, kind: Kind, reading: Reading, *, whole: bool, last: bool) -> Kind | Literal["none"] | None:
    if not text or text[0] not in "[{":
        return "none"
    line, newline, rest = text.partition("\n")
    if text[0] == "[":
        if isinstance(_decode(line)[0], list) and (rest.strip() or (newline and not whole)):
            return "none"  # lists, a line each
        return "json" if _meant(_decode(text[1:].lstrip())[0], kind, reading) else "none"
    if not newline and not last:
        return None
    first, end = _decode(line)
    if isinstance(first, dict) and not line[end:].strip():
        second = rest.lstrip().partition("\n")
        if kind == "text" and (second[0] if whole else second[1]) and not isinstance(_decode(second[0])[0], dict):
            return "none"
        return "jsonl" if _meant(first, kind, reading) else "none"
    value, end = _decode(text)
    if not isinstance(value, dict) or end <= len(line):
        return "none"
    if kind == "jsonl" or (text[end:].strip() and _has_text(value, reading)):
        raise reading.error(
            "holds JSON objects that span several lines, and one object per line is needed: `jq -c . FILE` writes that"
        )
    return "json" if not text[end:].strip() and _meant(value, kind, reading) else "none"


def _meant(first: Any, kind: Kind, reading: Reading) -> bool:
    """Whether the records are data: the first has a text where it is looked for, or nothing else can be meant."""
    return (
        kind == "jsonl"
        or _has_text(first, reading)
        or (kind == "unknown" and isinstance(first, dict))
        or (kind == "json" and _is_data(reading))
    )


def _is_data(reading: Reading) -> bool:
    """Whether a ``.json`` file is data, not the settings of a program: it was named itself, or is compressed."""
    return reading.piece.named or ending(reading.piece.name) in COMPRESSED


def _has_text(record: Any, reading: Reading) -> bool:
    try:
        text_of(record, reading.settings.text_field)
    except BadRecord:
        return False
    return True


def _decode(text: str) -> tuple[Any, int]:
    """The JSON value at the beginning of ``text`` and where it ends; (None, 0) if there is none."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0
