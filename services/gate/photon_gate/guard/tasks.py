"""Tasks on their way in: signed by the hub, allowed by the policy, and of no earlier round than those before."""

from __future__ import annotations

from dataclasses import dataclass

from photon.api.status import JoinReason
from photon.policy.verdict import TaskFacts, of_task
from photon.protocol.border import SiteState
from photon.protocol.messages import ACCEPTS, TRAINING_NOTES, FinishTask, Task, TrainTask
from photon.trust import statements
from photon_gate.guard.common import Common
from photon_gate.guard.history import History
from photon_gate.guard.memory import Behind
from photon_gate.guard.passes import Passes
from photon_gate.guard.presence import Presence
from photon_gate.hub.checks import of_task as same_task
from photon_gate.ledger.entries import Direction


@dataclass(slots=True, kw_only=True)
class Tasks:
    """Of one participant. ``last``: the task that was recorded last."""

    common: Common
    presence: Presence
    passes: Passes
    history: History
    last: str = ""

    def next(self, wait_seconds: float, done: str | None) -> tuple[Task, str] | None:
        """The next task, with the hub's word on what it takes; None: nothing to do."""
        if self.common.standing.finish is not None:
            self.common.standing.finish_read = True
            return self.common.standing.finish, ""
        self.common.reached()
        if not self.common.open_now:
            self.common.standing.progress = None  # A worker that asks for work has none under way.
            self.presence.look_at_hours()
            return None
        return self._next(wait_seconds, done)

    def look_for_the_end(self) -> None:
        """Ask for the signed end of a job that is said to be over, for a worker may not be there to ask."""
        if self.common.standing.finish is None:
            self._next(0, None)
            self.common.standing.finish_read = False

    def _next(self, wait_seconds: float, done: str | None) -> tuple[Task, str] | None:
        found = self.common.client.task(wait_seconds, done)
        self.common.standing.heard()
        if found is None:
            return None
        offered, headers = found
        said = self.common.client.signed_task(offered.envelope)
        same_task(said, offered.task, job=self.common.client.job, participant=self.common.client.participant)
        notes = TRAINING_NOTES if TRAINING_NOTES in headers.get(ACCEPTS.lower(), "") else ""
        task = self._allowed(said, offered.task)
        if task is None:
            return None
        if said.id != self.last:
            self.common.record.add(Direction.IN, "Task", "Passed", said.id, said.round, envelope=offered.envelope)
            self.last = said.id
        if isinstance(task, FinishTask):
            self.history.last(said)
            self.common.standing.finish_read = True
            self.common.standing.ends(task)
            return task, notes
        return self.passes.task(task), notes

    def _allowed(self, said: statements.Task, task: Task) -> Task | None:
        """The task, if the policy and what was seen before allow it."""
        if isinstance(task, FinishTask):
            return task
        job = self.common.job()
        facts = TaskFacts(
            round=task.round,
            cohort_size=said.cohort_size,
            local_steps=said.local_steps,
            files=[(file.name, file.size_bytes) for file in said.files],
        )
        refusals = of_task(self.common.policy, job.learning, facts)
        if refusals:
            self._decline(said, JoinReason.POLICY_REFUSED, "; ".join(map(str, refusals)))
            return None
        try:
            if isinstance(task, TrainTask):
                size = sum(file.size_bytes for file in said.files if file.name == "model.safetensors")
                self.common.memory.trains(task, size)
            else:
                self.common.memory.based(task.round, task.model.commit)
        except Behind as behind:
            self._decline(said, JoinReason.HUB_NOT_TRUSTED, str(behind))
            return None
        self.presence.tell(SiteState.HERE, "")
        self.common.standing.policy_refused = False
        self.common.standing.last_commit = task.model.commit
        return task

    def _decline(self, said: statements.Task, reason: JoinReason, message: str) -> None:
        if (said.id, message) != (self.last, self.common.standing.message):
            self.common.record.add(Direction.IN, "Task", reason.value, said.id, said.round, message=message)
            self.common.standing.refusal(reason.value)
            self.last = said.id
        self.common.standing.policy_refused = reason is JoinReason.POLICY_REFUSED
        self.common.standing.is_at(reason.value, message)
        self.presence.tell(SiteState.DECLINED, reason.value)
