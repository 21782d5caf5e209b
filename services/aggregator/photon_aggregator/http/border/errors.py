"""Why the door refuses a request, and with which status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi.responses import JSONResponse

from photon.api.text import printable
from photon.protocol.border import BorderError, BorderErrorDetail, BorderReason
from photon.protocol.messages import ErrorReason
from photon_aggregator.http.errors import ApiError

STATUS: Final[Mapping[BorderReason, int]] = {
    BorderReason.INVITATION_UNKNOWN: 401,
    BorderReason.INVITATION_EXPIRED: 401,
    BorderReason.INVITATION_USED: 409,
    BorderReason.AWAITING_APPROVAL: 403,
    BorderReason.REVOKED: 403,
    BorderReason.LEFT: 403,
    BorderReason.NOT_ENROLLED: 403,
    BorderReason.BAD_SIGNATURE: 403,
    BorderReason.UNSIGNED: 422,
    BorderReason.SESSION_EXPIRED: 401,
    BorderReason.SESSION_SUPERSEDED: 401,
    BorderReason.VERSION_SKEW: 426,
}


class Denied(ApiError):
    """A request of an institution that is refused: a reason, and a sentence for its administrator."""

    def __init__(self, reason: BorderReason, message: str) -> None:
        super().__init__(ErrorReason.INVALID_REQUEST, message, STATUS[reason])
        self.why = reason

    def response(self) -> JSONResponse:
        """The answer."""
        detail = BorderErrorDetail(reason=self.why.value, message=printable(self.message, 2048))
        return JSONResponse(
            BorderError(error=detail).model_dump(mode="json", by_alias=True), status_code=STATUS[self.why]
        )
