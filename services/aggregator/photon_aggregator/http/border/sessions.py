"""Challenges and sessions: random, short, in memory only. After a restart every site opens a new one."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from photon.protocol.border import CHALLENGE_SECONDS, PROTOCOLS, SESSION_SECONDS, BorderReason
from photon.protocol.canonical import sha256_hex
from photon_aggregator.http.border.errors import Denied

# Anyone may ask for challenges: the oldest make room.
MAX_CHALLENGES: Final = 4096
# Sessions that ended, remembered to say why.
MAX_ENDED: Final = 1024


@dataclass(slots=True, kw_only=True)
class Sessions:
    """``clock``: monotonic seconds."""

    clock: Callable[[], float]
    _challenges: OrderedDict[str, float] = field(default_factory=OrderedDict)
    _names: dict[str, tuple[str, float]] = field(default_factory=dict)
    _newest: dict[str, str] = field(default_factory=dict)
    _protocols: dict[str, int] = field(default_factory=dict)
    _ended: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def challenge(self) -> str:
        """32 hexadecimal digits to be signed once, within a minute."""
        made = secrets.token_hex(16)
        self._challenges[made] = self.clock() + CHALLENGE_SECONDS
        while len(self._challenges) > MAX_CHALLENGES:
            self._challenges.popitem(last=False)
        return made

    def answered(self, challenge: str) -> None:
        """Use a challenge up. Raises Denied: it is none of ours, was used, or is too old."""
        until = self._challenges.pop(challenge, None)
        if until is None or self.clock() > until:
            raise Denied(
                BorderReason.SESSION_EXPIRED,
                f"the challenge is unknown, was used or is older than {CHALLENGE_SECONDS} s: ask hello for a new one",
            )

    def valid(self) -> int:
        """How many sessions are valid now."""
        now = self.clock()
        return sum(now <= until for _, until in self._names.values())

    def open(self, participant: str, protocol: int) -> str:
        """A session of ``participant``, who speaks ``protocol``; the one before it ends."""
        self.drop(participant)
        token = secrets.token_urlsafe(32)
        digest = sha256_hex(token.encode())
        self._names[digest] = (participant, self.clock() + SESSION_SECONDS)
        self._newest[participant] = digest
        self._protocols[participant] = protocol
        return token

    def protocol(self, participant: str) -> int:
        """What the participant speaks in its session."""
        return self._protocols.get(participant, PROTOCOLS[0])

    def drop(self, participant: str) -> None:
        """End the session of a participant, if it has one."""
        digest = self._newest.pop(participant, None)
        if digest is not None:
            del self._names[digest]
            self._ended[digest] = None
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def participant(self, token: str) -> str:
        """Whose session it is. Raises Denied: of no one, or no longer."""
        digest = sha256_hex(token.encode())
        found = self._names.get(digest)
        if found is not None and self.clock() <= found[1]:
            return found[0]
        if digest in self._ended:
            raise Denied(
                BorderReason.SESSION_SUPERSEDED,
                "this session was ended by a newer one, or by the hub; does another gate use the same key?",
            )
        if found is not None:
            self.drop(found[0])
        raise Denied(BorderReason.SESSION_EXPIRED, "the session is unknown or has expired: open a new one")
