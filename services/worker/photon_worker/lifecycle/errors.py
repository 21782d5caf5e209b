"""The errors of the worker: one root below PhotonError, with the exit code and the reason of the record that each gets.

WorkerError                1: something failed; one sentence says what
 ├─ Misconfigured          2: the user can fix it (data, tokens, settings); the sentence names the field and the fix
 │   ├─ VersionSkew            the job has a setting that this release does not know
 │   └─ DataError              photon_worker.lifecycle.data_errors
 │       ├─ MissingError           what was named does not exist
 │       └─ OutOfReach         1: the store does not answer: others can fix that
 │           └─ NoAccess       1: the store does not answer to these keys
 ├─ RequestRefused         1: the aggregator refuses a request as a whole; has its answer
 └─ JobFailed              3: the aggregator says that the job has failed
Cancelled                  not an end: the round went on without this participant; ask for the next task

Interrupted (signals) and PeerEnded (exits) are BaseExceptions: only main may swallow them.
"""

from __future__ import annotations

from typing import ClassVar

from photon import errors
from photon.api.status import ClusterReason
from photon.protocol.messages import ErrorReason
from photon.protocol.termination import EndReason, Reason


class WorkerError(errors.PhotonError):
    """The worker cannot go on; the message is one clear sentence. ``reason``: the code that its record gets."""

    reason: ClassVar[Reason] = ClusterReason.PROGRAM_FAILED


class Misconfigured(WorkerError, errors.UserError):
    """Something that the user wrote or prepared does not fit; the message names it and the fix."""

    reason = ClusterReason.INVALID_CONFIGURATION


class VersionSkew(Misconfigured):
    """The aggregator is of a release whose job this worker cannot train; the message names the settings."""


class RequestRefused(WorkerError):
    """The aggregator refuses a request as a whole. ``answer``: its reason; None when the answer was not Photon's."""

    def __init__(self, message: str, answer: ErrorReason | None) -> None:
        super().__init__(message)
        self.answer = answer


class JobFailed(WorkerError, errors.JobFailed):
    """The aggregator ended the job as failed."""

    reason = EndReason.JOB_FAILED


class Cancelled(Exception):
    """The round ended without this participant; its task is to be dropped."""
