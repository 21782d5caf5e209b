"""The state of a job between two events: frozen data, and what can be read off it without deciding anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from photon.api.job import FederatedTrainingJob
from photon.api.participation import SampleFrom, StopSpec, WhenQuorumLost
from photon.api.placement import RetentionSpec
from photon.api.status import JobReason, MemberState
from photon.protocol.messages import RefusalReason
from photon.protocol.records import HeldOutResult, Plan
from photon.protocol.views import Stage
from photon_aggregator.rounds.events import Admission, Head, Outcome
from photon_aggregator.rounds.losses import PastLosses

# A worker posts its progress each second, and asks for work at least twice in this time; a longer silence means that
# it is gone, for now. People are promised to see it within 15 s.
ABSENT_SECONDS: Final = 12.0
# How often the bucket is read for what another aggregator wrote. Nothing waits for it when there is only one.
SCAN_SECONDS: Final = 5.0
SHORTEST_SCAN_SECONDS: Final = 0.5

# A check reads a whole update. A worker that was refused may do better after a restart; one that is refused more often
# in one round is broken, or means to keep the store busy.
CHECKS_A_ROUND: Final = 16


# Evaluated rounds whose results are kept one by one, beyond those that a plateau asks for: some come late.
EVALUATIONS_KEPT: Final = 8


class CheckState(StrEnum):
    """Where the check of an update stands."""

    CHECKING = "Checking"
    ACCEPTED = "Accepted"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRound:
    """A round of another job that is run again: who was no member, or absent, and the updates that it took
    (digests by name)."""

    not_members: frozenset[str]
    absent: frozenset[str] = frozenset()
    updates: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """What the machine must know of the job. ``participants`` is sorted; times are in seconds.

    ``job`` is the digest of job.json, which is known once the bucket was read. ``baseline``: round 0 is a checkpoint,
    which is evaluated too. ``remote``: who must be a member to take part (with a door). ``replayed``: rounds of another
    job whose membership this one repeats.
    """

    job: str = ""
    seed: int
    participants: tuple[str, ...]
    cohort_size: int
    quorum: int
    rounds: int
    local_steps: int
    deadline_seconds: float
    grace_seconds: float | None
    stop: StopSpec
    evaluate_every: int
    suspend: bool = False
    retention: RetentionSpec = field(default_factory=RetentionSpec)
    when_quorum_lost: WhenQuorumLost = WhenQuorumLost.WAIT
    sample: SampleFrom = SampleFrom.ALL
    baseline: bool = False
    absent_seconds: float = ABSENT_SECONDS
    remote: frozenset[str] = frozenset()
    min_participants: int = 1
    replayed: Mapping[int, PastRound] = field(default_factory=dict)
    scan_seconds: float = SCAN_SECONDS

    @classmethod
    def of(cls, job: FederatedTrainingJob) -> RoundSettings:
        """The settings of a job file."""
        spec = job.spec
        return cls(
            seed=spec.model.seed,
            participants=tuple(sorted(p.name for p in spec.participants)),
            cohort_size=spec.cohort_size,
            quorum=spec.quorum,
            rounds=spec.rounds,
            local_steps=spec.local.steps,
            deadline_seconds=spec.participation.round_deadline_seconds,
            grace_seconds=spec.participation.grace_seconds,
            stop=spec.stop,
            # A stop rule that looks at evaluations needs them, whatever everyRounds says.
            evaluate_every=spec.evaluation.every_rounds or int(spec.stop.looks_at_evaluations),
            suspend=spec.suspend,
            retention=spec.storage.retention,
            when_quorum_lost=spec.participation.when_quorum_lost,
            sample=spec.participation.sample,
            baseline=spec.model.init_from is not None,
            min_participants=spec.participation.min_participants or len(spec.participants),
        )

    @property
    def evaluations_kept(self) -> int:
        """Evaluated rounds whose results the stop rules may ask for one by one."""
        return EVALUATIONS_KEPT + (self.stop.plateau.evaluations if self.stop.plateau is not None else 0)

    @property
    def waits_for_evaluations(self) -> bool:
        """Whether an evaluation may end the job, so that the next plan must wait for it."""
        return self.stop.looks_at_evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The latest update of a participant in the open round.

    ``at``: when it was handed in. ``refusal_seen``: it has read the refusal. ``checks``: of updates of this participant
    in this round, this one's too.
    """

    at: float = 0.0
    digest: str
    check: CheckState
    admission: Admission | None = None
    reason: RefusalReason | None = None
    message: str = ""
    refusal_seen: bool = False
    checks: int = 1

    @property
    def final(self) -> bool:
        """Whether it was refused, and no other update of this participant is checked in this round."""
        return self.check is CheckState.REFUSED and self.checks >= CHECKS_A_ROUND


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """The round under way, open since ``opened_at``.

    ``counts_from``: when its deadline starts to count, if that is later: a worker that still evaluates cannot train.

    ``closing``: the updates that it takes (digests by participant), when that is decided already. ``overdue``: its
    deadline was over before it had its quorum, and that was said. ``scanned``: whether it is known what the bucket held
    when this aggregator opened it; until then no one is told that an update counts.
    """

    plan: Plan
    plan_digest: str
    opened_at: float
    counts_from: float | None = None
    quorum_at: float | None = None
    closing: Mapping[str, str] | None = None
    overdue: bool = False
    scanned: bool = True
    submissions: Mapping[str, Submission] = field(default_factory=dict)

    @property
    def round(self) -> int:
        return self.plan.round

    @property
    def admissions(self) -> tuple[Admission, ...]:
        """All that was admitted, sorted by participant: the order of merging."""
        found = (self.submissions[name].admission for name in sorted(self.submissions))
        return tuple(admission for admission in found if admission is not None)

    def under_check(self, by: float = math.inf) -> bool:
        """Whether the check of an update is under way that was handed in by then."""
        return any(one.check is CheckState.CHECKING and one.at <= by for one in self.submissions.values())

    def takes(self, participant: str) -> bool:
        """Whether an update of ``participant`` can still count."""
        return participant in self.plan.cohort and (self.closing is None or participant in self.closing)

    @property
    def missing(self) -> list[str]:
        """Who of the cohort has no admitted update."""
        have = {admission.participant for admission in self.admissions}
        return [name for name in self.plan.cohort if name not in have]


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """Work waits for the object store, since when and why."""

    since: float
    reason: JobReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """All that the machine knows. ``evaluations``: results of the last evaluated rounds by participant, and
    ``past_losses`` what is left of those before; ``baseline``: results of round 0; ``declined``: who says that it is
    done with evaluating the head although no result came. ``away``: what the store does not do for us now.
    ``lacks_model``: the bucket does not hold the first model yet.
    ``members``: where participants from elsewhere stand, ``lacks_members``: the next plan waits for more of them,
    ``unheard``: who became a member since the start, and has no worker yet that was heard.
    ``trail``: the commits up to the head (rollback.py). ``first_planned_at`` and ``written_at`` (of the head) are by
    the store's clock, all other times by ours."""

    settings: RoundSettings
    started_at: float
    stage: Stage = Stage.INIT
    head: Head | None = None
    trail: tuple[Head, ...] = ()
    open: OpenRound | None = None
    first_planned_at: float | None = None
    written_at: float | None = None
    seen: Mapping[str, float] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    evaluations: Mapping[int, Mapping[str, HeldOutResult]] = field(default_factory=dict)
    past_losses: PastLosses = field(default_factory=PastLosses)
    baseline: Mapping[str, HeldOutResult] = field(default_factory=dict)
    declined: frozenset[str] = frozenset()
    evaluate_until: float = 0.0
    away: Away | None = None
    members: Mapping[str, MemberState] = field(default_factory=dict)
    member_keys: Mapping[str, str] = field(default_factory=dict)
    lacks_model: bool = False
    lacks_members: bool = False
    unheard: frozenset[str] = frozenset()
    ending: Outcome | None = None
    outcome: Outcome | None = None
    scanning: bool = False
    scanned_at: float = 0.0
    next_scan_at: float = 0.0

    def last_heartbeat(self, participant: str) -> float:
        """When a participant spoke last; a restart of the aggregator counts as a word of everyone."""
        return max(self.seen.get(participant, self.started_at), self.started_at)

    def present(self, participant: str, at: float) -> bool:
        return at - self.last_heartbeat(participant) < self.settings.absent_seconds

    @property
    def superseded(self) -> bool:
        """Whether this aggregator has left the job to another one: it has not ended for anybody else."""
        return self.outcome is not None and self.outcome.reason is JobReason.SUPERSEDED

    def anybody_present(self, at: float) -> bool:
        return any(self.present(name, at) for name in self.settings.participants)

    @property
    def read(self) -> bool:
        """Whether it is known where the job stands: before, all figures would be those of a job that has not begun."""
        return self.head is not None or self.lacks_model or self.outcome is not None

    @property
    def members_known(self) -> bool:
        """Whether it was read since the start who is a member."""
        return bool(self.members) or not self.settings.remote

    def eligible(self, participant: str) -> bool:
        """Whether a participant of the job may take part now; of anyone until that is known, for it may be so."""
        if participant not in self.settings.remote or not self.members_known:
            return True
        return self.members.get(participant) is MemberState.ACTIVE

    def able(self, plan: Plan) -> list[str]:
        """Who of the cohort has an update that counts, or may still have one: not who was revoked, or has left."""
        same = self.open is not None and self.open.plan == plan
        have = {one.participant for one in self.open.admissions} if same and self.open is not None else set()
        return [name for name in plan.cohort if name in have or self.eligible(name)]

    def quorum_of(self, plan: Plan) -> int:
        """Fewest updates for this plan, which another aggregator may have written for fewer participants."""
        past = self.settings.replayed.get(plan.round)
        if past is not None:
            # It was a quorum then, whatever part of the cohort had gone.
            return max(1, len(past.updates))
        return max(1, min(self.settings.quorum, len(self.able(plan))))

    def deadline(self, open_round: OpenRound) -> float:
        counts_from = open_round.counts_from if open_round.counts_from is not None else open_round.opened_at
        return counts_from + self.settings.deadline_seconds
