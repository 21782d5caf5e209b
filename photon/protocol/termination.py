"""How a program ended: the record that each of Photon's programs leaves for whatever started it.

``{"reason": "AccessDenied", "message": "...", "exitCode": 4}``. A launcher decides by ``reason`` and ``exitCode``;
``message`` is for people and is never taken apart. In Kubernetes it is the container's termination message, under
``photon run`` a file beside the program's log (photon/ending.py writes it). Pure: nothing is read or written
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, ConfigDict, Field

from photon.api.base import ApiModel
from photon.api.status import ClusterReason, JobReason, JobStatus, read_status
from photon.api.text import MESSAGE_LIMIT, printable

# Environment of a program: the file into which it writes its record; unset, it writes none.
TERMINATION_LOG: Final = "PHOTON_TERMINATION_LOG"
# What Kubernetes keeps of a termination message.
MAX_BYTES: Final = 4096
# Where a record does not fit, its messages are cut to these lengths, one after the other.
_SHORTER: Final = (200, 60)


class EndReason(StrEnum):
    """Codes of ends that no condition names; all others are of ClusterReason, and of JobReason for an aggregator."""

    COMPLETED = "Completed"
    # A worker's: the aggregator has told it that the job failed, and says itself why.
    JOB_FAILED = "JobFailed"


Reason = ClusterReason | JobReason | EndReason


def _one_line(value: Any) -> Any:
    """On one line, without control characters, and no longer than a message may be."""
    return printable(" ".join(value.split())) if isinstance(value, str) else value


def _if_readable(value: Any) -> JobStatus | None:
    """A status of another release may have what this one does not know: the rest is read all the same."""
    try:
        return value if value is None or isinstance(value, JobStatus) else read_status(value)
    except ValueError:
        return None


class Termination(ApiModel):
    """How a program ended. ``status``: an aggregator's last, in which the job's own end is a condition.

    Unknown fields are left out: programs and their launcher may be of different releases for a while.
    """

    model_config = ConfigDict(extra="ignore")

    reason: Annotated[str, Field(pattern="^[A-Z][A-Za-z0-9]{0,62}$")]
    message: Annotated[str, BeforeValidator(_one_line), Field(max_length=MESSAGE_LIMIT)] = ""
    exit_code: Annotated[int, Field(ge=0, le=255)]
    status: Annotated[JobStatus | None, BeforeValidator(_if_readable)] = None

    @classmethod
    def of(cls, reason: str, message: str, exit_code: int, status: JobStatus | None = None) -> Self:
        """The record of this program; the message may have any length and any characters."""
        return cls(reason=str(reason), message=message, exit_code=exit_code & 0xFF, status=status)

    def encoded(self) -> bytes:
        """As JSON in at most MAX_BYTES: without participants where they do not fit, else with short messages."""
        return next(data for form in self._forms() if len(data := _json(form)) <= MAX_BYTES)

    def _forms(self) -> Iterator[Self]:
        yield self
        status = self.status
        if status is not None:
            present = status.participants_present
            status = status.model_copy(update={"participants": [], "participants_present": present})
            yield self.model_copy(update={"status": status})
        for length in _SHORTER:
            short = {"message": self.message[:length]}
            if status is not None:
                conditions = [c.model_copy(update={"message": c.message[:length]}) for c in status.conditions]
                yield self.model_copy(update={**short, "status": status.model_copy(update={"conditions": conditions})})
        yield self.model_copy(update={"message": self.message[: _SHORTER[0]], "status": None})


def parse(text: str | bytes) -> Termination | None:
    """The record in a termination message; None when it is something else, such as the end of a log."""
    try:
        return Termination.model_validate_json(text)
    except ValueError:
        return None


def last_status(text: str | bytes) -> JobStatus | None:
    """The status in an aggregator's termination message, which was all of it in the release before this record."""
    record = parse(text)
    if record is not None:
        return record.status
    try:
        return JobStatus.model_validate_json(text)
    except ValueError:
        return None


def _json(record: Termination) -> bytes:
    return record.model_dump_json(by_alias=True, exclude_none=True).encode()
