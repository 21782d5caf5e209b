"""The door's log: what happened there, each entry linked to all before it, so none can be changed or taken out alone.

The head after an entry is the sha256 of the head before it and of the entry's digest. Who has a head can therefore
check that a later one continues it by the digests between them, 32 bytes an entry, without what the entries say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from photon.api.base import ApiModel, Name
from photon.api.job import MAX_PARTICIPANTS
from photon.protocol.canonical import digest
from photon.protocol.ranges import Count, RoundNumber
from photon.protocol.records import Sha256
from photon.trust.members import MAX_RECORDS, MemberKind
from photon.trust.statements import KeyId, Reason

# The head of a log without entries; what hubs sign that keep none.
NOTHING: Final = "0" * 64
MAX_ENTRIES: Final = 256


class LogKind(StrEnum):
    """What happened. The first five are records of members."""

    ENROLLED = MemberKind.ENROLLED.value
    GRANTED = MemberKind.GRANTED.value
    ROTATED = MemberKind.ROTATED.value
    REVOKED = MemberKind.REVOKED.value
    LEFT = MemberKind.LEFT.value
    SESSION = "SessionOpened"
    ACCEPTED = "UpdateAccepted"
    REFUSED = "UpdateRefused"
    COMMITTED = "Committed"


def _unset(value: object) -> bool:
    return value is None


class LogEntry(ApiModel):
    """``subject``: digest of the record of the member, the manifest or the commit. ``serial``: of the member's record.
    ``key``: id of the key that signed. ``at``: seconds since the epoch, for people only."""

    kind: LogKind
    at: Count = 0
    participant: Annotated[Name | None, Field(exclude_if=_unset)] = None
    round: Annotated[RoundNumber | None, Field(exclude_if=_unset)] = None
    serial: Annotated[int | None, Field(ge=1, le=MAX_RECORDS, exclude_if=_unset)] = None
    subject: Annotated[Sha256 | None, Field(exclude_if=_unset)] = None
    key: Annotated[KeyId | None, Field(exclude_if=_unset)] = None
    reason: Annotated[Reason | None, Field(exclude_if=_unset)] = None


class Segment(ApiModel):
    """log/segments/0000000001.json: entries from number ``first`` on, after the head ``before``.

    ``members``: up to which serial the records of each participant are in the log then, and ``committed`` up to which
    round its commits: so a restart reads one segment.
    """

    first: Annotated[int, Field(ge=1, le=10**10)]
    before: Sha256
    entries: Annotated[list[LogEntry], Field(min_length=1, max_length=MAX_ENTRIES)]
    members: Annotated[dict[Name, Annotated[int, Field(ge=1, le=MAX_RECORDS)]], Field(max_length=MAX_PARTICIPANTS)] = {}
    committed: Annotated[int, Field(ge=-1, le=10**9)] = -1

    @property
    def last(self) -> int:
        """Number of its last entry."""
        return self.first + len(self.entries) - 1

    @property
    def digests(self) -> list[str]:
        """Of its entries."""
        return [digest(entry) for entry in self.entries]


def follow(head: str, digests: Iterable[str]) -> str:
    """The head after the entries with ``digests``, that follow ``head``. All are 64 hexadecimal digits."""
    for one in digests:
        head = hashlib.sha256(bytes.fromhex(head) + bytes.fromhex(one)).hexdigest()
    return head
