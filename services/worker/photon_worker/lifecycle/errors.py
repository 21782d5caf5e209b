"""What can end a worker, and how: the tree that main.py turns into exit codes and termination records.

WorkerError            1: something failed; one sentence says what
  Mistake              2: the user can fix it (data, tokens, settings); the sentence names the field and the fix
  Refused              1: the aggregator refuses a request as a whole; has its answer
  JobFailed            3: the aggregator says that the job has failed
Cancelled              not an end: the round went on without this participant; ask for the next task
"""

from __future__ import annotations

from typing import ClassVar

from photon.api.status import ClusterReason
from photon.protocol.messages import ErrorReason
from photon.protocol.termination import EndReason, Reason


class WorkerError(Exception):
    """The worker cannot go on; the message is one clear sentence. ``reason``: the code that its record gets."""

    reason: ClassVar[Reason] = ClusterReason.PROGRAM_FAILED


class Mistake(WorkerError):
    """Something that the user wrote or prepared does not fit; the message names it and the fix."""

    reason = ClusterReason.INVALID_CONFIGURATION


class Refused(WorkerError):
    """The aggregator refuses a request as a whole. ``answer``: its reason; None when the answer was not Photon's."""

    def __init__(self, message: str, answer: ErrorReason | None) -> None:
        super().__init__(message)
        self.answer = answer


class JobFailed(WorkerError):
    """The aggregator ended the job as failed."""

    reason = EndReason.JOB_FAILED


class Cancelled(Exception):
    """The round ended without this participant; its task is to be dropped."""
