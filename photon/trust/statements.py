"""What is signed: one model a kind. The kind is in the envelope's signed type, so no statement passes for another.

``audience`` is the key id of the hub that a site speaks to: a statement for one hub means nothing at another. Strict:
a statement with a field of a later release is refused by name, for what was signed must be understood whole.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from photon.api.base import ApiModel, Name
from photon.api.job import MAX_PARTICIPANTS
from photon.api.join import PublicKey
from photon.api.status import MemberState
from photon.protocol.canonical import canonical_json
from photon.protocol.ranges import Bytes, Count, RoundNumber, Step, Tokens
from photon.protocol.records import Sha256
from photon.trust.envelope import KEY_ID, seal, unseal
from photon.trust.errors import BadStatement
from photon.trust.keys import Identity, Key

MAX_FILES: Final = 16

KeyId = Annotated[str, Field(pattern=KEY_ID)]
Nonce = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="Random; an answer repeats it.")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$")]
Protocol = Annotated[int, Field(ge=1, le=1000)]
JobName = Annotated[str, Field(max_length=127, pattern=r"^[a-z0-9-]{1,63}/[a-z0-9-]{1,63}$")]
Reason = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]{0,63}$", description="A code; free text is never sent.")]
InvitationId = Annotated[str, Field(pattern=r"^[a-z2-7]{8}$")]
TaskId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
FileName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}\.(safetensors|json|jinja)$")]
Origin = Annotated[str, Field(pattern=r"^https?://[!-~]{1,290}$")]


def _unset(value: object) -> bool:
    return value is None


class Statement(ApiModel):
    """What every kind has: its name."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1

    @classmethod
    def payload_type(cls) -> str:
        """The media type that is signed together with the payload."""
        return f"application/vnd.photon.{cls.KIND}.v{cls.VERSION}+json"

    def seal(self, *signers: Identity) -> bytes:
        """The envelope, signed by each."""
        return seal(self.payload_type(), canonical_json(self), *signers)


class Enrolment(Statement):
    """Site: this is my key. Sent once, together with the invitation's token."""

    KIND = "enrolment"
    audience: KeyId
    job_name: JobName
    invitation: InvitationId
    participant: Name
    public_key: PublicKey
    version: Version
    protocol: Protocol
    nonce: Nonce


class Session(Statement):
    """Site: open a session; the answer to the hub's challenge."""

    KIND = "session"
    audience: KeyId
    job: Sha256
    participant: Name
    challenge: Nonce
    version: Version
    protocol: Protocol


class Update(Statement):
    """Site: this manifest is my update of the round."""

    KIND = "update"
    audience: KeyId
    job: Sha256
    participant: Name
    round: RoundNumber
    plan: Sha256
    manifest: Sha256
    tokens: Tokens


class Evaluation(Statement):
    """Site: this is what I measured of the commit's model."""

    KIND = "evaluation"
    audience: KeyId
    job: Sha256
    participant: Name
    round: Count
    commit: Sha256
    result: Sha256


class Leave(Statement):
    """Site: I leave the job."""

    KIND = "leave"
    audience: KeyId
    job: Sha256
    participant: Name
    reason: Reason


class Rotate(Statement):
    """Site: from now on this is my key. Signed by the old one, then by the new one."""

    KIND = "rotate"
    audience: KeyId
    participant: Name
    new_key: PublicKey


class Cosign(Statement):
    """Site: I have seen this head of the door's log, and it continues those that I saw before."""

    KIND = "cosign"
    audience: KeyId
    job: Sha256
    participant: Name
    size: Annotated[int, Field(ge=1, le=10**10)]
    head: Sha256


class Hello(Statement):
    """Hub: what I am, and a challenge."""

    KIND = "hello"
    nonce: Nonce
    challenge: Nonce
    job: Sha256
    job_name: JobName
    protocols: Annotated[list[Protocol], Field(min_length=1, max_length=8)]
    version: Version
    object_origins: Annotated[list[Origin], Field(min_length=1, max_length=8)]
    audit_size: Count
    audit_head: Sha256


class Membership(Statement):
    """Hub: the participant with this key stands so. Repeats the nonce that was asked with."""

    KIND = "membership"
    job: Sha256
    participant: Name
    key: KeyId
    state: MemberState
    nonce: Nonce


class TaskFile(ApiModel):
    """A file of the model that a task begins with."""

    name: FileName
    size_bytes: Bytes
    sha256: Sha256


