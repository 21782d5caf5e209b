"""The ledger on a terminal: a line an entry, or whether the chain holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from photon.api.text import printable
from photon.exit_codes import EXIT_FAILED
from photon_gate.ledger.verify import read_ledger

HEAD_CHARACTERS: Final = 16
MAX_PROBLEMS: Final = 20


def show(folder: Path) -> None:
    """Print every entry: number, time, direction, kind, round, bytes, decision, name, message."""
    for line in read_ledger(folder):
        entry = line.entry
        if entry is None:
            sys.stdout.write(
                f"{line.file}:{line.number}  {'was not written to its end' if line.torn else line.problem}\n"
            )
            continue
        words = [
            f"{entry.seq:>6}",
            f"{entry.at:%Y-%m-%d %H:%M:%S}",
            f"{entry.direction:<4}",
            f"{entry.kind:<10}",
            "" if entry.round is None else f"round {entry.round}",
            "" if entry.bytes is None else f"{entry.bytes:,} bytes",
            entry.decision,
            printable(entry.name),
            printable(entry.message),
        ]
        sys.stdout.write("  ".join(word for word in words if word) + "\n")


def verify(folder: Path, *, head: str | None = None) -> int:
    """Print whether the chain holds, and what does not; returns the exit code: 0, or 1 when it does not.

    ``head``: sha256 of a line that was noted earlier, or its first 16 characters or more; it must be in the ledger.
    Without one, entries that were cut off the end are not missed.
    """
    entries, problems, last, found = 0, 0, "", head is None
    for line in read_ledger(folder):
        if line.torn:
            sys.stdout.write(
                f"{line.file}:{line.number} was not written to its end; the gate's next start moves it aside\n"
            )
            continue
        entries, last = entries + 1, line.digest
        found = found or line.digest.startswith(head or "")
        if line.problem is not None:
            problems += 1
            if problems <= MAX_PROBLEMS:
                sys.stdout.write(f"{line.file}:{line.number} {line.problem}\n")
    if problems > MAX_PROBLEMS:
        sys.stdout.write(f"and {problems - MAX_PROBLEMS} more\n")
    if not found:
        sys.stdout.write(f"the line {head} is not in this ledger: entries were removed or replaced\n")
    if problems or not found:
        return EXIT_FAILED
    sys.stdout.write(f"{entries} entries, each follows the one before; the last is {last}\n")
    return 0
