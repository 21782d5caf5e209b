"""What an aggregator shows of a job: entries of the event log, and the answers of /v1/live, /v1/history and /v1/curves.

Readers take what they need, with ``extra="ignore"``: an answer or a file may be of an earlier or a later release.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from photon.api.base import ApiModel, Name
from photon.api.status import Condition, JobStatus
from photon.protocol.messages import ErrorReply
from photon.protocol.ranges import Count, Finite
from photon.protocol.records import Commit, Evaluation, Phase, RoundLog, Sha256

Cell = float | int | str | None


class EventKind(StrEnum):
    """What is worth telling people; the word in the event log."""

    ROUND_PLANNED = "RoundPlanned"
    UPDATE_ACCEPTED = "UpdateAccepted"
    UPDATE_REFUSED = "UpdateRefused"
    QUORUM_REACHED = "QuorumReached"
    ROUND_CLOSED = "RoundClosed"
    ROUND_COMMITTED = "RoundCommitted"
    ROLLED_BACK = "RolledBack"
    EVALUATED = "Evaluated"
    WAITING_FOR_QUORUM = "WaitingForQuorum"
    STORAGE_AWAY = "StorageAway"
    STORAGE_BACK = "StorageBack"
    PARTICIPANT_ABSENT = "ParticipantAbsent"
    PARTICIPANT_JOINED = "ParticipantJoined"
    WAITING_FOR_PARTICIPANTS = "WaitingForParticipants"
    ACCESS_CHANGED = "AccessChanged"
    JOB_ENDED = "JobEnded"


# What happens in every round is in the curves; lists of events are for the rest.
ROUTINE: Final = (
    EventKind.ROUND_PLANNED,
    EventKind.UPDATE_ACCEPTED,
    EventKind.QUORUM_REACHED,
    EventKind.ROUND_CLOSED,
    EventKind.EVALUATED,
)


class EventLine(ApiModel):
    """An entry of the event log as any release may have written it: a later one has kinds that this one does not
    know, and more fields, which are left out."""

    model_config = ConfigDict(extra="ignore")

    sequence: Count = 0
    at: Annotated[str, Field(max_length=40, description="ISO 8601, UTC, the aggregator's clock.")] = ""
    kind: Annotated[str, Field(min_length=1)]
    round: Count
    participant: str | None = None
    reason: str | None = None
    message: str | None = None


class EventRecord(EventLine):
    """An entry of the event log. ``sequence`` counts from 1 since the aggregator started."""

    model_config = ConfigDict(extra="forbid")

    sequence: Count
    at: Annotated[str, Field(max_length=40, description="ISO 8601, UTC, the aggregator's clock.")]
    kind: EventKind
    reason: str = ""
    message: str = ""


class Stage(StrEnum):
    """What the job is waiting for."""

    INIT = "Init"  # the first commit
    PLAN = "Plan"  # the next plan to be in the bucket
    TRAIN = "Train"  # updates
    MERGE = "Merge"  # the merge and the commit
    EVALUATE = "Evaluate"  # evaluations, before it is known how to go on, or before the end
    DONE = "Done"


class RunningRound(ApiModel):
    """The open round. Times in seconds since 1970, by the aggregator's clock."""

    round: Count
    opened_at: Finite
    deadline_at: Finite
    cohort: Count
    quorum: Count
    accepted: Count
    plan: Sha256


class StatusNotRead(ErrorReply):
    """The answer of /v1/status and /v1/live (503) until the bucket was read: no figures, which would be those of a job
    that has not begun, but what the job waits for."""

    conditions: Annotated[list[Condition], Field(max_length=16)]


class LiveStatus(ApiModel):
    """What a terminal reads of /v1/live, of an aggregator of any release."""

    model_config = ConfigDict(extra="ignore")

    job: Name
    status: Annotated[JobStatus, Field(description="The object of /v1/status.")]
    local_steps: Annotated[Count, Field(description="Local steps of a round.")]


class Live(LiveStatus):
    """One look at a job. ``instance`` is another after a restart: sequence numbers of events then start again."""

    model_config = ConfigDict(extra="forbid")

    instance: Annotated[str, Field(description="Random; of this process of the aggregator.")]
    at: Annotated[str, Field(description="Now, by the aggregator's clock; ISO 8601, UTC.")]
    now: Annotated[Finite, Field(description="The same in seconds since 1970.")]
    stage: Stage
    round_tokens: Annotated[Count, Field(description="Tokens that a participant trains in a round.")]
    running: RunningRound | None
    seconds_per_round: Annotated[Finite | None, Field(description="Mean of the last rounds.")]
    phases: Annotated[
        dict[Name, dict[Phase, Finite]], Field(description="Seconds by phase since the last commit, by participant.")
    ]
    own_phases: Annotated[dict[Phase, Finite], Field(description="Those of the aggregator's own work.")]
    curves: Annotated[str, Field(description="Revision of /v1/curves: ask again when it is another.")]
    last_event: Annotated[Count, Field(description="Largest sequence number in /v1/events.")]
    routine: Annotated[
        list[EventKind], Field(description="Kinds of events that happen in every round; a page may leave them out.")
    ]


class HistoryEntry(ApiModel):
    """A committed round with all that was measured of it."""

    digest: Sha256
    commit: Commit
    log: RoundLog | None
    evaluations: list[Evaluation]


class Curves(ApiModel):
    """Rounds ``first`` to ``last`` (none when last < first); every column has one entry a round, null where it has no
    such figure. ``instance`` and ``revision`` are those of /v1/live."""

    instance: str
    revision: str
    first: int
    last: int
    columns: Annotated[
        dict[str, list[Cell]],
        Field(
            description="tokens, at (seconds since 1970), trainLoss, trainLossLow, trainLossHigh (least and most of "
            "the participants), validationLoss, perplexity, perplexityLow, perplexityHigh, norms, consensus, "
            "pairwiseCosine, noiseScale, updates, bytesUp, bytesDown, digest (the first digits of the commit's), and "
            "seconds by phase."
        ),
    ]
    participants: Annotated[
        dict[Name, dict[str, list[Cell]]],
        Field(description="Of those asked for: trainLoss, perplexity, norm, cosine, weight."),
    ]