class Task(Statement):
    """Hub: do this. ``plan``, ``first_step`` and ``local_steps`` only to train, ``reason`` only to finish."""

    KIND = "task"
    job: Sha256
    participant: Name
    id: TaskId
    kind: Literal["train", "evaluate", "finish"]
    round: Count
    base: Sha256
    cohort_size: Annotated[int, Field(ge=0, le=MAX_PARTICIPANTS)]
    files: Annotated[list[TaskFile], Field(max_length=MAX_FILES)] = []
    plan: Annotated[Sha256 | None, Field(exclude_if=_unset)] = None
    first_step: Annotated[Step | None, Field(exclude_if=_unset)] = None
    local_steps: Annotated[Step | None, Field(exclude_if=_unset)] = None
    reason: Annotated[Reason | None, Field(exclude_if=_unset)] = None

    @model_validator(mode="after")
    def _fields_of_its_kind(self) -> Self:
        training = (self.plan, self.first_step, self.local_steps)
        if any((value is None) == (self.kind == "train") for value in training):
            raise ValueError("plan, firstStep and localSteps belong to a task to train, all of them")
        if (self.reason is None) == (self.kind == "finish"):
            raise ValueError("a reason belongs to a task to finish")
        if bool(self.files) == (self.kind == "finish"):
            raise ValueError("files belong to a task to train or to evaluate")
        if len({file.name for file in self.files}) != len(self.files):
            raise ValueError("files has a name twice")
        return self


class Task2(Task):
    """Hub: do this. As Task, and a task to finish says whether the job has ``failed``."""

    VERSION = 2
    failed: Annotated[bool | None, Field(exclude_if=_unset)] = None

    @model_validator(mode="after")
    def _says_whether_it_failed(self) -> Self:
        if (self.failed is None) == (self.kind == "finish"):
            raise ValueError("failed belongs to a task to finish")
        return self


class Commit2(Statement):
    """Hub, to one institution: the model of the round, and by which ``key`` the update of that ``participant`` was
    signed that the round took. Other institutions are not named."""

    KIND = "commit"
    VERSION = 2
    job: Sha256
    round: Count
    commit: Sha256
    previous: Annotated[Sha256 | None, Field(exclude_if=_unset)] = None
    participant: Name
    key: Annotated[KeyId | None, Field(exclude_if=_unset)] = None
    version: Version
    audit_size: Count
    audit_head: Sha256


class Commit(Statement):
    """Hub: the model of the round, and by which keys its updates were signed. In the bucket, for audits."""

    KIND = "commit"
    job: Sha256
    round: Count
    commit: Sha256
    previous: Annotated[Sha256 | None, Field(exclude_if=_unset)] = None
    keys: Annotated[dict[Name, KeyId], Field(max_length=MAX_PARTICIPANTS)]
    version: Version
    audit_size: Count
    audit_head: Sha256


KINDS: Final[tuple[type[Statement], ...]] = (
    Enrolment, Session, Update, Evaluation, Leave, Rotate, Cosign, Hello, Membership, Task, Task2, Commit2, Commit,
)  # fmt: skip
S = TypeVar("S", bound=Statement)


def verify(data: bytes, kind: type[S], *keys: Key) -> S:
    """The statement of this kind in the envelope ``data``, signed by exactly ``keys`` (two for a rotation).

    The payload is parsed only after the signatures hold. Who may sign, for which job, round and audience, is for the
    caller to compare.

    Raises:
        BadEnvelope, WrongKind, BadSignature: as photon.trust.envelope.unseal.
        BadStatement: the payload is not one of this kind, in canonical JSON.
    """
    payload = unseal(data, kind.payload_type(), *keys)
    try:
        statement = kind.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        if first["type"] == "extra_forbidden":
            raise BadStatement(f"{kind.KIND}: {where} is a field of another release: upgrade this side") from error
        raise BadStatement(f"{kind.KIND}: {where or 'payload'}: {first['msg']}") from error
    if canonical_json(statement) != payload:
        raise BadStatement(f"{kind.KIND}: its JSON is not canonical")
    return statement


def verify_enrolment(data: bytes, key: Key) -> Enrolment:
    """An enrolment, signed by the key that it announces.

    Raises:
        TrustError: as ``verify``; or it announces another key.
    """
    statement = verify(data, Enrolment, key)
    if statement.public_key != key.text:
        raise BadStatement("enrolment: publicKey is not the key that signed it")
    return statement


def verify_rotation(data: bytes, old: Key, new: Key) -> Rotate:
    """A change of keys, signed by both.

    Raises:
        TrustError: as ``verify``; or it announces another key, or the same one.
    """
    statement = verify(data, Rotate, old, new)
    if statement.new_key != new.text or old == new:
        raise BadStatement("rotate: newKey must be the second key that signed it, and another than the first")
    return statement
