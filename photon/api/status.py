"""``status``: conditions, counters and the latest figures. History belongs to the bucket and to Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, ValidationError

from photon.api.base import ApiModel, LongText, Name, ShortText

# In a status, of each participant: a cluster holds it in one object of limited size.
MAX_SOURCES_SHOWN: Final = 16


class ConditionType(StrEnum):
    """What can be true of a job. In a cluster exactly one is; an aggregator, once it answers, is never pending."""

    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class JobReason(StrEnum):
    """Why a condition has its value."""

    WAITING_FOR_INIT = "WaitingForInit"
    STARTING = "Starting"
    TRAINING = "Training"
    MERGING = "Merging"
    EVALUATING = "Evaluating"
    WAITING_FOR_PARTICIPANTS = "WaitingForParticipants"
    WAITING_FOR_QUORUM = "WaitingForQuorum"
    STORAGE_UNREACHABLE = "StorageUnreachable"
    STORAGE_REFUSED = "StorageRefused"
    STORAGE_FULL = "StorageFull"
    ROUNDS_DONE = "RoundsDone"
    TOKENS_REACHED = "TokensReached"
    TARGET_PERPLEXITY_REACHED = "TargetPerplexityReached"
    PLATEAU_REACHED = "PlateauReached"
    WALL_CLOCK_REACHED = "WallClockReached"
    QUORUM_LOST = "QuorumLost"
    STORAGE_FAILED = "StorageFailed"
    MERGE_FAILED = "MergeFailed"
    DIVERGED = "Diverged"
    STORAGE_CORRUPT = "StorageCorrupt"
    INTERNAL_ERROR = "InternalError"
    SUPERSEDED = "Superseded"
    SUSPENDED = "Suspended"


class ClusterReason(StrEnum):
    """What a cluster says of a job or of one participant's pods, and why one of Photon's programs has ended.

    In the order of what time may heal to what a person must change.
    """

    STARTING = "Starting"
    QUEUED = "Queued"
    UNSCHEDULABLE = "Unschedulable"
    NODE_LOST = "NodeLost"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    SECRET_MISSING = "SecretMissing"
    POD_REFUSED = "PodRefused"
    INIT_CONTAINER_FAILED = "InitContainerFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    INTERRUPTED = "Interrupted"
    ACCESS_DENIED = "AccessDenied"
    BUCKET_MISSING = "BucketMissing"
    STORAGE_UNREACHABLE = "StorageUnreachable"
    STORAGE_FULL = "StorageFull"
    INVALID_CONFIGURATION = "InvalidConfiguration"
    PROGRAM_FAILED = "ProgramFailed"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    PREFIX_TAKEN = "PrefixTaken"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SUSPENDING = "Suspending"


class JoinReason(StrEnum):
    """Where an institution stands with a job of another one, and why its gate has ended."""

    ENROLLING = "Enrolling"
    AWAITING_APPROVAL = "AwaitingApproval"
    HUB_UNREACHABLE = "HubUnreachable"
    OUTSIDE_HOURS = "OutsideHours"
    POLICY_REFUSED = "PolicyRefused"
    HUB_NOT_TRUSTED = "HubNotTrusted"
    INVITATION_UNKNOWN = "InvitationUnknown"
    INVITATION_EXPIRED = "InvitationExpired"
    INVITATION_USED = "InvitationUsed"
    VERSION_SKEW = "VersionSkew"
    REVOKED = "Revoked"
    LEFT = "Left"


class ParticipantState(StrEnum):
    """What a participant is doing, as seen by the aggregator."""

    ABSENT = "Absent"
    IDLE = "Idle"
    PULLING = "Pulling"
    TRAINING = "Training"
    PUSHING = "Pushing"
    CHECKING = "Checking"
    SUBMITTED = "Submitted"
    EVALUATING = "Evaluating"
    REFUSED = "Refused"
    LATE = "Late"


class MemberState(StrEnum):
    """Where a participant that joins from elsewhere stands."""

    INVITED = "Invited"
    AWAITING_APPROVAL = "AwaitingApproval"
    ACTIVE = "Active"
    REVOKED = "Revoked"
    LEFT = "Left"


class Condition(ApiModel):
    """metav1.Condition."""

    type: ShortText
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$", max_length=8)]
    reason: ShortText
    message: Annotated[str, Field(max_length=1024)] = ""
    last_transition_time: ShortText
    observed_generation: Annotated[int, Field(ge=0)] = 0


class SourceStatus(ApiModel):
    """The last evaluated global model on the held-out text of one data folder of a participant."""

    name: Name
    perplexity: Annotated[float | None, Field(description="Perplexity of the text that was evaluated.")] = None
    coverage: Annotated[float | None, Field(description="Fraction of its held-out tokens that was evaluated.")] = None


class ParticipantStatus(ApiModel):
    """Latest figures of one participant."""

    name: Name
    state: ParticipantState = ParticipantState.ABSENT
    in_cohort: bool = False
    reason: Annotated[
        ShortText | None,
        Field(
            exclude_if=lambda value: value is None,
            description="Why it does not take part, as one word: of its pods, or why its update was refused.",
        ),
    ] = None
    message: Annotated[
        str, Field(max_length=1024, description="Why it was left out, or why its update was refused.")
    ] = ""
    last_round: Annotated[int | None, Field(description="Last round that merged its update.")] = None
    step: Annotated[int, Field(ge=0, description="Local step in the current round.")] = 0
    tokens: Annotated[int, Field(ge=0, description="Tokens in its accepted updates.")] = 0
    tokens_per_second: float | None = None
    learning_rate: float | None = None
    memory_bytes: int | None = None
    mfu: Annotated[
        float | None,
        Field(description="Model FLOP/s utilization of its devices, between 0 and 1. Null if the peak is unknown."),
    ] = None
    loss: Annotated[float | None, Field(description="Training loss, in nats per token.")] = None
    skipped_steps: Annotated[
        int,
        Field(
            ge=0,
            exclude_if=lambda value: value == 0,
            description="Steps of its latest round that were skipped because the loss or the gradient was not finite.",
        ),
    ] = 0
    perplexity: Annotated[
        float | None, Field(description="Perplexity of the last evaluated global model on its held-out text.")
    ] = None
    coverage: Annotated[
        float | None, Field(description="Fraction of its held-out tokens that was evaluated. Null if unknown.")
    ] = None
    sources: Annotated[
        list[SourceStatus],
        Field(
            max_length=MAX_SOURCES_SHOWN,
            description="Results per data folder, for a participant with several. At most the first ones.",
        ),
    ] = []
    last_seen_seconds: Annotated[float | None, Field(description="Seconds since its last heartbeat.")] = None
    access: Annotated[
        MemberState | None,
        Field(
            exclude_if=lambda value: value is None,
            description="Of a participant that joins from elsewhere: where it stands.",
        ),
    ] = None
    key: Annotated[
        ShortText | None,
        Field(exclude_if=lambda value: value is None, description="Fingerprint of its public key."),
    ] = None
    bytes_up: Annotated[int, Field(ge=0)] = 0
    bytes_down: Annotated[int, Field(ge=0)] = 0


class JobStatus(ApiModel):
    """The state of a job, the same in the CRD, at /v1/status and in the terminal."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    round: Annotated[int, Field(ge=0, description="The current round. Rounds are numbered from 1.")] = 0
    committed_rounds: Annotated[int, Field(ge=0)] = 0
    rounds: Annotated[int, Field(ge=0)] = 0
    participants: Annotated[list[ParticipantStatus], Field(max_length=1024)] = []
    participants_present: Annotated[
        int,
        Field(
            ge=0,
            default_factory=lambda data: sum(p.state is not ParticipantState.ABSENT for p in data["participants"]),
            description="Number of participants currently connected.",
        ),
    ]
    tokens: Annotated[int, Field(ge=0, description="Tokens in accepted updates of all rounds.")] = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_perplexity: float | None = None
    evaluated_round: int | None = None
    evaluated_participants: Annotated[
        int | None, Field(description="Participants whose results are in validationPerplexity.")
    ] = None
    coverage: Annotated[
        float | None, Field(description="Fraction of these participants' held-out tokens that was evaluated.")
    ] = None
    baseline_perplexity: Annotated[
        float | None, Field(description="Perplexity of the checkpoint that the job started from, before any training.")
    ] = None
    bytes_up: Annotated[int, Field(ge=0)] = 0
    bytes_down: Annotated[int, Field(ge=0)] = 0
    eta_seconds: float | None = None
    checkpoint: Annotated[LongText | None, Field(description="s3:// URI of the latest global model.")] = None
    last_commit: Annotated[ShortText | None, Field(description="sha256 of the latest commit record.")] = None
    start_time: Annotated[
        ShortText | None,
        Field(
            exclude_if=lambda value: value is None,
            description="When the job was made, resumed, admitted by its queue, retried or extended, whichever came "
            "last. activeDeadlineSeconds counts from here. In a cluster only.",
        ),
    ] = None
    observed_retry: Annotated[
        ShortText | None,
        Field(
            exclude_if=lambda value: value is None,
            description="The value of the annotation photon.dev/retry that was acted on. In a cluster only.",
        ),
    ] = None
    document_digest: Annotated[
        ShortText | None,
        Field(
            description="sha256 of the spec fields that affect training, at the time of this status. In a cluster only."
        ),
    ] = None


def read_status(value: object) -> JobStatus:
    """A status that another release may have written, as JSON data: without the fields that this one does not know, and
    without participants where something of them is not understood. How the job stands is not lost for a figure.

    Raises:
        ValidationError: It is something else.
    """
    try:
        return JobStatus.model_validate(value, extra="ignore")
    except ValidationError:
        if not isinstance(value, Mapping) or "participants" not in value:
            raise
        rest = {name: entry for name, entry in value.items() if name != "participants"}
        return JobStatus.model_validate(rest, extra="ignore")
