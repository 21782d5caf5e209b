"""From an invitation to the end: enroll, wait for approval, check the job, then look after the hub until it is over.

Runs in the main thread; the worker's requests come in others. A hub that is away and an approval that is awaited are
asked again for as long as it takes; what no other attempt changes is raised.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from photon.api.status import ConditionType, JoinReason, MemberState
from photon.policy.document import Policy
from photon.policy.verdict import of_job
from photon.protocol.border import SiteState, StateReport
from photon.trust.keys import Key
from photon_gate.guard.border import Border
from photon_gate.guard.memory import Memory
from photon_gate.guard.standing import Standing
from photon_gate.hub.client import HubClient
from photon_gate.hub.errors import Awaiting, Contradiction, Declined, HubUnreachable, NotEnrolled
from photon_gate.keyfile import IdentityFile
from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import MAX_TEXT, Direction, What

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0
PAUSE_GROWTH: Final = 1.5
STARTING_PAUSE: Final = 5.0
_OVER: Final = frozenset({ConditionType.COMPLETE.value, ConditionType.FAILED.value, ConditionType.SUSPENDED.value})


@dataclass(slots=True, kw_only=True)
class Membership:
    """Of one participant in one job."""

    client: HubClient
    memory: Memory
    policy: Policy
    ledger: Ledger
    border: Border
    standing: Standing
    identity: IdentityFile | None = None
    look_seconds: float = LOOK_SECONDS
    jitter: Callable[[], float] = lambda: random.uniform(0.7, 1.0)
    _pause: float = FIRST_PAUSE
    _round: int = -1
    _noted: str = ""
    _warned: str = field(default="")

    def step(self) -> float:
        """Do what is next; seconds until the next step.

        Raises:
            Contradiction: The gate must end.
            LedgerError: Nothing can be recorded, so nothing may cross.
        """
        try:
            self._look_at_the_key()
            if self.standing.ready:
                self._look()
            else:
                self._join()
        except HubUnreachable as error:
            self.standing.away(error)
            # One that starts says so itself, and will be there in seconds.
            longest = STARTING_PAUSE if error.where == "NotReady" else LONGEST_PAUSE
            return self._later(str(error), error.retry_after, longest)
        except Awaiting as error:
            self.standing.member = MemberState.AWAITING_APPROVAL
            self.standing.heard()
            self.standing.is_at(JoinReason.AWAITING_APPROVAL.value, str(error))
            self._note("AwaitingApproval")
            return self._later(str(error), None)
        except NotEnrolled:
            self.standing.member = MemberState.INVITED
            return self._later("the hub asks for an enrollment", None)
        except Declined as error:
            return self._later(str(error), error.retry_after)
        if self._warned:
            log.info("the hub answers again")
        self._pause, self._warned = FIRST_PAUSE, ""
        return self.look_seconds

    def _join(self) -> None:
        state = self.client.enroll()
        self.memory.joined(self.client.job)
        self.memory.enrolled(self.client.key.id)
        self.standing.heard()
        if state is not MemberState.ACTIVE:
            raise Awaiting(
                f"enrolled with the key {self.client.key.fingerprint}; the hub's administrator has not confirmed it yet"
            )
        job = self.client.learning()
        view = self.client.view()
        refusals = of_job(self.policy, job.learning, rounds=view.rounds)
        if refusals:
            message = "; ".join(map(str, refusals))
            self.ledger.append(
                What(
                    direction=Direction.IN,
                    kind="Job",
                    decision=JoinReason.POLICY_REFUSED.value,
                    sha256=self.client.job,
                    message=message[:MAX_TEXT],
                )
            )
            self.standing.policy_refused = True
            self._declines()
            raise Contradiction(JoinReason.POLICY_REFUSED, message)
        self.standing.view, self.standing.job, self.standing.member = view, job, state
        self._witnesses()
        self.border.commits()
        self._note("Active")
        self.border.look_at_hours()
        log.info(
            "member of %s at %s, with the key %s", job.name, self.client.exchange.host, self.client.key.fingerprint
        )
        self._says()

    def _look_at_the_key(self) -> None:
        new = self.identity.rotated(self.client.key) if self.identity is not None else None
        if new is not None:
            log.info("the key was rotated to %s: telling the hub", new.key.fingerprint)
            self.client.takes(new)

    def _witnesses(self) -> None:
        if self.border.witness is not None:
            self.border.witness.look()

    def rotating(self, envelope: str) -> None:
        """A signed rotation is about to leave. Raises LedgerError: then it does not."""
        self.ledger.append(What(direction=Direction.OUT, kind="Key", decision="Signed", envelope=envelope))

    def rotated(self, old: Key, new: Key) -> None:
        """The hub knows the new key."""
        name = f"{old.id} is {new.id} from now on"
        self.ledger.append(What(direction=Direction.IN, kind="Key", decision="Rotated", name=name))
        self.memory.enrolled(new.id)
        self._noted = ""
        log.info("the hub knows the new key %s", new.fingerprint)

    def _look(self) -> None:
        view = self.client.view()
        self.standing.heard()
        self.standing.view = view
        self._witnesses()
        if view.round != self._round or self.memory.checked < view.round - 1:
            self.border.commits()
            self._round = view.round
        if view.state in _OVER:
            self.border.commits()
            self.border.look_for_the_end()
        self.border.look_at_hours()
        self._says()

    def _says(self) -> None:
        """What the job is at, unless something here keeps this institution from it."""
        standing, view = self.standing, self.standing.view
        if not (standing.finish or standing.policy_refused or standing.closed_hours) and view is not None:
            standing.is_at(view.reason.value if view.reason is not None else "Training")

    def _declines(self) -> None:
        try:
            self.client.state(StateReport(state=SiteState.DECLINED, reason=JoinReason.POLICY_REFUSED.value))
        except (Declined, HubUnreachable) as error:
            log.info("the hub was not told: %s", error)

    def _note(self, decision: str) -> None:
        """A change of the membership, in the ledger."""
        if decision != self._noted:
            self.ledger.append(
                What(
                    direction=Direction.IN,
                    kind="Membership",
                    decision=decision,
                    name=f"{self.client.participant} with {self.client.key.id} at {self.client.hub.id}",
                    sha256=self.client.job or None,
                )
            )
            self._noted = decision

    def _later(self, message: str, retry_after: float | None, longest: float = LONGEST_PAUSE) -> float:
        pause = max(min(self._pause, longest) * self.jitter(), retry_after or 0.0)
        self._pause = min(longest, self._pause * PAUSE_GROWTH)
        if message != self._warned:
            log.warning("%s; asking again in %.0f s, and so on", message, pause)
            self._warned = message
        return pause
