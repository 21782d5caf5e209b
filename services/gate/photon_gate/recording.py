"""What passes the relay goes into the ledger: an upload before its end leaves, and whatever did not end well.

Reads are not recorded here, range by range: the gate records the task that they belong to, with its files' digests.
"""

from __future__ import annotations

from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import MAX_TEXT, Direction, What
from photon_gate.relay.grants import Grant
from photon_gate.relay.passing import Outcome, Passed

PART = "Part"
# Before the end of an upload leaves, so nothing leaves that is not on record.
ALLOWED = "Allowed"


class Recording:
    """The relay's ``on_leaving`` and ``on_passed``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def leaving(self, grant: Grant) -> None:
        """All of an upload but its end has left. Raises LedgerError: it cannot be recorded, so its end must not."""
        self._ledger.append(_what(grant, ALLOWED, grant.size_bytes, grant.sha256))

    def passed(self, passed: Passed) -> None:
        """A transfer has ended. A complete upload is on record already."""
        if passed.grant.method == "PUT" and passed.outcome not in (Outcome.COMPLETE, Outcome.UNRECORDED):
            self._ledger.append(_what(passed.grant, passed.outcome.value, passed.bytes, passed.sha256))


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
