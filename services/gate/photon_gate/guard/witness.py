"""The hub's log of its door, as this institution saw it: it only grows, and what was seen of it stays.

A hub whose log goes back, or is another one, ends the gate. A head that continues what was seen is signed by this
institution too, so that not even the hub can rewrite what came before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from photon.trust import statements
from photon.trust.log import NOTHING, follow
from photon_gate.guard.memory import Memory
from photon_gate.hub.checks import not_trusted
from photon_gate.hub.client import HubClient
from photon_gate.hub.errors import Declined

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Witness:
    """``record``: the signed head, before it leaves; raises LedgerError."""

    client: HubClient
    memory: Memory
    record: Callable[[str], object]
    _cosigned: int = 0

    def look(self) -> None:
        """Compare what the hub showed last, and sign it.

        Raises:
            Contradiction: The log went back, or is another one.
            HubUnreachable, Declined: It could not be read.
        """
        shown = self.client.log
        if shown is None:
            return
        if shown.size < shown.seen:
            raise not_trusted(
                f"its log of the door has {shown.size} entries, and had {shown.seen}: it was shortened, or the hub "
                "went back to a release or a backup without it"
            )
        self.follows(shown.size, shown.head, "its log of the door")
        if shown.size > max(self._cosigned, 0):
            self._cosigns(shown.size, shown.head)

    def follows(self, size: int, head: str, what: str) -> None:
        """A head that the hub signed. One before what was seen cannot be compared. Raises as ``look``."""
        seen, known = self.memory.log
        if size < seen or (size, head) == (0, NOTHING):
            return
        if size > seen > 0:
            known = self._continued(seen, known, size)
        if seen > 0 and head != known:
            raise not_trusted(
                f"{what} with {size} entries does not continue that with {seen} entries which it showed before"
            )
        self.memory.sees(size, head)

    def _continued(self, seen: int, head: str, size: int) -> str:
        """The head after ``size`` entries, by what the hub says of those after ``seen``."""
        while seen < size:
            digests = self.client.log_digests(seen)[: size - seen]
            if not digests:
                raise not_trusted(f"its log of the door has {seen} entries, and it signed a head of {size}")
            head, seen = follow(head, digests), seen + len(digests)
        return head

    def _cosigns(self, size: int, head: str) -> None:
        envelope = self.client.sign(
            statements.Cosign(
                audience=self.client.hub.id,
                job=self.client.job,
                participant=self.client.participant,
                size=size,
                head=head,
            )
        )
        self.record(envelope)
        self._cosigned = size
        try:
            self.client.cosign(envelope)
        except Declined as error:
            log.info("the hub did not keep a signed head of its log: %s", error)
