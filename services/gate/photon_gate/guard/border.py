"""Each request of the worker, through all guards, to the hub and back.

A task crosses only if the hub signed it, the policy allows it and its round is not an earlier one; its URLs become
grants of the relay. An update crosses only if it is the first of its round and consists of parts that were seen to
leave. What contradicts the hub's own signatures ends the gate.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import Final

from photon.api.status import JoinReason
from photon.policy.document import AtEnd, Policy
from photon.policy.hours import is_open
from photon.policy.verdict import TaskFacts, of_task
from photon.protocol.border import BorderEvaluation, BorderUpdate, SiteState, StateReport
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.messages import (
    ACCEPTS,
    TRAINING_NOTES,
    EvaluateTask,
    FinishTask,
    GlobalModel,
    JobForWorkers,
    ObjectGet,
    PartsReply,
    PartsRequest,
    PartUpload,
    Progress,
    ProgressReply,
    RefusalReason,
    Task,
    TrainTask,
    UpdateReply,
    UpdateSubmission,
)
from photon.protocol.records import Evaluation, Part, UpdateManifest
from photon.trust import statements
from photon_gate.guard import reveal
from photon_gate.guard.memory import Behind, Memory, Training
from photon_gate.guard.standing import Standing
from photon_gate.guard.witness import Witness
from photon_gate.hub.checks import not_trusted, signed
from photon_gate.hub.checks import of_task as same_task
from photon_gate.hub.client import HubClient
from photon_gate.hub.errors import Declined, HubUnreachable
from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import MAX_TEXT, Direction, What
from photon_gate.relay.grants import MAX_VALID_SECONDS, GrantRefused, Grants

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 5.0
PART_SECONDS: Final = 3600
# The header of a part, a small safetensors file; and how often all parts of a round may be sent.
PART_HEADER: Final = 64 * 1024
TIMES: Final = 4
MAX_ENVELOPE_KEPT: Final = 8192


@dataclass(slots=True, kw_only=True)
class Border:
    """``relay_url``: as workers reach the relay. ``sent``: sha256 and size of parts that left, by round."""

    client: HubClient
    memory: Memory
    policy: Policy
    ledger: Ledger
    grants: Grants
    standing: Standing
    relay_url: str
    sent: set[tuple[int, str, int]]
    witness: Witness | None = None
    steady: Callable[[], float] = time.monotonic
    _lock: Lock = field(default_factory=Lock)
    _granted: dict[int, set[str]] = field(default_factory=dict)
    _spent: dict[int, int] = field(default_factory=dict)
    _reported: tuple[float, str] = (float("-inf"), "")
    _cancel: bool = False
    _told: tuple[SiteState, str] = (SiteState.HERE, "")
    _last: str = ""
    _marks: set[str] = field(default_factory=set)

    def job(self) -> JobForWorkers:
        """The job, checked before any worker was served. Raises Declined: not yet."""
        found = self.standing.job
        if found is None or not self.standing.ready:
            raise Declined(503, "NotReady", f"{self.standing.reason}: {self.standing.message}"[:2000])
        return found

    def _reached(self) -> JobForWorkers:
        """As ``job``; a hub that is away is looked for elsewhere, with pauses. Raises Declined, HubUnreachable."""
        found = self.job()
        if not self.standing.up:
            raise HubUnreachable("Away", self.standing.message)
        return found

    @property
    def open_now(self) -> bool:
        """Whether the policy's hours allow work now."""
        return is_open(self.policy.hours, datetime.fromtimestamp(self.standing.now(), UTC))

    def task(self, wait_seconds: float, done: str | None) -> tuple[Task, str] | None:
        """The next task, with the hub's word on what it takes; None: nothing to do."""
        if self.standing.finish is not None:
            self.standing.finish_read = True
            return self.standing.finish, ""
        self._reached()
        if not self.open_now:
            self.standing.progress = None  # A worker that asks for work has none under way.
            self.look_at_hours()
            return None
        return self._next(wait_seconds, done)

    def _next(self, wait_seconds: float, done: str | None) -> tuple[Task, str] | None:
        found = self.client.task(wait_seconds, done)
        self.standing.heard()
        if found is None:
            return None
        offered, headers = found
        said = signed(offered.envelope, statements.Task, self.client.hub)
        same_task(said, offered.task, job=self.client.job, participant=self.client.participant)
        notes = TRAINING_NOTES if TRAINING_NOTES in headers.get(ACCEPTS.lower(), "") else ""
        task = self._allowed(said, offered.task)
        if task is None:
            return None
        if said.id != self._last:
            self._record(Direction.IN, "Task", "Passed", said.id, said.round, envelope=offered.envelope)
            self._last = said.id
        if isinstance(task, FinishTask):
            self._last_commits(said)
            self.standing.finish_read = True
            self.standing.ends(task)
            return task, notes
        return self._rewritten(task), notes

    def look_at_hours(self) -> None:
        """Whether the policy's hours allow work now; with atEnd Finish, a round under way is finished first."""
        training, said = self.memory.training, self.standing.progress
        finishing = (
            self.policy.at_end is AtEnd.FINISH
            and training is not None
            and said is not None
            and said.task_id == f"train-{training.round:05d}"
            and self.memory.update(training.round) is None
        )
        self.standing.closed_hours = not self.open_now and not finishing
        if self.standing.closed_hours:
            self._tell(SiteState.AWAY, JoinReason.OUTSIDE_HOURS)
            self.standing.is_at(JoinReason.OUTSIDE_HOURS.value, "the policy's hours do not allow work now")

    def look_for_the_end(self) -> None:
        """Ask for the signed end of a job that is said to be over, for a worker may not be there to ask."""
        if self.standing.finish is None:
            self._next(0, None)
            self.standing.finish_read = False

    def _allowed(self, said: statements.Task, task: Task) -> Task | None:
        """The task, if the policy and what was seen before allow it."""
        if isinstance(task, FinishTask):
            return task
        job = self.job()
        facts = TaskFacts(
            round=task.round,
            cohort_size=said.cohort_size,
            local_steps=said.local_steps,
            files=[(file.name, file.size_bytes) for file in said.files],
        )
        refusals = of_task(self.policy, job.learning, facts)
        if refusals:
            self._decline(said, JoinReason.POLICY_REFUSED, "; ".join(map(str, refusals)))
            return None
        try:
            if isinstance(task, TrainTask):
                size = sum(file.size_bytes for file in said.files if file.name == "model.safetensors")
                self.memory.trains(task, size)
            else:
                self.memory.based(task.round, task.model.commit)
        except Behind as behind:
            self._decline(said, JoinReason.HUB_NOT_TRUSTED, str(behind))
            return None
        self._tell(SiteState.HERE, "")
        self.standing.policy_refused = False
        self.standing.last_commit = task.model.commit
        return task

    def _decline(self, said: statements.Task, reason: JoinReason, message: str) -> None:
        if (said.id, message) != (self._last, self.standing.message):
            self._record(Direction.IN, "Task", reason.value, said.id, said.round, message=message)
            self.standing.refusal(reason.value)
            self._last = said.id
        self.standing.policy_refused = reason is JoinReason.POLICY_REFUSED
        self.standing.is_at(reason.value, message)
        self._tell(SiteState.DECLINED, reason.value)

    def _tell(self, state: SiteState, reason: str) -> None:
        """Tell the hub once, by a code; a hub that does not take it misses nothing."""
        if self._told != (state, reason):
            self._told = state, reason
            try:
                self.client.state(StateReport(state=state, **({"reason": str(reason)} if reason else {})))
            except Declined:
                return

    def _rewritten(self, task: TrainTask | EvaluateTask) -> Task:
        valid = max(1, min(task.model.valid_seconds, MAX_VALID_SECONDS))
        files = []
        for each in task.model.files:
            granted = self._grant(
                lambda each=each: self.grants.get(  # type: ignore[misc]
                    each.url,
                    what=each.file.name,
                    size_bytes=each.file.size_bytes,
                    valid_seconds=valid,
                    round=task.model.round,
                )
            )
            files.append(ObjectGet(file=each.file, url=granted))
        model = GlobalModel(round=task.model.round, commit=task.model.commit, files=files, valid_seconds=valid)
        changed: dict[str, object] = {"model": model}
        if isinstance(task, EvaluateTask):
            # Names of data folders stay here.
            changed["by_source"] = False
        return task.model_copy(update=changed)

    def _grant(self, make: Callable[[], str]) -> str:
        """The relay's URL. Raises Contradiction: the hub names a place, or headers, that do not pass."""
        try:
            return f"{self.relay_url}/o/{make()}"
        except GrantRefused as error:
            self.standing.refusal("GrantRefused")
            raise not_trusted(f"it sends bytes elsewhere: {error}") from error

    def progress(self, said: Progress) -> ProgressReply:
        """What the worker does: passed on cut, every few seconds and when its phase changes."""
        self.job()
        self.standing.progress = said
        if self.standing.finish is not None:
            return ProgressReply(cancel=True)
        self._reached()
        if not self.open_now and self.policy.at_end is AtEnd.STOP:
            return ProgressReply(cancel=True)
        with self._lock:
            now, what = self.steady(), f"{said.task_id} {said.phase}"
            if now < self._reported[0] + REPORT_SECONDS and what == self._reported[1]:
                return ProgressReply(cancel=self._cancel)
            self._reported = now, what
        reply = self.client.progress(reveal.of_progress(self.policy.reveal, said))
        self.standing.heard()
        self._cancel = reply.cancel
        return reply

    def parts(self, round_number: int, request: PartsRequest) -> PartsReply:
        """Where to write parts of the update under way: at the relay."""
        training = self._training(round_number, request.plan)
        wanted = {part.index: part for part in request.parts}
        if len(wanted) != len(request.parts):
            raise self._refused("WrongParts", "parts: an index is given twice")
        for part in request.parts:
            self._in_bounds(part, training)
        with self._lock:
            if round_number not in self._granted:
                self._granted, self._spent = {round_number: set()}, {round_number: 0}
                self.sent.difference_update({one for one in self.sent if one[0] < round_number})
            fresh = {part.sha256: part.size_bytes for part in request.parts}
            more = sum(size for sha, size in fresh.items() if sha not in self._granted[round_number])
            if self._spent[round_number] + more > TIMES * (training.model_bytes + PART_HEADER):
                raise self._refused("TooMuch", f"the parts of round {round_number} exceed {TIMES} times the model")
            self._granted[round_number].update(fresh)
            self._spent[round_number] += more
        reply = self.client.parts(round_number, request)
        self.standing.heard()
        uploads = [self._upload(round_number, each, wanted) for each in reply.uploads]
        return PartsReply(uploads=uploads)

    def _upload(self, round_number: int, each: PartUpload, wanted: dict[int, Part]) -> PartUpload:
        part = wanted.get(each.index)
        if part is None:
            raise not_trusted(f"it answers for part {each.index}, which was not asked for")
        if each.present:
            return PartUpload(index=each.index, present=True)
        url = self._grant(
            lambda: self.grants.put(
                each.url,
                each.headers,
                what=f"part {each.index}",
                size_bytes=part.size_bytes,
                sha256=part.sha256,
                valid_seconds=PART_SECONDS,
                round=round_number,
            )
        )
        return PartUpload(index=each.index, url=url, headers=each.headers)

    def _in_bounds(self, part: Part, training: Training) -> None:
        if part.stop <= part.start or part.size_bytes > 4 * (part.stop - part.start) + PART_HEADER:
            raise self._refused("WrongParts", f"part {part.index} has more bytes than its elements take")
        if 4 * part.stop > training.model_bytes:
            raise self._refused("WrongParts", f"part {part.index} ends after the model")

    def update(self, round_number: int, submission: UpdateSubmission, wait_seconds: float) -> UpdateReply:
        """Sign an update and hand it in; again while the hub checks it."""
        manifest = submission.manifest
        training = self._training(round_number, manifest.plan)
        name = digest(manifest)
        problem = self._problem(manifest, training)
        if problem is None and not self.memory.signs(round_number, name):
            problem = RefusalReason.ALREADY_SUBMITTED, "this institution has signed another update of the round"
        if problem is not None:
            self._record(Direction.OUT, "Update", "Refused", name, round_number, message=f"{problem[0]}: {problem[1]}")
            self.standing.refusal(problem[0].value)
            return UpdateReply(state="refused", reason=problem[0], message=f"the gate: {problem[1]}")
        envelope = self.client.sign(
            statements.Update(
                audience=self.client.hub.id,
                job=self.client.job,
                participant=self.client.participant,
                round=round_number,
                plan=manifest.plan,
                manifest=name,
                tokens=manifest.tokens,
            )
        )
        size = len(canonical_json(manifest))
        self._once("Update", "Signed", name, round_number, envelope=envelope, size=size)
        cut = reveal.of_submission(self.policy.reveal, submission)
        reply = self.client.update(round_number, BorderUpdate(submission=cut, envelope=envelope), wait_seconds)
        self.standing.heard()
        if reply.state != "checking":
            self._verdict(reply, name, manifest)
        return reply

    def _verdict(self, reply: UpdateReply, name: str, manifest: UpdateManifest) -> None:
        accepted = reply.state == "accepted"
        reason = reply.reason.value if reply.reason is not None else "Refused"
        message = "" if accepted else f"{reason}: {reply.message}"
        if self._once("Update", "Accepted" if accepted else "RefusedByHub", name, manifest.round, message=message):
            if accepted:
                self.standing.accepted += 1
                self.standing.tokens += manifest.tokens
                self.standing.last_round = manifest.round
            else:
                self.standing.refused += 1
                self.standing.refusal(reason)

    def _problem(self, manifest: UpdateManifest, training: Training) -> tuple[RefusalReason, str] | None:
        """Why this update must not be signed."""
        if manifest.participant != self.client.participant:
            return RefusalReason.WRONG_PARTICIPANT, f"the manifest is of {manifest.participant}"
        if manifest.job != self.client.job:
            return RefusalReason.WRONG_JOB, "the manifest is of another job"
        if manifest.round != training.round:
            return RefusalReason.WRONG_ROUND, f"the manifest is of round {manifest.round}"
        if manifest.tokens < self.policy.min_tokens_per_update:
            least = self.policy.min_tokens_per_update
            return (
                RefusalReason.WRONG_TOKENS,
                f"tokens is {manifest.tokens}: the policy's minTokensPerUpdate is {least}",
            )
        for part in manifest.parts:
            if (manifest.round, part.sha256, part.size_bytes) not in self.sent:
                return RefusalReason.MISSING_PART, f"part {part.index} was not seen to leave through the relay"
        return None

    def evaluation(self, round_number: int, said: Evaluation) -> None:
        """Sign the result of an evaluation and hand it in."""
        self._reached()
        due = (
            ("round", said.round, round_number),
            ("participant", said.participant, self.client.participant),
            ("job", said.job, self.client.job),
            ("commit", said.commit, self.memory.commit(round_number)),
        )
        for name, found, expected in due:
            if found != expected:
                raise self._refused("WrongEvaluation", f"{name} is {found}, not {expected}")
        cut = reveal.of_evaluation(said)
        name = digest(cut.result)
        envelope = self.client.sign(
            statements.Evaluation(
                audience=self.client.hub.id,
                job=self.client.job,
                participant=self.client.participant,
                round=round_number,
                commit=said.commit,
                result=name,
            )
        )
        self._once("Evaluation", "Signed", name, round_number, envelope=envelope, size=len(canonical_json(cut)))
        self.client.evaluation(BorderEvaluation(evaluation=cut, envelope=envelope))
        self.standing.heard()

    def commits(self) -> None:
        """Check what the hub signed of rounds since the last look. Raises Contradiction: it is no one history."""
        while found := self.client.commits(self.memory.checked):
            for said, envelope in found:
                if said.job != self.client.job:
                    raise not_trusted("it signs commits of another job as those of this one")
                own = said.keys.get(self.client.participant)
                if own is not None and not self._owned(own) and self.memory.update(said.round) is not None:
                    raise not_trusted(f"round {said.round} has an update of this institution with the key {own}")
                self.memory.follows(said)
                if self.witness is not None:
                    self.witness.follows(
                        said.audit_size, said.audit_head, f"the log of its door in the commit of round {said.round}"
                    )
                self.standing.last_commit, self.standing.committed = said.commit, said.round
                self._record(Direction.IN, "Commit", "Seen", said.commit, said.round, envelope=envelope)

    def _owned(self, key_id: str) -> bool:
        return self.client.owned(key_id) or key_id in self.memory.keys

    def _last_commits(self, said: statements.Task) -> None:
        """What the hub signed before the end, which it may not be there to show later."""
        try:
            self.commits()
        except (Declined, HubUnreachable) as error:
            log.warning("the last commits were not read: %s", error)
        self.standing.last_commit, self.standing.committed = said.base, said.round

    def _training(self, round_number: int, plan: str) -> Training:
        """The task under way. Raises Declined: it is not this round's, or not with this plan."""
        self._reached()
        training = self.memory.training
        if training is None or training.round != round_number or training.plan != plan:
            raise self._refused("UnknownRound", f"round {round_number} with this plan is not under way here", 404)
        return training

    def _refused(self, reason: str, message: str, status: int = 422) -> Declined:
        self.standing.refusal(reason)
        self._record(Direction.OUT, "Request", "Refused", reason, None, message=message)
        return Declined(status, "UnknownRound" if status == 404 else "InvalidRequest", f"the gate: {message}")

    def _once(
        self,
        kind: str,
        decision: str,
        name: str,
        round_number: int,
        *,
        envelope: str = "",
        message: str = "",
        size: int = 0,
    ) -> bool:
        """Record what leaves, the first time in the life of this process; whether it was."""
        with self._lock:
            mark = f"{kind} {decision} {name}"
            if mark in self._marks:
                return False
            if len(self._marks) > 64:
                self._marks.clear()
            self._record(
                Direction.OUT, kind, decision, name, round_number, envelope=envelope, message=message, size=size
            )
            self._marks.add(mark)
            if size:
                self.standing.crossed("out", kind.lower(), size)
            return True

    def _record(
        self,
        direction: Direction,
        kind: str,
        decision: str,
        name: str,
        round_number: int | None,
        *,
        envelope: str = "",
        message: str = "",
        size: int = 0,
    ) -> None:
        """Raises LedgerError: then nothing crosses."""
        sha256 = name if len(name) == 64 else None
        self.ledger.append(
            What(
                direction=direction,
                kind=kind,
                decision=decision,
                name="" if sha256 else name[:MAX_TEXT],
                round=round_number,
                bytes=size or None,
                sha256=sha256,
                envelope=envelope if 0 < len(envelope) <= MAX_ENVELOPE_KEPT else None,
                message=message[:MAX_TEXT],
            )
        )
