"""What is to be done for a job that has not ended: which children there must be now, and what may be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from photon.api.job import FederatedTrainingJob
from photon.api.status import ClusterReason, Condition, ConditionType, JobReason, JobStatus, ParticipantState
from photon_operator.children import names
from photon_operator.children.family import Family, as_large_as
from photon_operator.children.kinds import CLAIM, CONFIG_MAP, JOB, SECRET, SERVICE
from photon_operator.decide import conditions as statuses
from photon_operator.decide import diagnosis
from photon_operator.decide.diagnosis import Trouble
from photon_operator.decide.observed import Observed, Work, owner_uid, seconds, timestamp
from photon_operator.decide.plan import Adopt, Apply, Delete, Draft

# An aggregator that ended well but whose termination message is lost is started again after at least this long.
ASK_AGAIN_SECONDS: Final = 60.0
# A worker's failure may be the first sign of the job's own end, whose reason the aggregator tells a moment later.
LAST_WORDS_SECONDS: Final = 15.0
# What keeps children from being created is retried after this long.
HINDERED_SECONDS: Final = 60.0
# An aggregator that is ready but has not answered for this long is assumed to be working.
UNHEARD_SECONDS: Final = 30.0
MAKING_MODEL: Final = "making the initial model"
UNREAD: Final = "the aggregator is ready, but the operator cannot read its status"
Verdict = tuple[ConditionType, Trouble]


class Active:
    """One look at a job; ``decide`` fills the draft of the plan and says which condition holds."""

    def __init__(
        self, observed: Observed, job: FederatedTrainingJob, family: Family | None, before: JobStatus, draft: Draft
    ) -> None:
        self._observed = observed
        self._job = job
        self._made = family
        self._before = before
        self._draft = draft
        name = job.metadata.name
        self._init = observed.work(names.init(name))
        self._aggregator = observed.work(names.aggregator(name))
        self._workers = {
            p.name: observed.work(names.worker(name, p.name)) for p in job.spec.participants if p.worker is not None
        }
        self._remote = any(p.worker is None for p in job.spec.participants)
        self._said = self._last_said()
        self.troubles: dict[str, Trouble] = {}

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def _family(self) -> Family:
        assert self._made is not None, "a finished job makes no children"
        return self._made

    def _last_said(self) -> JobStatus | None:
        """What the aggregator of the current Job said last: its termination message takes precedence over an answer."""
        work = self._aggregator
        if work is None:
            return None
        for pod in reversed(work.pods):
            if pod.termination_message and (status := statuses.parse_last(pod.termination_message)) is not None:
                return status
            answer = self._observed.answer
            if answer is not None and answer.pod_uid == pod.uid:
                return answer.status
        return None

    @property
    def figures(self) -> JobStatus:
        """The latest figures; those that were written last, where no aggregator says any."""
        return self._said.model_copy(update={"participants": self._people}) if self._said else self._before

    @property
    def _people(self) -> list[Any]:
        """A termination message omits participants that do not fit: those keep their previous state."""
        assert self._said is not None
        return list(self._said.participants or self._before.participants)

    @property
    def aggregating(self) -> bool:
        """Whether an aggregator is at work, so that what it says of participants holds."""
        work = self._aggregator
        return work is not None and not work.deleting and not work.ended and work.running is not None

    @property
    def anything_runs(self) -> bool:
        return any(not work.ended for work in self._jobs())

    @property
    def _begun(self) -> bool:
        """Whether a worker or an aggregator was made."""
        return self._aggregator is not None or any(work is not None for work in self._workers.values())

    def _jobs(self) -> list[Work]:
        found = [self._init, self._aggregator, *self._workers.values()]
        return [work for work in found if work is not None]

    def _somebody_works(self) -> bool:
        """Whether a round could be brought to its end."""
        if any(work is not None and work.running is not None for work in self._workers.values()):
            return True
        said = self._said
        return said is not None and any(p.state is not ParticipantState.ABSENT for p in said.participants)

    # --- deciding -----------------------------------------------------------------------------------------------------

    def decide(self) -> Verdict:
        """The condition that holds, and why; the draft holds what is to be done."""
        ended = self._outcome()
        if ended is not None:
            if ended[0] is ConditionType.FAILED:
                self.stop_all()
            return ended
        self._troubles()
        lost = self._lost()
        if lost is not None:
            self.stop_all()
            return ConditionType.FAILED, lost
        self._files()
        if self._observed.child(SECRET, names.tokens(self._job.metadata.name)) is None and self._begun:
            # Its tokens may only be out of sight: nothing that depends on them is touched until they are seen again.
            return self._hindered() or self._verdict()
        if self._job.spec.suspend:
            return self._suspend()
        if not self._initialised():
            verdict = self._initialising()
            return self._hindered() or verdict
        if self._init is not None:
            self._adopt(self._init, self._family.init)
        self._run_workers()
        self._run_aggregator()
        return self._hindered() or self._verdict()

    def _hindered(self) -> Verdict | None:
        """What keeps children from being made at all; asked again from time to time, since it may be fixed."""
        taken, refused = self._observed.taken, self._observed.refused
        if not taken and not refused:
            return None
        # As long as they are not tried again, what is known of them stays.
        self._draft.again(HINDERED_SECONDS)
        kind = ConditionType.RUNNING if self.aggregating else ConditionType.PENDING
        if taken:
            name, text = next(iter(taken.items()))
            message = f"{name} is not this job's ({text}): remove it, or give the job another name"
            return kind, Trouble(reason=ClusterReason.NAME_TAKEN, message=message)
        name, text = next(iter(refused.items()))
        return kind, Trouble(reason=ClusterReason.POD_REFUSED, message=f"the API server refuses {name}: {text}")

    def _outcome(self) -> Verdict | None:
        """How the job ended, if it did: by the aggregator's word, or because one of its Jobs failed for good."""
        work = self._aggregator
        if work is not None and not work.deleting and self._current(work, self._family.aggregator):
            final = self._final()
            if final is not None:
                reason = diagnosis.reason_of(final.reason)
                return ConditionType(final.type), Trouble(reason=reason, message=final.message)
            again = self._got_further(work, self._before.committed_rounds) and not diagnosis.job_failed(work)
            if work.failed is not None and not again:
                return ConditionType.FAILED, self._trouble_of(work).of("the aggregator")
        init = self._init
        if work is None and init is not None and init.failed is not None and self._current(init, self._family.init):
            return ConditionType.FAILED, self._trouble_of(init).of(MAKING_MODEL)
        return self._overdue()

    def _final(self) -> Condition | None:
        return statuses.finished(self._said) if self._said is not None else None

    def _overdue(self) -> Verdict | None:
        limit = self._job.spec.active_deadline_seconds
        if limit is None or self._job.spec.suspend:
            return None
        resumed = statuses.since(self._before, ConditionType.SUSPENDED)
        made = seconds(self._observed.job["metadata"].get("creationTimestamp")) or self._observed.now
        held = next((c for c in self._before.conditions if c.type == ConditionType.SUSPENDED), None)
        begun = self._observed.now if held is not None and held.status == "True" else (seconds(resumed) or made)
        left = begun + limit - self._observed.now
        if left > 0:
            self._draft.again(left)
            return None
        message = f"spec.activeDeadlineSeconds ({limit} s) is over"
        return ConditionType.FAILED, Trouble(reason=ClusterReason.DEADLINE_EXCEEDED, message=message)

    def _lost(self) -> Trouble | None:
        """Whether too many workers failed for good for any round to have its quorum."""
        failed = {
            name: self.troubles[name]
            for name, work in self._workers.items()
            if work is not None
            and work.failed is not None
            and name in self.troubles
            and self._current(work, self._family.workers[name])
        }
        left = len(self._job.spec.participants) - len(failed)
        if not failed or left >= self._job.spec.quorum:
            return None
        last = max((self._workers[name].ended_at or 0.0) for name in failed)  # type: ignore[union-attr]
        wait = last + LAST_WORDS_SECONDS - self._observed.now
        if self.aggregating and wait > 0:
            self._draft.again(wait)
            return None
        name, why = next(iter(failed.items()))
        others = f"; also failed: {', '.join(n for n in failed if n != name)}" if len(failed) > 1 else ""
        message = f"{name}: {why.message}{others}; a quorum of {self._job.spec.quorum} cannot be reached"
        return Trouble(reason=why.reason, message=message)

    # --- the parts of a plan ------------------------------------------------------------------------------------------

    def _files(self) -> None:
        for body in (self._family.config_map, self._family.secret, self._family.service):
            self._keep(body)

    def _keep(self, body: Mapping[str, Any]) -> None:
        """Apply an object that may be changed in place, unless it is as it was last applied."""
        kind, name = body["kind"], body["metadata"]["name"]
        known = self._observed.child(kind, name)
        if known is None or not _as_applied(known, body):
            self._draft.apply.append(Apply(body=body, known=known is not None))

    def _initialised(self) -> bool:
        """Whether the first model is there: its Job says so, or what comes after it was made."""
        return self._aggregator is not None or (self._init is not None and self._init.complete)

    def _initialising(self) -> Verdict:
        self._place(self._init, self._family.init)
        found = self._found(self._init)
        if found is not None:
            return ConditionType.PENDING, found.of(MAKING_MODEL)
        return ConditionType.PENDING, Trouble(
            reason=JobReason.WAITING_FOR_INIT, message="the initial model is being made"
        )

    def _run_workers(self) -> None:
        """A Job for each participant that runs here; none for those that no longer take part."""
        for name, body in self._family.workers.items():
            if name in self._family.worker_services:
                self._keep(self._family.worker_services[name])
            work = self._workers[name]
            if name in self._family.claims and not self._claimed(name, self._family.claims[name]):
                continue
            if work is not None and not work.deleting and self._is_over(name, work):
                self._remove(work)
            else:
                self._place(work, body)
        self._remove_leavers()

    def _remove_leavers(self) -> None:
        kept = {
            *(body["metadata"]["name"] for body in self._family.workers.values()),
            *(body["metadata"]["name"] for body in self._family.worker_services.values()),
        }
        claims = {body["metadata"]["name"] for body in self._family.claims.values()}
        for kind in (JOB, SERVICE, CLAIM):
            for name, found in self._observed.children.get(kind, {}).items():
                role = (found["metadata"].get("labels") or {}).get(names.ROLE)
                gone = found["metadata"].get("deletionTimestamp")
                if role == "worker" and name not in (claims if kind == CLAIM else kept) and not gone:
                    self._draft.delete.append(Delete(kind=kind, name=name, uid=found["metadata"]["uid"]))

    def _claimed(self, participant: str, body: Mapping[str, Any]) -> bool:
        """Whether a worker may be made that mounts this claim: one that is being deleted is created again first."""
        known = self._observed.child(CLAIM, body["metadata"]["name"])
        if known is not None and known["metadata"].get("deletionTimestamp"):
            return False
        worker = next(p.worker for p in self._job.spec.participants if p.name == participant)
        if known is not None and worker is not None and worker.work_dir.size is None:
            body = as_large_as(known, body)
        self._keep(body)
        return True

    def _is_over(self, name: str, work: Work) -> bool:
        """Whether a worker's Job has ended although there is more to do: it is created again."""
        if work.failed is not None:
            person = next((p for p in self.figures.participants if p.name == name), None)
            return self._got_further(work, (person.last_round if person is not None else None) or 0)
        # A worker leaves when its aggregator tells it to; only a later aggregator has more for it to do.
        aggregator = self._aggregator
        if not work.complete or (aggregator is not None and (aggregator.ended or aggregator.deleting)):
            return False
        return aggregator is None or aggregator.created_at >= (work.ended_at or 0.0)

    def _run_aggregator(self) -> None:
        work = self._aggregator
        if work is None:
            if self._wanted():
                self._place(None, self._family.aggregator)
            return
        if work.deleting:
            return
        if work.failed is not None or self._ended_for_less():
            self._remove(work)
        else:
            self._place(work, self._family.aggregator)

    def _ended_for_less(self) -> bool:
        """An aggregator that ended well although the job goes on: suspended, or its termination message is lost."""
        work = self._aggregator
        if work is None or not work.complete:
            return False
        if self._said is not None and statuses.holding(self._said) is not None:
            return True
        wait = (work.ended_at or 0.0) + ASK_AGAIN_SECONDS - self._observed.now
        if wait > 0:
            self._draft.again(wait)
        return wait <= 0

    def _wanted(self) -> bool:
        """Whether there is somebody to aggregate for: a job in a queue must not use up its first round's deadline."""
        return self._remote or any(work is not None and work.running is not None for work in self._workers.values())

    def _suspend(self) -> Verdict:
        work = self._aggregator
        was = statuses.holding(self._before)
        running = work is not None or (was is not None and was.type == ConditionType.RUNNING)
        told = self._said is not None and (h := statuses.holding(self._said)) and h.type == ConditionType.SUSPENDED
        at_boundary = work is not None and told and self._current(work, self._family.aggregator)
        if running and not at_boundary and (self._somebody_works() or (work is not None and work.deleting)):
            if work is None or not work.ended:
                self._place(work, self._family.aggregator)
            elif not work.deleting:
                self._remove(work)
            message = f"suspends when round {self.figures.round} is committed"
            return ConditionType.RUNNING, Trouble(reason=ClusterReason.SUSPENDING, message=message)
        held = was is not None and was.type == ConditionType.SUSPENDED
        since = seconds(statuses.since(self._before, ConditionType.SUSPENDED)) if held else None
        leave_at = (since or self._observed.now) + 60.0
        if not at_boundary or self._observed.now >= leave_at:
            self.stop_all()
        elif self.anything_runs:
            self._draft.again(leave_at - self._observed.now)
        self.troubles.clear()
        message = f"suspended after round {self.figures.committed_rounds}"
        return ConditionType.SUSPENDED, Trouble(reason=JobReason.SUSPENDED, message=message)

    def stop_all(self) -> None:
        """Remove the Jobs that have not ended; those that have keep their pods' logs."""
        for work in self._jobs():
            if not work.ended and not work.deleting:
                self._remove(work)

    # --- what can be said ---------------------------------------------------------------------------------------------

    def _troubles(self) -> None:
        people = self._said.participants if self._said is not None and self.aggregating else ()
        heard = {person.name for person in people if person.state is not ParticipantState.ABSENT}
        for name, work in self._workers.items():
            found = self._found(work, heard=name in heard)
            if found is not None:
                self.troubles[name] = found

    def _found(self, work: Work | None, *, heard: bool = False) -> Trouble | None:
        if work is None:
            return None
        stuck = diagnosis.stuck(work, self._observed.now)
        self._draft.look += stuck
        if not stuck and not work.ended and work.running is None:
            self._draft.again(diagnosis.PATIENCE_SECONDS)
        return diagnosis.trouble(work, self._observed.notes, heard=heard)

    def _trouble_of(self, work: Work) -> Trouble:
        found = diagnosis.trouble(work, self._observed.notes)
        return found or Trouble(reason=ClusterReason.PROGRAM_FAILED, message="")

    def _verdict(self) -> Verdict:
        """Running once the aggregator answers; until then pending, with the worst that is known."""
        own = self._found(self._aggregator)
        if own is not None:
            own = own.of("the aggregator")
        said = (
            (statuses.holding(self._said) if self._said is not None else self._unheard()) if self.aggregating else None
        )
        if said is None or said.type not in (ConditionType.RUNNING, ConditionType.SUSPENDED):
            return ConditionType.PENDING, own or self._worst() or self._starting()
        reason = diagnosis.reason_of(said.reason)
        here = sum(p.state is not ParticipantState.ABSENT for p in self.figures.participants)
        worst = self._worst()
        if worst is not None and here < self._job.spec.quorum and worst.reason is not ClusterReason.QUEUED:
            return ConditionType.RUNNING, worst
        message = "; ".join(str(t.of(n)) for n, t in self._sorted_troubles()) or said.message
        return ConditionType.RUNNING, Trouble(reason=reason, message=message)

    def _unheard(self) -> Condition | None:
        """What holds while an aggregator's answer is not at hand: an operator that was just started has none yet, and
        one whose packets are kept from aggregators never gets any."""
        pod = self._aggregator.running if self._aggregator is not None else None
        if pod is None:
            return None
        ready = pod.condition("Ready")
        asked_since = max(seconds((ready or {}).get("lastTransitionTime")) or 0.0, self._observed.began)
        left = asked_since + UNHEARD_SECONDS - self._observed.now
        if ready is None or ready.get("status") != "True" or left > 0:
            if left > 0:
                self._draft.again(left)
            held = statuses.holding(self._before)
            if held is None or held.type != ConditionType.RUNNING:
                return None
            if pod.created_at > (seconds(held.last_transition_time) or 0.0):
                return None
            reason = held.reason if held.reason in statuses.AT_WORK else JobReason.TRAINING.value
            return held.model_copy(update={"reason": reason, "message": ""})
        return Condition(
            type=ConditionType.RUNNING.value,
            status="True",
            reason=JobReason.TRAINING.value,
            message=UNREAD,
            last_transition_time=timestamp(self._observed.now),
        )

    def _sorted_troubles(self) -> list[tuple[str, Trouble]]:
        """The worst first: the enumeration begins with what time may heal."""
        rank = {reason.value: number for number, reason in enumerate(ClusterReason)}
        return sorted(self.troubles.items(), key=lambda item: (-rank.get(item[1].reason.value, 0), item[0]))

    def _worst(self) -> Trouble | None:
        found = self._sorted_troubles()
        return replace(found[0][1].of(found[0][0]), participant=found[0][0]) if found else None

    def _starting(self) -> Trouble:
        work = self._aggregator
        if work is None:
            text = "waiting for the first worker to run"
        elif work.running is None:
            text = "the aggregator is being started"
        else:
            text = "waiting for the aggregator's first answer"
        return Trouble(reason=ClusterReason.STARTING, message=text)

    # --- single children ----------------------------------------------------------------------------------------------

    @staticmethod
    def _current(work: Work, body: Mapping[str, Any]) -> bool:
        """Whether a Job is the one that the job as it is now asks for."""
        return bool(work.spec_hash == body["metadata"]["annotations"][names.SPEC_HASH])

    def _got_further(self, work: Work, rounds: int) -> bool:
        """Whether rounds were committed since the Job was made: then its failures are counted afresh. A mistake is
        not tried again all the same."""
        return rounds > work.from_round and self._trouble_of(work).reason is not ClusterReason.INVALID_CONFIGURATION

    def _place(self, work: Work | None, body: Mapping[str, Any]) -> None:
        """See to it that this Job is there. A Job's pods cannot be edited: another one takes its place."""
        if work is None:
            self._draft.apply.append(Apply(body=body, known=False))
        elif not work.deleting and not self._current(work, body):
            self._remove(work)
        else:
            self._adopt(work, body)

    def _adopt(self, work: Work, body: Mapping[str, Any]) -> None:
        """Make a Job that lost its owner ours again."""
        if not work.deleting and owner_uid(work.job) != self._observed.job["metadata"]["uid"]:
            metadata = {key: body["metadata"][key] for key in ("labels", "ownerReferences")}
            self._draft.adopt.append(Adopt(kind=JOB, name=work.name, metadata=metadata))

    def _remove(self, work: Work) -> None:
        self._draft.delete.append(Delete(kind=JOB, name=work.name, uid=work.uid))


def _as_applied(known: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether an object is as we applied it: by its hash, its owner, and what others might have changed of it."""
    metadata = known["metadata"]
    if (metadata.get("annotations") or {}).get(names.APPLIED_HASH) != body["metadata"]["annotations"][
        names.APPLIED_HASH
    ]:
        return False
    if owner_uid(known) != owner_uid(body):
        return False
    labels = metadata.get("labels") or {}
    if any(labels.get(key) != value for key, value in body["metadata"]["labels"].items()):
        return False
    if body["kind"] == CLAIM:  # the API server makes its specification immutable
        return True
    if body["kind"] in (CONFIG_MAP, SECRET):
        return bool(known.get("data") == body["data"])
    return bool((known.get("spec") or {}).get("selector") == body["spec"]["selector"])
