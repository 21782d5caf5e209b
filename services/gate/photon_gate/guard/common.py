"""What every guard works with, and what must hold before any of them lets something across."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from photon.policy.document import Policy
from photon.policy.hours import is_open
from photon.protocol.messages import JobForWorkers
from photon_gate.guard.memory import Memory, Training
from photon_gate.guard.record import Record
from photon_gate.guard.standing import Standing
from photon_gate.hub.client import HubClient
from photon_gate.hub.errors import Declined, HubUnreachable


@dataclass(slots=True, kw_only=True)
class Common:
    """Of one gate."""

    client: HubClient
    memory: Memory
    policy: Policy
    standing: Standing
    record: Record

    def job(self) -> JobForWorkers:
        """The job, checked before any worker was served. Raises Declined: not yet."""
        found = self.standing.job
        if found is None or not self.standing.ready:
            raise Declined(503, "NotReady", f"{self.standing.reason}: {self.standing.message}"[:2000])
        return found

    def reached(self) -> JobForWorkers:
        """As ``job``; a hub that is away is looked for elsewhere, with pauses. Raises Declined, HubUnreachable."""
        found = self.job()
        if not self.standing.up:
            raise HubUnreachable("Away", self.standing.message)
        return found

    @property
    def open_now(self) -> bool:
        """Whether the policy's hours allow work now."""
        return is_open(self.policy.hours, datetime.fromtimestamp(self.standing.now(), UTC))

    def training(self, round_number: int, plan: str) -> Training:
        """The task under way. Raises Declined: it is not this round's, or not with this plan."""
        self.reached()
        training = self.memory.training
        if training is None or training.round != round_number or training.plan != plan:
            raise self.record.refused("UnknownRound", f"round {round_number} with this plan is not under way here", 404)
        return training
