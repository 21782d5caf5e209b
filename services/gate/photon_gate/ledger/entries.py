"""One line of the ledger. Each holds the sha256 of the line before, so none can be changed, moved or left out alone.

A line is JSON of at most 16 KiB. Later releases may add fields: a reader ignores those that it does not know, and the
chain is over the bytes of the lines.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from photon.errors import PhotonError

MAX_LINE_BYTES: Final = 16 * 1024
MAX_TEXT: Final = 512
# What the first line of a ledger holds in place of a predecessor's digest.
NOTHING_BEFORE: Final = "0" * 64

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LedgerError(PhotonError):
    """The ledger cannot be written or is damaged; the message names the file, and the line where there is one."""


class Direction(StrEnum):
    """Which way it was meant to cross."""

    IN = "In"
    OUT = "Out"
    NONE = "None"


class What(BaseModel):
    """What is recorded.

    ``kind``: Part, Model, Update, Evaluation, Task ...; ``name``: which of them; ``decision``: what became of it
    (Complete, Refused, PolicyRefused ...) and ``message`` why. ``envelope``: the signed statement, as it was sent.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    direction: Direction
    kind: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,39}$")]
    decision: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,39}$")]
    name: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    round: Annotated[int | None, Field(ge=0, le=10**9)] = None
    bytes: Annotated[int | None, Field(ge=0, le=2**62)] = None
    sha256: Sha256 | None = None
    envelope: Annotated[str, Field(max_length=8192)] | None = None
    message: Annotated[str, Field(max_length=MAX_TEXT)] = ""


class Entry(What):
    """A line: ``seq`` counts from 1 through all months, ``at`` is the clock of this machine, ``prev`` the chain."""

    seq: Annotated[int, Field(ge=1)]
    at: datetime
    prev: Sha256


def write_line(entry: Entry) -> bytes:
    """The line with its line break. Raises LedgerError: longer than a line may be."""
    line = entry.model_dump_json(exclude_defaults=True).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise LedgerError(f"a line of the ledger would have {len(line)} bytes, at most {MAX_LINE_BYTES} are allowed")
    return line


def read_line(line: bytes) -> Entry:
    """The entry of a line without its line break. Raises ValueError with one sentence."""
    if len(line) >= MAX_LINE_BYTES:
        raise ValueError(f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        return Entry.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"is no entry: {f'{field}: ' if field else ''}{first['msg']}") from error


def digest_of(line: bytes) -> str:
    """What the next line holds as ``prev``; ``line`` without its line break."""
    return hashlib.sha256(line).hexdigest()
