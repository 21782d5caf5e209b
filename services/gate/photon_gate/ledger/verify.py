"""Reads a ledger from its first line to its last and checks that each follows the one before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from photon.errors import UserError
from photon_gate.ledger.entries import MAX_LINE_BYTES, NOTHING_BEFORE, Entry, digest_of, read_line

_MONTH: Final = re.compile(r"\d{4}-\d{2}\.jsonl")


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it was read: where it is, and its entry, or what is wrong with it.

    ``digest``: sha256 of the line. ``torn``: the last line of all has no line break, so writing it was interrupted.
    """

    file: str
    number: int
    digest: str
    entry: Entry | None
    problem: str | None
    torn: bool = False


def months(folder: Path) -> list[Path]:
    """The files of a ledger in their order."""
    return sorted(path for path in folder.glob("*.jsonl") if _MONTH.fullmatch(path.name))


def read_ledger(folder: Path) -> Iterator[Line]:
    """Every line in order, with memory for one. Raises UserError: no ledger is there."""
    files = months(folder)
    if not files:
        raise UserError(f"{folder} holds no ledger: expected files such as 2026-11.jsonl")
    before, seq = NOTHING_BEFORE, 0
    for path in files:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if not raw.endswith(b"\n"):
                    rest = file.read(1)
                    torn = not rest and path is files[-1]
                    problem = None if torn else "is too long" if rest else "has no end, and another month follows"
                    yield Line(path.name, number, digest_of(raw), None, problem, torn=torn)
                    break
                line = raw[:-1]
                digest = digest_of(line)
                try:
                    entry = read_line(line)
                except ValueError as error:
                    yield Line(path.name, number, digest, None, str(error))
                    before, seq = digest, seq + 1
                    continue
                yield Line(path.name, number, digest, entry, _problem(entry, before, seq))
                before, seq = digest, entry.seq


def _problem(entry: Entry, before: str, seq: int) -> str | None:
    if entry.prev != before:
        return "does not follow the line before it: a line was changed, removed, inserted or moved"
    if entry.seq != seq + 1:
        return f"has the number {entry.seq}, expected {seq + 1}"
    return None
