"""How a worker ends: exit codes and the one sentence that says why. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from photon.api.document import JobFileError
from photon.exit_codes import EXIT_JOB_FAILED
from photon.store.errors import StoreError, Unusable
from photon_worker.lifecycle.data_errors import DataError, OutOfReach
from photon_worker.lifecycle.errors import JobFailed, Mistake, WorkerError
from photon_worker.lifecycle.signals import Interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An exit code (1: failed, 2: the user's mistake, 3: the job failed, 128 + signal) and one sentence."""

    code: int
    message: str


class PeerEnded(BaseException):
    """Another process of the participant has ended, so this one does. Only main may swallow it."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.exit_code = end.code


def end_of(error: BaseException) -> End | None:
    """What ``error`` means for the process; None for an unexpected one."""
    match error:
        case OutOfReach():
            return End(code=1, message=str(error))
        case JobFailed():
            return End(code=EXIT_JOB_FAILED, message=str(error))
        case Mistake() | DataError() | JobFileError() | Unusable():
            return End(code=2, message=str(error))
        case WorkerError() | StoreError():
            return End(code=1, message=str(error))
        case Interrupted():
            return End(code=error.exit_code, message=f"stopped by {error}")
        case _:
            return None
