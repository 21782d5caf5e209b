"""What passes the relay, in the ledger and the counts: an upload before its end leaves, and what did not end well.

Reads are not recorded here, range by range: the gate records the task that they belong to, with its files' digests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import MAX_TEXT, Direction, What
from photon_gate.ledger.verify import months, read_ledger
from photon_gate.relay.grants import Grant
from photon_gate.relay.passing import Outcome, Passed

PART = "Part"
# Before the end of an upload leaves, so nothing leaves that is not on record.
ALLOWED = "Allowed"
# A part that left: round, sha256, bytes.
Left = tuple[int, str, int]


class Recording:
    """The relay's ``on_leaving`` and ``on_passed``. ``left``: what left, as far as it is known; ``count``: bytes."""

    def __init__(
        self, ledger: Ledger, left: set[Left] | None = None, count: Callable[[str, str, int], object] | None = None
    ) -> None:
        self._ledger = ledger
        self._left = left if left is not None else set()
        self._count = count or (lambda *_: None)

    def leaving(self, grant: Grant) -> None:
        """All of an upload but its end has left. Raises LedgerError: it cannot be recorded, so its end must not."""
        self._ledger.append(_what(grant, ALLOWED, grant.size_bytes, grant.sha256))
        if grant.round is not None and grant.sha256 is not None:
            self._left.add((grant.round, grant.sha256, grant.size_bytes))

    def passed(self, passed: Passed) -> None:
        """A transfer has ended. A complete upload is on record already."""
        put = passed.grant.method == "PUT"
        self._count(*(("out", "part") if put else ("in", "model")), passed.bytes)
        if put and passed.outcome not in (Outcome.COMPLETE, Outcome.UNRECORDED):
            self._ledger.append(_what(passed.grant, passed.outcome.value, passed.bytes, passed.sha256))


def left_before(folder: Path, round_number: int) -> set[Left]:
    """Parts of a round that an earlier process of this gate let leave, from the ledger."""
    if not months(folder):
        return set()
    return {
        (round_number, entry.sha256, entry.bytes)
        for line in read_ledger(folder)
        if (entry := line.entry) is not None
        and (entry.kind, entry.decision, entry.round) == (PART, ALLOWED, round_number)
        and entry.sha256 is not None
        and entry.bytes is not None
    }


def _what(grant: Grant, decision: str, size: int, sha256: str | None) -> What:
    return What(
        direction=Direction.OUT,
        kind=PART,
        decision=decision,
        name=grant.what[:MAX_TEXT],
        round=grant.round,
        bytes=size,
        sha256=sha256,
    )
