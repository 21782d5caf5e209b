"""One piece of the input while it is read: where in it we are, and what becomes of what is wrong there."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Final

from photon_worker.data.findings import Findings, What, printable
from photon_worker.data.index import PreparationSettings
from photon_worker.data.piece import Piece
from photon_worker.lifecycle.data_errors import DataError

LARGEST_DOCUMENT: Final = 256 * 2**20  # bytes; a document is held in memory, several times over while it is hashed


@dataclass(slots=True, kw_only=True)
class Reading:
    """``line``, ``row`` and ``byte`` are of what is read now; bytes count in the content after decompression.

    ``converted`` is True while the whole content is converted from another encoding: what is still wrong in it then
    is damage, not another encoding.
    """

    piece: Piece
    settings: PreparationSettings
    findings: Findings
    line: int | None = None
    row: int | None = None
    byte: int | None = None
    converted: bool = False
    where: str = field(init=False)

    def __post_init__(self) -> None:
        self.where = printable(self.piece.name)

    @property
    def place(self) -> str:
        """``, line 7 (byte 1234)`` or less."""
        if self.row is not None:
            return f", row {self.row}"
        if self.line is not None:
            return f", line {self.line} (byte {self.byte})"
        return "" if self.byte is None else f", byte {self.byte}"

    def note(self, what: What) -> None:
        self.findings.note(what, self.where + self.place)

    def error(self, problem: str) -> DataError:
        """``problem`` at this place."""
        return DataError(f"{self.piece.label}{self.place}: {problem}")

    def bad(self, problem: str) -> None:
        """A record without a text: counted with --bad-records skip.

        Raises:
            DataError: Otherwise.
        """
        if self.settings.bad_records == "fail":
            raise self.error(f"{problem}; to leave such records out, add --bad-records skip")
        self.note("bad_records")

    def utf8(self, raw: bytes, *, nul: bool = False) -> bytes | None:
        """``raw`` as valid UTF-8: as it is, converted, or repaired; None to leave it out.

        Args:
            nul: Take a NUL byte for an invalid one (in a text file; a row may hold it by an escape).

        Raises:
            DataError: It is not valid, and that is not to be passed over.
        """
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return self._repaired(raw, error.start)
        if nul and b"\0" in raw:
            return self._repaired(raw, raw.index(b"\0"))
        return raw

    def decoded(self, raw: bytes) -> str:
        """``raw``, which is not UTF-8, by the encoding that was named; else with surrogates for its invalid bytes."""
        return self._converted(raw) or raw.decode(errors="surrogateescape")

    def _converted(self, raw: bytes) -> str | None:
        encoding = self.settings.encoding
        if encoding is None or self.converted:
            return None
        try:
            text = raw.decode(encoding)
        except ValueError:
            return None
        if "\0" in text:
            return None
        self.note("converted")
        return text

    def _repaired(self, raw: bytes, at: int) -> bytes | None:
        encoding = self.settings.encoding
        text = self._converted(raw)
        if text is not None:
            return text.encode(errors="replace")
        policy = self.settings.invalid_bytes or ("skip" if self.piece.lenient else "fail")
        if policy == "replace":
            self.note("replaced")
            return raw.decode(errors="replace").replace("\0", "\ufffd").encode()
        if self.row is None and self.line is None:
            self.byte = at + (self.byte or 0)
        if policy == "fail":
            raise self.error(
                f"byte 0x{raw[at]:02x} is not valid in UTF-8 text: name the encoding by --encoding (for example "
                "latin-1), or choose --invalid-bytes replace or skip"
                if encoding is None
                else f"byte 0x{raw[at]:02x} is valid neither in UTF-8 nor in {encoding}: choose --invalid-bytes "
                "replace or skip"
            )
        self.note("invalid_bytes")
        return None


def check_encoding(name: str) -> str:
    """The name of a text encoding by which files can be converted.

    Raises:
        DataError: There is none of that name, or line ends look different in it.
    """
    try:
        found = codecs.lookup(name)
        wide = wide_encoding(found.name)
        plain = wide or bytes(range(9, 127)).decode(found.name) == bytes(range(9, 127)).decode("ascii")
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"--encoding {printable(name)!r} is no text encoding: write for example latin-1") from error
    if not plain:
        raise DataError(f"--encoding {found.name} does not contain ASCII: convert such files with iconv first")
    return found.name


def wide_encoding(name: str) -> bool:
    """Whether ``name`` is UTF-16 or UTF-32, whose text is full of NUL bytes."""
    return name.replace("_", "-").lower().startswith(("utf-16", "utf-32"))
