"""A job of another institution: ``spec.join`` on this side, ``participants[].remote`` on the hub's.

A document with ``spec.join`` has no model and no rounds: the hub has them. So it is a type of its own (JoinedJob), and
what every other program reads keeps its fields. Not in the CRD yet.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import ssl
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, model_validator

from photon.api.base import ApiModel, Name, ShortText
from photon.api.job import JobSpec, ObjectMeta
from photon.api.placement import Participant, PodSettings, SecretRef

MAX_BUNDLE: Final = 32 * 1024
KEY_BYTES: Final = 32
KEY_PREFIX: Final = "ed25519:"
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_DOOR_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*/jobs/([a-z0-9-]{1,63})/([a-z0-9-]{1,63})")
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _server(text: str) -> SplitResult:
    """Raises ValueError: not the encrypted address of a server; loopback addresses need no encryption."""
    if not all("!" <= character <= "~" for character in text) or "\\" in text:
        raise ValueError("holds a character that no URL has")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from error
    if not host or parts.scheme not in ("https", "http") or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be https://HOST or https://HOST:PORT, without a user, a query or a fragment")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ValueError("must begin with https://: http is not encrypted")
    return parts


def _door(text: str) -> str:
    if _DOOR_PATH.fullmatch(_server(text).path) is None:
        raise ValueError("must end with /jobs/NAMESPACE/NAME: take it from the invitation")
    return text


def _origin(text: str) -> str:
    if _server(text).path not in ("", "/"):
        raise ValueError("must be an origin, https://HOST or https://HOST:PORT, without a path")
    return text.rstrip("/").lower()


def _key(text: str) -> str:
    """``ed25519:`` and 32 bytes in base64url without padding, in its one spelling."""
    encoded = text.removeprefix(KEY_PREFIX)
    try:
        raw = base64.b64decode(encoded + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    spelled = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    if not text.startswith(KEY_PREFIX) or len(raw) != KEY_BYTES or spelled != encoded:
        raise ValueError("must be ed25519: and 43 characters, as the other side shows it")
    return text


def _bundle(text: str) -> str:
    if not text:
        return text
    if "PRIVATE KEY" in text:
        raise ValueError("holds a private key: only certificates belong here")
    found = _CERTIFICATE.findall(text)
    try:
        for certificate in found:
            ssl.PEM_cert_to_DER_cert(certificate)
    except ValueError as error:
        raise ValueError("holds a certificate that is not whole") from error
    if not found:
        raise ValueError("holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)")
    return text


Origin = Annotated[str, Field(max_length=300), AfterValidator(_origin)]
PublicKey = Annotated[str, Field(min_length=51, max_length=51), AfterValidator(_key)]


class BytesBy(StrEnum):
    """Which way models and updates take."""

    RELAY = "Relay"
    DIRECT = "Direct"


class JoinSpec(ApiModel):
    """Where the hub is, and by which key it is known."""

    url: Annotated[
        str, Field(max_length=1024, description="Base of the hub's door, from the invitation."), AfterValidator(_door)
    ]
    objects: Annotated[
        list[Origin],
        Field(min_length=1, max_length=8, description="Origins of the hub's object store; nothing else is read."),
    ]
    hub_key: Annotated[PublicKey, Field(description="The hub's public key; compare its fingerprint by telephone.")]
    invitation_secret_ref: Annotated[
        SecretRef | None,
        Field(description="Secret with the token of the invitation. Not needed once the key is known to the hub."),
    ] = None
    ca_bundle: Annotated[
        str,
        Field(max_length=MAX_BUNDLE, description="Certificates in PEM format, trusted for the hub's origins only."),
        AfterValidator(_bundle),
    ] = ""
    leave: Annotated[bool, Field(description="Leave the job: said to the hub, signed; then the workers end.")] = False
    bytes: Annotated[
        BytesBy,
        Field(
            description="Relay: through the gate, so workers need no route to the hub. Direct: workers read and write "
            "the hub's store themselves, for links of more than 3 Gbit/s."
        ),
    ] = BytesBy.RELAY
    gate: Annotated[PodSettings, Field(description="The gate's pod.")] = PodSettings()

    @property
    def hub_key_id(self) -> str:
        """The first 16 bytes of the sha256 of the hub's key, as people compare it: ``9f86 d081 ...``."""
        raw = base64.urlsafe_b64decode(self.hub_key.removeprefix(KEY_PREFIX) + "=")
        digits = hashlib.sha256(raw).hexdigest()[:32]
        return " ".join(digits[start : start + 4] for start in range(0, 32, 4))

    @property
    def origin(self) -> str:
        """``https://HOST[:PORT]`` of the hub's door."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}".lower()

    @property
    def host(self) -> str:
        """The hub's host name."""
        return urlsplit(self.url).hostname or ""


