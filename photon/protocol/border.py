"""The conversation of a gate with the hub's door ("border" 1 and 2): JSON over HTTPS, outbound from the institution.

Paths are below the door's base, ``https://HOST/.../jobs/NAMESPACE/NAME``. An envelope is a signed statement
(photon.trust), sent as text so that its bytes stay as they were signed.

    GET  v1/hello?nonce=32hex&seen=N                  -> HelloReply       (no authentication; signed by the hub)
    POST v1/enrolment            EnrolmentRequest     -> MembershipReply  (token, and the site's signature)
    POST v1/session              SessionRequest       -> SessionReply     (the site's signature over a challenge)
    GET  v1/job                                       -> JobForWorkers
    GET  v1/task?wait_seconds=30&done=ID              -> BorderTask, or 204
    GET  v1/participant                               -> ParticipantView
    POST v1/progress             Progress             -> ProgressReply
    POST v1/rounds/{round}/parts PartsRequest         -> PartsReply
    POST v1/rounds/{round}/update BorderUpdate        -> UpdateReply
    POST v1/rounds/{round}/evaluation BorderEvaluation -> 204
    GET  v1/commits?after=N                           -> CommitsReply     (of rounds after N, at most 200)
    GET  v1/log?after=N                               -> LogReply         (digests of entries after N, at most 4096)
    POST v1/cosign               CosignRequest        -> 204
    POST v1/leave                LeaveRequest         -> MembershipReply
    POST v1/keys                 RotateRequest        -> MembershipReply
    POST v1/state                StateReport          -> 204

All but the first three carry ``Authorization: Bearer SESSION``. Requests carry ``Photon-Protocol`` and
``Photon-Version``. Errors are ``{"error": {"reason": BorderReason or ErrorReason, "message": one sentence}}``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from photon.api.base import ApiModel, Name
from photon.api.job import FederatedTrainingJob
from photon.api.status import JobReason
from photon.protocol.messages import Task, UpdateSubmission
from photon.protocol.ranges import Count, Seconds
from photon.protocol.records import Evaluation

# The newest that this release speaks, and all: gates and hubs of the release before go on. With 2, tasks and commits
# are signed as Task2 and Commit2: the end of a job says whether it failed, and no commit names other institutions.
PROTOCOL: Final = 2
PROTOCOLS: Final = (1, 2)
PROTOCOL_HEADER: Final = "Photon-Protocol"
VERSION_HEADER: Final = "Photon-Version"
SESSION_SECONDS: Final = 900
CHALLENGE_SECONDS: Final = 60
MAX_COMMITS: Final = 200
MAX_DIGESTS: Final = 4096
DEFAULT_NAMESPACE: Final = "default"
# A statement names digests, never contents: the longest lists the keys of all participants.
MAX_ENVELOPE: Final = 128 * 1024

EnvelopeText = Annotated[str, Field(min_length=1, max_length=MAX_ENVELOPE, description="A signed statement, as it is.")]
PublicKeyText = Annotated[str, Field(min_length=51, max_length=51, pattern=r"^ed25519:[A-Za-z0-9_-]{43}$")]
Token = Annotated[str, Field(pattern=r"^phi_[a-z2-7]{8}\.[A-Za-z0-9_-]{43}$")]


def job_name(job: FederatedTrainingJob) -> str:
    """``NAMESPACE/NAME``, as statements and the door's address name a job."""
    return f"{job.metadata.namespace or DEFAULT_NAMESPACE}/{job.metadata.name}"


class BorderReason(StrEnum):
    """Why the door refused a request; for everything else it uses ErrorReason."""

    INVITATION_UNKNOWN = "InvitationUnknown"
    INVITATION_EXPIRED = "InvitationExpired"
    INVITATION_USED = "InvitationUsed"
    AWAITING_APPROVAL = "AwaitingApproval"
    REVOKED = "Revoked"
    LEFT = "Left"
    NOT_ENROLLED = "NotEnrolled"
    BAD_SIGNATURE = "BadSignature"
    UNSIGNED = "Unsigned"
    SESSION_EXPIRED = "SessionExpired"
    SESSION_SUPERSEDED = "SessionSuperseded"
    VERSION_SKEW = "VersionSkew"


