"""What the door's routes work with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from photon.protocol.canonical import digest
from photon.protocol.messages import ErrorReason
from photon.protocol.records import UpdateManifest
from photon.store.objects import ObjectStore
from photon.trust.members import Member
from photon_aggregator.http.border.enrolling import Reception
from photon_aggregator.http.border.hub import Hub
from photon_aggregator.http.border.rates import UPDATE, Buckets
from photon_aggregator.http.border.watch import Watch
from photon_aggregator.http.errors import ApiError
from photon_aggregator.rounds.state import CHECKS_A_ROUND


@dataclass(slots=True, kw_only=True)
class BorderDoor:
    """``outside``: the store as institutions reach it; only URLs are made with it."""

    hub: Hub
    reception: Reception
    watch: Watch
    outside: ObjectStore
    clock: Callable[[], float] = time.monotonic
    _updates: Buckets = field(init=False)
    _read_at: float = float("-inf")
    _signatures: dict[str, tuple[int, set[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._updates = Buckets(rate=UPDATE, clock=self.clock)

    def pace_update(self, round_number: int, participant: str) -> None:
        """Raises ApiError: the participant hands in the update of this round too often."""
        self._updates.take(f"{participant}/{round_number}", f"too many attempts to hand in round {round_number}")

    def member(self, participant: str) -> Member:
        """Where it stands; it has a session, so it is one."""
        return self.reception.roster.members[participant]

    def may_lag(self, seen: int) -> bool:
        """Whether to look for what another aggregator logged: somebody saw more. Not more often than once a second."""
        if seen <= self.hub.log.size or self.clock() < self._read_at + 1.0:
            return False
        self._read_at = self.clock()
        return True

    def count_signature(self, round_number: int, participant: str, manifest: UpdateManifest) -> None:
        """Raises ApiError: the participant signed more updates in this round than are checked."""
        number, known = self._signatures.get(participant, (round_number, set()))
        if number != round_number:
            known = set()
        known.add(digest(manifest))
        self._signatures[participant] = (round_number, known)
        if len(known) > CHECKS_A_ROUND:
            raise ApiError(
                ErrorReason.TOO_MANY_REQUESTS, f"more than {CHECKS_A_ROUND} updates of {participant} in this round"
            )
