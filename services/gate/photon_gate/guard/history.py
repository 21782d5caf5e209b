"""What the hub has signed of past rounds: one history, in which this institution's updates have its own keys."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from threading import Lock

from photon.trust import statements
from photon_gate.guard.common import Common
from photon_gate.guard.witness import Witness
from photon_gate.hub.checks import not_trusted
from photon_gate.hub.errors import Declined, HubUnreachable
from photon_gate.ledger.entries import Direction

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Of one job. The loop of the program and the worker's requests look at it, one at a time."""

    common: Common
    witness: Witness | None = None
    _lock: Lock = field(default_factory=Lock)

    def check(self) -> None:
        """Check what the hub signed of rounds since the last look. Raises Contradiction: it is no one history."""
        with self._lock:
            self._check()

    def _check(self) -> None:
        while found := self.common.client.commits(self.common.memory.checked):
            for said, envelope in found:
                if said.job != self.common.client.job:
                    raise not_trusted("it signs commits of another job as those of this one")
                if said.participant != self.common.client.participant:
                    raise not_trusted(f"it shows a commit as it is signed for {said.participant}")
                own = said.key
                if own is not None and not self._owned(own) and self.common.memory.update(said.round) is not None:
                    raise not_trusted(f"round {said.round} has an update of this institution with the key {own}")
                self.common.memory.follows(said)
                if self.witness is not None:
                    what = f"the log of its door in the commit of round {said.round}"
                    self.witness.follows(said.audit_size, said.audit_head, what)
                self.common.standing.last_commit, self.common.standing.committed = said.commit, said.round
                self.common.record.add(Direction.IN, "Commit", "Seen", said.commit, said.round, envelope=envelope)

    def last(self, said: statements.Task) -> None:
        """What the hub signed before the end, which it may not be there to show later."""
        try:
            self.check()
        except (Declined, HubUnreachable) as error:
            log.warning("the last commits were not read: %s", error)
        self.common.standing.last_commit, self.common.standing.committed = said.base, said.round

    def _owned(self, key_id: str) -> bool:
        return self.common.client.owned(key_id) or key_id in self.common.memory.keys
