"""What can happen to a job, and what can be asked for in answer: the vocabulary of the round's state machine.

Events are facts and carry the time at which they happened (seconds since the epoch); actions are wishes that the engine
turns into work. Both are plain frozen data, so a whole run can be replayed in a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from photon.api.participation import StopSpec
from photon.api.status import JobReason, MemberState
from photon.api.text import printable
from photon.protocol.messages import RefusalReason
from photon.protocol.records import Commit, End, HeldOutResult, Phase, Plan, UpdateManifest
from photon.protocol.views import EventKind
from photon_aggregator.rounds.losses import PastLosses


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last commit and its digest."""

    commit: Commit
    digest: str

    @property
    def round(self) -> int:
        return self.commit.round


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """An update that was found good. ``etags`` pin its parts, in order, for the merge; ``norm`` is the L2 norm."""

    participant: str
    manifest: UpdateManifest
    digest: str
    etags: tuple[str, ...]
    norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the job ended."""

    reason: JobReason
    message: str = ""
    failed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The bucket was read: the job's digest, the last commit, and whether the next round was planned already.

    ``trail``: the commits up to the head (see rollback.py). ``first_planned_at``, ``written_at``: LastModified of the
    first plan and of the last commit, both by the store's clock.
    """

    at: float
    job: str
    head: Head
    planned: bool
    first_planned_at: float | None = None
    written_at: float | None = None
    end: End | None = None
    evaluations: Mapping[int, Mapping[str, HeldOutResult]] = field(default_factory=dict)
    past_losses: PastLosses = field(default_factory=PastLosses)
    baseline: Mapping[str, HeldOutResult] = field(default_factory=dict)
    trail: tuple[Head, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoModel:
    """The bucket was looked into: it does not hold the first model yet."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReady:
    """The bucket holds this plan (ours, or that of another aggregator). ``planned_at``: its LastModified."""

    at: float
    plan: Plan
    digest: str
    planned_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A participant handed in a manifest."""

    at: float
    round: int
    participant: str
    manifest: UpdateManifest
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFound:
    """The bucket holds a manifest: it was admitted before a restart, or by another aggregator."""

    at: float
    round: int
    participant: str
    manifest: UpdateManifest
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The check of an update ended well, and its manifest is in the bucket."""

    at: float
    round: int
    admission: Admission


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRefused:
    """The check of an update ended badly."""

    at: float
    round: int
    participant: str
    digest: str
    reason: RefusalReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalSeen:
    """The participant has read the refusal: the same manifest, sent again, is a new attempt."""

    at: float
    round: int
    participant: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The bucket says which updates the round takes (digests by participant): decided earlier, or elsewhere.

    ``unreadable``: those of them that have no readable manifest; they will not be admitted, and the merge drops them.
    """

    at: float
    round: int
    updates: Mapping[str, str]
    unreadable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The bucket holds this commit. ``seconds``: what it took us, by phase. ``written_at``: its
    LastModified. ``foreign``: we came upon it, so another aggregator wrote it."""

    at: float
    commit: Commit
    digest: str
    seconds: Mapping[Phase, float] = field(default_factory=dict)
    written_at: float | None = None
    foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFinite:
    """The updates that the round takes, each good by itself, give no finite model."""

    at: float
    round: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A participant measured the model of a round; the result is in the bucket."""

    at: float
    round: int
    participant: str
    result: HeldOutResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A heartbeat. ``done``: id of the task that the participant has completed; ``task``: of the one under way."""

    at: float
    participant: str
    done: str | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Where the participants that join from elsewhere stand now: all of them. ``keys``: fingerprints, to show.
    ``before``: where they stood when this process began, so that a restart tells nothing twice."""

    at: float
    states: Mapping[str, MemberState]
    keys: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, MemberState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """Somebody speaks of a round that is not known here: another aggregator may have gone on."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """The scan of the bucket that was asked for is over; what it found came as events of its own."""

    at: float
    open_round: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The job cannot go on: the bucket contradicts itself, no model can be merged, or there is no first model."""

    at: float
    reason: JobReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The bucket says that evaluations ended the job with the head: decided here, or by another aggregator."""

    at: float
    record: End


@dataclass(frozen=True, slots=True, kw_only=True)
class Jumped:
    """The clock went on (or back) by ``seconds`` that have not passed: it was set, or this process did not run."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageAway:
    """Work had to wait for the object store: it is tried again until it succeeds."""

    at: float
    reason: JobReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageBack:
    """Nothing waits for the object store any more."""

    at: float


Event = (
    Recovered
    | NoModel
    | PlanReady
    | Submitted
    | ManifestFound
    | Admitted
    | UpdateRefused
    | RefusalSeen
    | Closed
    | Committed
    | NotFinite
    | Evaluated
    | Heartbeat
    | Members
    | Ahead
    | Scanned
    | Tick
    | Broken
    | Ended
    | Jumped
    | StorageAway
    | StorageBack
)


# --- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePlan:
    """Create the plan unless there is one; answer with PlanReady, or with Ended when it ends the job.

    ``stop``: the limits of the job; an end that was decided by others does not count.
    """

    plan: Plan
    stop: StopSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckUpdate:
    """Check an update against the plan; answer with Admitted or Refused."""

    plan: Plan
    plan_digest: str
    participant: str
    manifest: UpdateManifest
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """See what others wrote: closing, manifests and commit of ``open_round``, evaluations of ``evaluated_round``."""

    open_round: int | None
    evaluated_round: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Merge these updates (sorted by participant), or those that the bucket says this round takes, and commit it.

    With fewer than ``quorum`` usable updates (or than were decided earlier, if those are fewer) the round is given up:
    its commit is a rollback to ``base``.
    Answer with Committed.
    """

    plan: Plan
    plan_digest: str
    base: Head
    admissions: tuple[Admission, ...]
    quorum: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRollback:
    """Create this commit, a rollback, unless the round has one; answer with Committed."""

    commit: Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The job has ended."""

    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """An entry for the event log and the metrics."""

    at: float
    kind: EventKind
    round: int
    participant: str | None = None
    reason: str = ""
    message: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))


Action = WritePlan | WriteRollback | CheckUpdate | Scan | Merge | Finish | JobEvent