class Approval(StrEnum):
    """Whether an institution that enrolls takes part at once, or once its key was confirmed in the document."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class Access(StrEnum):
    """Whether an institution may take part."""

    GRANTED = "Granted"
    REVOKED = "Revoked"


class InvitationSpec(ApiModel):
    """A token for one enrollment. A higher serial makes a new token, and ends the one before."""

    serial: Annotated[int, Field(ge=1, le=10**6, description="Raise it to renew the invitation.")] = 1
    valid_seconds: Annotated[
        int, Field(ge=60, le=90 * 86400, description="Seconds from its making until it expires.")
    ] = 604_800


class RemoteSpec(ApiModel):
    """A participant that joins from elsewhere, as the hub sees it."""

    key: Annotated[
        PublicKey | None, Field(description="Its public key: known beforehand, or confirmed with Manual approval.")
    ] = None
    approval: Approval = Approval.AUTOMATIC
    access: Access = Access.GRANTED
    invitation: InvitationSpec = InvitationSpec()


class JoinedSpec(ApiModel):
    """``spec`` of a job of another institution. Whatever shapes learning is the hub's."""

    join: JoinSpec
    participants: Annotated[list[Participant], Field(min_length=1, max_length=1, description="This institution.")]
    suspend: bool = False
    active_deadline_seconds: Annotated[int | None, Field(ge=1, le=10**9)] = None
    ttl_seconds_after_finished: Annotated[int | None, Field(ge=0, le=10**9)] = None
    managed_by: ShortText | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_of_the_hubs(cls, data: Any) -> Any:
        """What the API server fills in with defaults is dropped; what a person wrote would have no effect."""
        if not isinstance(data, dict):
            return data
        kept = dict(data)
        for name, field in JobSpec.model_fields.items():
            if name in cls.model_fields:
                continue
            for spelled in (field.alias or name, name):
                if spelled not in kept:
                    continue
                if field.is_required():
                    raise ValueError(f"a job has either join or {spelled}: with join, the hub decides {spelled}")
                if not _is_default(kept.pop(spelled), field.get_default(call_default_factory=True)):
                    raise ValueError(f"{spelled} has no effect with join: the hub decides it")
        return kept

    @model_validator(mode="after")
    def _one_that_trains_here(self) -> Self:
        if self.participants[0].worker is None:
            raise ValueError("with join, the participant is this institution: it needs worker")
        return self


class JoinedJob(ApiModel):
    """A FederatedTrainingJob with ``spec.join``."""

    api_version: Literal["photon.dev/v1alpha1"]
    kind: Literal["FederatedTrainingJob"]
    metadata: ObjectMeta
    spec: JoinedSpec

    @property
    def participant(self) -> Name:
        """The name of this institution in the job."""
        return self.spec.participants[0].name


def forbidden_changes(before: JoinedSpec, after: JoinedSpec) -> list[str]:
    """What may not change once a job was joined: another hub or another name would be another membership."""
    pairs = (
        ("join.url", before.join.url, after.join.url),
        ("join.hubKey", before.join.hub_key, after.join.hub_key),
        ("participants[0].name", before.participants[0].name, after.participants[0].name),
    )
    return [f"{field} is immutable" for field, old, new in pairs if old != new]


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(default, ApiModel) and isinstance(value, dict):
        try:
            return type(default).model_validate(value) == default
        except ValueError:
            return False
    return bool(value == default)
