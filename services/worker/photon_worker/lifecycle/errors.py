"""What can end a worker, and how: the tree that main.py turns into exit codes.

WorkerError            1: something failed; one sentence says what
  Mistake              2: the user can fix it (data, tokens, settings); the sentence names the field and the fix
  Refused              1: the aggregator refuses a request as a whole; has its reason
  JobFailed            3: the aggregator says that the job has failed
Cancelled              not an end: the round went on without this participant; ask for the next task
"""

from __future__ import annotations

from photon.protocol.messages import ErrorReason


class WorkerError(Exception):
    """The worker cannot go on; the message is one clear sentence."""


class Mistake(WorkerError):
    """Something that the user wrote or prepared does not fit; the message names it and the fix."""


class Refused(WorkerError):
    """The aggregator refuses a request as a whole. ``reason`` is None when the answer was not Photon's."""

    def __init__(self, message: str, reason: ErrorReason | None) -> None:
        super().__init__(message)
        self.reason = reason


class JobFailed(WorkerError):
    """The aggregator ended the job as failed."""


class Cancelled(Exception):
    """The round ended without this participant; its task is to be dropped."""
