"""What a preparation met on the way and did not take as it was: counts, and where the first of each kind is.

Small enough to travel from process to process, to be kept beside a unit's records, and to be written into index.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

What = Literal[
    "empty",
    "not_text",
    "bad_records",
    "invalid_bytes",
    "unread",
    "own_output",
    "replaced",
    "converted",
    "json_as_text",
]
# Findings that other values of --encoding, --invalid-bytes or --bad-records would change.
_BY_POLICY: Final = frozenset({"not_text", "bad_records", "invalid_bytes", "replaced", "converted"})
_NAMES: Final = {
    "exact_duplicates": "exact duplicates",
    "near_duplicates": "near-duplicates",
    "near_held_out": "near-duplicates of held-out documents",
    "beyond_max_bytes": "beyond --max-bytes",
    "empty": "empty",
    "not_text": "files that are no text",
    "bad_records": "bad records",
    "invalid_bytes": "with invalid bytes",
    "unread": "files of other kinds",
    "own_output": "files of prepared data",
    "replaced": "with invalid bytes replaced",
    "converted": "converted to UTF-8",
    "json_as_text": "JSON files read as text, without the field that holds it",
}


@dataclass(slots=True, kw_only=True)
class Findings:
    """``counts`` and ``first`` by kind; ``first`` names the file within its input, and the row or byte."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, what: What, where: str) -> None:
        """One more of ``what``, at ``where``."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, where)

    def add(self, later: Findings) -> None:
        """Put what was found after this together with it."""
        for what, count in later.counts.items():
            self.counts[what] = self.counts.get(what, 0) + count
            self.first.setdefault(what, later.first[what])

    def of(self, what: What) -> int:
        return self.counts.get(what, 0)

    @property
    def depends_on_policy(self) -> bool:
        """Whether other policies for damage would have given other documents."""
        return not _BY_POLICY.isdisjoint(self.counts)


def describe(counts: Mapping[str, int], first: Mapping[str, str]) -> str:
    """``2 bad records (first: a.jsonl, line 7 (byte 90)), 1 empty (first: b.txt)``; "nothing" if there is nothing."""
    parts = [
        f"{count:,} {_NAMES[name]}" + (f" (first: {first[name]})" if name in first else "")
        for name, count in counts.items()
        if count
    ]
    return ", ".join(parts) or "nothing"


def printable(text: str) -> str:
    """``text`` without the surrogates that stand for bytes of a file name which are not UTF-8: ``\\xff`` instead."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
