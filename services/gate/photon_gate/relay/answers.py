"""What the worker is told of an error: the status and body from which its own client reads the same kind of error.

So a worker behind the gate waits, asks for new URLs or gives up just as it does in front of the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from xml.sax.saxutils import escape

from photon.store.errors import (
    AccessDenied,
    BucketMissing,
    DigestMismatch,
    NotFound,
    PreconditionFailed,
    Refused,
    StorageFull,
    StoreError,
    Unreachable,
    Unusable,
)

MAX_MESSAGE: Final = 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as S3 writes it."""

    status: HTTPStatus
    code: str
    message: str

    def body(self) -> bytes:
        """XML, as a store answers."""
        said = escape(self.message[:MAX_MESSAGE])
        return f"<Error><Code>{self.code}</Code><Message>{said}</Message></Error>".encode()


# A worker asks for new URLs after AccessDenied: an id that has expired is no more than that.
UNKNOWN_ID: Final = Answer(HTTPStatus.FORBIDDEN, "AccessDenied", "the gate has no such object, or no longer")
WRONG_METHOD: Final = Answer(HTTPStatus.FORBIDDEN, "AccessDenied", "the gate allows another method for this object")
WRONG_LENGTH: Final = Answer(HTTPStatus.BAD_REQUEST, "BadDigest", "Content-Length is not the announced size")
WRONG_BYTES: Final = Answer(
    HTTPStatus.BAD_REQUEST, "BadDigest", "the bytes are not those that were announced: nothing was written"
)
UNRECORDED: Final = Answer(
    HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", "the gate cannot record what leaves: its log says why"
)
EXISTS: Final = Answer(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed", "the object exists already")
WRONG_REQUEST: Final = Answer(HTTPStatus.BAD_REQUEST, "InvalidRequest", "the gate does not understand this request")
WRONG_RANGE: Final = Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "InvalidRange", "one range within the object")

_KINDS: Final[tuple[tuple[type[StoreError], HTTPStatus, str], ...]] = (
    (AccessDenied, HTTPStatus.FORBIDDEN, "AccessDenied"),
    (BucketMissing, HTTPStatus.NOT_FOUND, "NoSuchBucket"),
    (Unusable, HTTPStatus.NOT_IMPLEMENTED, "NotImplemented"),
    (Refused, HTTPStatus.BAD_REQUEST, "Refused"),
    (NotFound, HTTPStatus.NOT_FOUND, "NoSuchKey"),
    (PreconditionFailed, HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed"),
    (DigestMismatch, HTTPStatus.BAD_REQUEST, "BadDigest"),
    (StorageFull, HTTPStatus.INSUFFICIENT_STORAGE, "InsufficientStorage"),
    (Unreachable, HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable"),
)


def answer_for(error: StoreError) -> Answer:
    """The answer for what the store's side of the relay met."""
    for kind, status, code in _KINDS:
        if isinstance(error, kind):
            return Answer(status, code, str(error))
    return Answer(HTTPStatus.BAD_GATEWAY, "BadGateway", str(error))
