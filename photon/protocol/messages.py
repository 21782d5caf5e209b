"""The conversation of a worker with the aggregator: JSON over HTTPS, outbound from the worker only.

    GET  /v1/job                            -> JobForWorkers
    GET  /v1/task?wait_seconds=30&done=ID&since=true&sources=true -> Task, or 204 when there is nothing to do yet
    POST /v1/progress            Progress   -> ProgressReply
    POST /v1/rounds/{round}/parts  PartsRequest -> PartsReply       (presigned PUTs; parts it already has are named)
    POST /v1/rounds/{round}/update UpdateSubmission -> UpdateReply  (repeat while state is "checking")
    POST /v1/rounds/{round}/evaluation Evaluation -> 204            (repeating changes nothing)

Each request carries ``Authorization: Bearer <token>``; the token says which participant speaks. Errors are
``{"error": {"reason": <ErrorReason>, "message": <one sentence>}}`` with the status code of the reason.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from photon.api.base import ApiModel, Name
from photon.api.learning import LearningJob
from photon.api.participation import EvaluationSpec
from photon.protocol.ranges import (
    Bytes,
    Count,
    LearningRateValue,
    Loss,
    Rate,
    Retries,
    Seconds,
    Step,
    TaskId,
    Utilization,
)
from photon.protocol.records import FileRecord, Part, Phase, Sha256, UpdateManifest

# A header of answers to GET /v1/task: what this aggregator takes beyond what the first release did.
ACCEPTS: Final = "Photon-Accepts"
# Of UpdateMetrics skipped_steps, balance_loss_mean and fresh_optimizer; of Progress skipped_steps.
TRAINING_NOTES: Final = "training-notes"


class RefusalReason(StrEnum):
    """Why an update was refused; the label of the metric and the word in status and events."""

    WRONG_PARTICIPANT = "WrongParticipant"
    NOT_IN_COHORT = "NotInCohort"
    WRONG_JOB = "WrongJob"
    WRONG_PLAN = "WrongPlan"
    WRONG_ROUND = "WrongRound"
    WRONG_CODEC = "WrongCodec"
    WRONG_SHAPE = "WrongShape"
    WRONG_SIZE = "WrongSize"
    WRONG_TOKENS = "WrongTokens"
    MISSING_PART = "MissingPart"
    DIGEST_MISMATCH = "DigestMismatch"
    NOT_FINITE = "NotFinite"
    NORM_TOO_LARGE = "NormTooLarge"
    INVALID_MANIFEST = "InvalidManifest"
    ALREADY_SUBMITTED = "AlreadySubmitted"
    TOO_LATE = "TooLate"


class ErrorReason(StrEnum):
    """Why a request failed as a whole."""

    UNAUTHENTICATED = "Unauthenticated"
    INVALID_REQUEST = "InvalidRequest"
    UNKNOWN_ROUND = "UnknownRound"
    TOO_MANY_REQUESTS = "TooManyRequests"
    NOT_READY = "NotReady"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    INTERNAL = "Internal"


class ErrorDetail(ApiModel):
    reason: ErrorReason
    message: Annotated[str, Field(max_length=2048)]


class ErrorReply(ApiModel):
    error: ErrorDetail


class JobForWorkers(ApiModel):
    """All that a worker needs to know of the job; its digest is that of ``learning``."""

    name: Name
    participant: Annotated[Name, Field(description="Who the token says you are.")]
    learning: LearningJob
    evaluation: EvaluationSpec


class ObjectGet(ApiModel):
    """A file to read: where (a presigned URL, valid for ``valid_seconds``) and what it must be."""

    file: FileRecord
    url: Annotated[str, Field(max_length=8192)]


class GlobalModel(ApiModel):
    """The model of a commit: its Hugging Face files (model.safetensors is the weights, fp32)."""

    round: Count
    commit: Sha256
    files: list[ObjectGet]
    valid_seconds: Count


class TrainTask(ApiModel):
    """Train ``local_steps`` from ``model`` and submit the update for the plan. id: train-00012.

    ``since``: round of the last rollback, if there was one. The inner optimizer's state after that round or an earlier
    one belongs to another history: begin with a fresh one. Sent only to workers that ask for it (``since=true``), for
    those of earlier releases take no field that they do not know.
    """

    kind: Literal["train"] = "train"
    id: Annotated[str, Field(max_length=64)]
    round: Count
    plan: Sha256
    model: GlobalModel
    first_step: Count
    local_steps: Count
    since: Annotated[Count | None, Field(exclude_if=lambda value: value is None)] = None


class EvaluateTask(ApiModel):
    """Measure ``model`` on the held-out text and post an Evaluation. id: evaluate-00012.

    ``by_source``: the result may say what was measured of each data folder, and of how much text. Sent only to workers
    that ask for it (``sources=true``), for those of earlier releases take no field that they do not know.
    """

    kind: Literal["evaluate"] = "evaluate"
    id: Annotated[str, Field(max_length=64)]
    round: Count
    model: GlobalModel
    by_source: Annotated[bool, Field(exclude_if=lambda value: not value)] = False


class FinishTask(ApiModel):
    """The job has ended: exit with success, or with failure if ``failed``. id: finish."""

    kind: Literal["finish"] = "finish"
    id: Annotated[str, Field(max_length=64)] = "finish"
    reason: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=1024)] = ""
    failed: bool = False


Task = Annotated[TrainTask | EvaluateTask | FinishTask, Field(discriminator="kind")]


class TaskReply(ApiModel):
    task: Task


class Progress(ApiModel):
    """What a worker is doing now; sent every second or two, also as a heartbeat."""

    task_id: TaskId
    phase: Phase
    step: Step = 0
    loss: Loss | None = None
    learning_rate: LearningRateValue | None = None
    tokens_per_second: Rate | None = None
    memory_bytes: Bytes | None = None
    mfu: Utilization | None = None
    skipped_steps: Annotated[
        Step, Field(exclude_if=lambda value: value == 0, description="As UpdateMetrics.skippedSteps, so far.")
    ] = 0
    bytes_up: Annotated[Bytes, Field(description="Of this task so far.")] = 0
    bytes_down: Bytes = 0
    seconds: Annotated[dict[Phase, Seconds], Field(description="Of this task so far, by phase.")] = {}
    retries: Annotated[
        dict[Phase, Retries], Field(description="Requests to the object store that were repeated, by phase.")
    ] = {}


class ProgressReply(ApiModel):
    """``cancel``: the round ended without this participant; drop the task and ask for the next."""

    cancel: bool = False


class PartsRequest(ApiModel):
    """Parts about to be sent (some of an update's, in any order): size and digest are bound into the URLs."""

    plan: Sha256
    parts: Annotated[list[Part], Field(min_length=1, max_length=256)]


class PartUpload(ApiModel):
    """Where to PUT a part. ``present``: the bucket holds exactly these bytes already; send nothing."""

    index: int
    present: bool = False
    url: Annotated[str, Field(max_length=8192)] = ""
    headers: dict[str, str] = {}


class PartsReply(ApiModel):
    uploads: list[PartUpload]


class UpdateSubmission(ApiModel):
    """The manifest, sent when all parts are up; ``progress`` closes the books on the task's times and bytes."""

    manifest: UpdateManifest
    progress: Progress | None = None


class UpdateReply(ApiModel):
    """checking: the values are being read, post again; the answer then comes within ``wait_seconds``."""

    state: Literal["checking", "accepted", "refused"]
    reason: RefusalReason | None = None
    message: Annotated[str, Field(max_length=1024)] = ""
