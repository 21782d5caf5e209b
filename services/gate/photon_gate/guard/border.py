"""What crosses the border, request by request: which guard decides it. Read this first.

A task crosses only if the hub signed it, the policy allows it and its round is not an earlier one; its URLs become
grants of the relay. An update crosses only if it is the first of its round and consists of parts that were seen to
leave. What contradicts the hub's own signatures ends the gate.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from photon.policy.document import Policy
from photon.protocol.messages import (
    JobForWorkers,
    PartsReply,
    PartsRequest,
    Progress,
    ProgressReply,
    Task,
    UpdateReply,
    UpdateSubmission,
)
from photon.protocol.records import Evaluation
from photon_gate.guard.common import Common
from photon_gate.guard.history import History
from photon_gate.guard.memory import Memory
from photon_gate.guard.parts import Parts
from photon_gate.guard.passes import Passes
from photon_gate.guard.presence import Presence
from photon_gate.guard.record import Record
from photon_gate.guard.reports import Reports
from photon_gate.guard.signing import Signing
from photon_gate.guard.standing import Standing
from photon_gate.guard.tasks import Tasks
from photon_gate.guard.witness import Witness
from photon_gate.hub.client import HubClient
from photon_gate.ledger.book import Ledger
from photon_gate.relay.grants import Grants


class Border:
    """All guards of one gate."""

    def __init__(
        self,
        *,
        client: HubClient,
        memory: Memory,
        policy: Policy,
        ledger: Ledger,
        grants: Grants,
        standing: Standing,
        relay_url: str,
        sent: set[tuple[int, str, int]],
        witness: Witness | None = None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """``relay_url``: as workers reach the relay. ``sent``: round, sha256 and size of parts that left."""
        self.client, self.standing, self.sent = client, standing, sent
        self.witness = witness
        record = Record(ledger=ledger, standing=standing)
        self.common = Common(client=client, memory=memory, policy=policy, standing=standing, record=record)
        passes = Passes(grants=grants, standing=standing, relay_url=relay_url)
        self.presence = Presence(common=self.common)
        self.history = History(common=self.common, witness=witness)
        self.tasks = Tasks(common=self.common, presence=self.presence, passes=passes, history=self.history)
        self.reports = Reports(common=self.common, steady=steady)
        self._parts = Parts(common=self.common, passes=passes, sent=sent)
        self.signing = Signing(common=self.common, sent=sent)

    def job(self) -> JobForWorkers:
        """In: the job, checked before any worker was served. Raises Declined: not yet."""
        return self.common.job()

    def task(self, wait_seconds: float, done: str | None) -> tuple[Task, str] | None:
        """In: the next task, with the hub's word on what it takes; None: nothing to do."""
        return self.tasks.next(wait_seconds, done)

    def commits(self) -> None:
        """In: what the hub signed of rounds since the last look. Raises Contradiction: it is no one history."""
        self.history.check()

    def progress(self, said: Progress) -> ProgressReply:
        """Out: what the worker does, cut, every few seconds and when its phase changes."""
        return self.reports.progress(said)

    def parts(self, round_number: int, request: PartsRequest) -> PartsReply:
        """Out: where to write parts of the update under way, at the relay."""
        return self._parts.grant(round_number, request)

    def update(self, round_number: int, submission: UpdateSubmission, wait_seconds: float) -> UpdateReply:
        """Out: an update, signed; again while the hub checks it."""
        return self.signing.update(round_number, submission, wait_seconds)

    def evaluation(self, round_number: int, said: Evaluation) -> None:
        """Out: the result of an evaluation, signed."""
        self.signing.evaluation(round_number, said)

    def look_at_hours(self) -> None:
        """Whether the policy's hours allow work now; the hub is told when they do not."""
        self.presence.look_at_hours()

    def look_for_the_end(self) -> None:
        """Ask for the signed end of a job that is said to be over, for a worker may not be there to ask."""
        self.tasks.look_for_the_end()
