"""How the gate ends: the exit code of each reason, and the record for what started it."""

from __future__ import annotations

from typing import Final

from photon.api.status import ClusterReason, JobStatus, JoinReason
from photon.errors import PhotonError
from photon.exit_codes import EXIT_JOB_FAILED, EXIT_USER_ERROR
from photon.protocol.messages import FinishTask
from photon.protocol.termination import Termination
from photon_gate.hub.errors import Contradiction

# Where a person must change something first it is a user error; all others are said to have failed.
_CODES: Final = {JoinReason.LEFT: 0, JoinReason.REVOKED: EXIT_JOB_FAILED}


def after_job(task: FinishTask, status: JobStatus) -> Termination:
    """The job has ended: with its own reason."""
    return Termination.of(task.reason, task.message, EXIT_JOB_FAILED if task.failed else 0, status)


def after_error(error: Exception, status: JobStatus | None = None) -> Termination:
    """The gate cannot go on."""
    if isinstance(error, Contradiction):
        return Termination.of(error.reason.value, str(error), _CODES.get(error.reason, EXIT_USER_ERROR), status)
    code = error.exit_code if isinstance(error, PhotonError) else 1
    reason = ClusterReason.INVALID_CONFIGURATION if code == EXIT_USER_ERROR else ClusterReason.PROGRAM_FAILED
    return Termination.of(reason.value, str(error) or type(error).__name__, code, status)
