"""What ``photon status`` needs of a place that knows the status of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from photon.api.status import JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """The status of a job at one time.

    ``hint``: what a person must know of where the figures are from. ``still``: it is not running, so nothing changes.
    """

    name: str
    local_steps: int
    status: JobStatus
    hint: str = ""
    still: bool = False


class StatusSource(Protocol):
    """Somewhere that knows the status of a job. ``poll_seconds``: how often it may be asked."""

    poll_seconds: float

    def fetch(self) -> StatusView:
        """The job's status now.

        Raises:
            NoAnswer: Nothing answers; a later call may succeed.
            UserError: There is no such job, or it may not be seen.
        """
        ...