class BorderErrorDetail(ApiModel):
    """``reason``: a BorderReason, or an ErrorReason of the worker protocol."""

    reason: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]{0,63}$")]
    message: Annotated[str, Field(max_length=2048)]


class BorderError(ApiModel):
    """The body of every failed request."""

    error: BorderErrorDetail


class HelloReply(ApiModel):
    """``envelope``: Hello. ``public_key``: the hub's; it must be the pinned one, or its signature proves nothing."""

    public_key: PublicKeyText
    envelope: EnvelopeText


class EnrolmentRequest(ApiModel):
    """``envelope``: Enrolment. The key is beside it because the payload cannot be read without it. ``token`` is absent
    where the hub knows the key already."""

    public_key: PublicKeyText
    envelope: EnvelopeText
    token: Token | None = None


class MembershipReply(ApiModel):
    """``envelope``: Membership, signed by the hub."""

    envelope: EnvelopeText


class SessionRequest(ApiModel):
    """``envelope``: Session. ``participant`` says with which key to read it."""

    participant: Name
    envelope: EnvelopeText


class SessionReply(ApiModel):
    """``session``: the bearer token of the requests that follow, valid for ``valid_seconds``; newest wins."""

    session: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
    valid_seconds: Annotated[int, Field(ge=1, le=86_400)]


class BorderTask(ApiModel):
    """``envelope``: Task2, signed by the hub, of the same task; in a session of protocol 1, Task."""

    task: Task
    envelope: EnvelopeText


class BorderUpdate(ApiModel):
    """``envelope``: Update. Its digest is that of the canonical JSON of the manifest."""

    submission: UpdateSubmission
    envelope: EnvelopeText


class BorderEvaluation(ApiModel):
    """``envelope``: Evaluation. Its digest is that of the canonical JSON of ``evaluation.result``."""

    evaluation: Evaluation
    envelope: EnvelopeText


class CommitsReply(ApiModel):
    """``envelopes``: Commit2, signed by the hub, in the order of rounds; in a session of protocol 1, Commit with no
    other key than the asking institution's."""

    envelopes: Annotated[list[EnvelopeText], Field(max_length=MAX_COMMITS)]


class LogReply(ApiModel):
    """``digests``: of entries of the door's log, in their order; fewer than there are, to be asked for again."""

    digests: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(max_length=MAX_DIGESTS)]


class CosignRequest(ApiModel):
    """``envelope``: Cosign, of the head that hello showed."""

    envelope: EnvelopeText


class LeaveRequest(ApiModel):
    """``envelope``: Leave."""

    envelope: EnvelopeText


class RotateRequest(ApiModel):
    """``envelope``: Rotate, signed by the old key and by ``new_key``."""

    new_key: PublicKeyText
    envelope: EnvelopeText


class SiteState(StrEnum):
    """What the institution does at present."""

    HERE = "Here"
    AWAY = "Away"
    DECLINED = "Declined"


class StateReport(ApiModel):
    """``reason``: a code; free text never leaves an institution."""

    state: SiteState
    reason: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]{0,63}$")] = "Unspecified"


class ParticipantView(ApiModel):
    """What a participant from elsewhere may know: of itself, and of the job without the names of others."""

    participant: Name
    round: Count
    rounds: Count
    participants: Annotated[Count, Field(description="How many are members now.")]
    state: Annotated[str, Field(max_length=64, description="State of the job: Running, Suspended, Complete, Failed.")]
    reason: JobReason | None = None
    perplexity: Annotated[float | None, Field(allow_inf_nan=False, description="Mean of the participants.")] = None
    round_deadline_seconds: Seconds | None = None
