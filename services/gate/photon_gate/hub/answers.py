"""What an answer of the hub means to a gate: taken as it is, or raised as what went wrong. Pure."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from photon.api.status import JoinReason
from photon.protocol.border import BorderReason
from photon.protocol.messages import ErrorReason
from photon.trust.errors import TrustError
from photon.trust.keys import Key
from photon_gate.hub.errors import Awaiting, Contradiction, Declined, HubUnreachable, NotEnrolled, SessionEnded
from photon_gate.hub.exchange import Answer

M = TypeVar("M", bound=BaseModel)

_ENDINGS: Final = {
    BorderReason.INVITATION_UNKNOWN: JoinReason.INVITATION_UNKNOWN,
    BorderReason.INVITATION_EXPIRED: JoinReason.INVITATION_EXPIRED,
    BorderReason.INVITATION_USED: JoinReason.INVITATION_USED,
    BorderReason.REVOKED: JoinReason.REVOKED,
    BorderReason.LEFT: JoinReason.LEFT,
    BorderReason.VERSION_SKEW: JoinReason.VERSION_SKEW,
    BorderReason.BAD_SIGNATURE: JoinReason.HUB_NOT_TRUSTED,
    BorderReason.UNSIGNED: JoinReason.VERSION_SKEW,
}
_SESSION: Final = frozenset({BorderReason.SESSION_EXPIRED, BorderReason.SESSION_SUPERSEDED, "Unauthenticated"})


def checked(answer: Answer, *, session: bool) -> Answer:
    """The answer, if the hub did what it was asked for. ``session``: whether it was asked within one.

    Raises:
        Contradiction: The membership has ended, or cannot be.
        SessionEnded, Awaiting, NotEnrolled, HubUnreachable, Declined: As they say.
    """
    if not answer.reason:
        return answer
    said = f"the hub says {answer.reason}: {answer.message}"
    known = next((reason for reason in BorderReason if reason.value == answer.reason), None)
    if known in _ENDINGS:
        raise Contradiction(_ENDINGS[known], said, said=known)
    if answer.reason in _SESSION and session:
        raise SessionEnded(said)
    if known is BorderReason.AWAITING_APPROVAL:
        raise Awaiting(said)
    if known is BorderReason.NOT_ENROLLED:
        raise NotEnrolled(said)
    if not session or answer.status >= 500:
        where = "NotReady" if answer.reason == ErrorReason.NOT_READY.value else "Away"
        raise HubUnreachable(where, said, retry_after=answer.retry_after)
    reason = next((one for one in ErrorReason if one.value == answer.reason), ErrorReason.INVALID_REQUEST)
    raise Declined(answer.status, reason.value, said[:2048], retry_after=answer.retry_after)


def parsed(model: type[M], answer: Answer, host: str) -> M:
    """The answer of ``host`` as a model. Fields that a later release added are ignored: what was signed is read
    strictly, elsewhere.

    Raises:
        HubUnreachable: It is something else, such as the page of a proxy.
    """
    try:
        return model.model_validate_json(answer.data, extra="ignore")
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise HubUnreachable("Page", f"{host} answers something that is no {model.__name__} ({said[:200]})") from error


def fingerprint(text: str) -> str:
    """Of a key as the hub shows it."""
    try:
        return Key.parse(text).fingerprint
    except TrustError:
        return "of no one"
