"""What a request to the hub can meet. Each message is one sentence that names the fix, if this side has one."""

from __future__ import annotations

from typing import Final

from photon.api.status import JoinReason
from photon.errors import PhotonError
from photon.protocol.border import BorderReason

# Where a request can fail, as HubUnreachable says.
UNREACHABLE: Final = (*("DNS", "Proxy", "TLS", "Refused", "Timeout", "Broken", "Page", "Away", "NotReady", "Session"),)


class HubUnreachable(PhotonError):
    """No answer of the hub: tried again for as long as it takes. ``where``: one word for what failed."""

    def __init__(self, where: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.where = where
        self.retry_after = retry_after


class Awaiting(PhotonError):
    """Enrolled, and the hub's administrator has not confirmed the key yet: asked again."""


class SessionEnded(PhotonError):
    """The hub does not know the session any more: another is opened."""


class NotEnrolled(PhotonError):
    """The hub knows no key of this institution, or a renewed invitation waits: it enrolls."""


class Declined(PhotonError):
    """The hub answered a request of the worker with an error that is for the worker to read."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Contradiction(PhotonError):
    """What no other attempt changes: the gate ends, and a person must look. ``reason`` goes into its record.
    ``said``: what the hub answered, where it is the hub that refuses."""

    def __init__(self, reason: JoinReason, message: str, *, said: BorderReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.said = said
