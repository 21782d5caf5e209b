"""How a worker ends: exit code, reason, and the one sentence that says why. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from photon.api.status import ClusterReason
from photon.errors import UserError
from photon.protocol.termination import Termination
from photon.store.errors import StoreError
from photon_worker.lifecycle.errors import WorkerError
from photon_worker.lifecycle.signals import Interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An exit code (1: failed, 2: the user's mistake, 3: the job failed, 128 + signal), its reason and one sentence."""

    code: int
    reason: str = ClusterReason.PROGRAM_FAILED
    message: str

    @property
    def record(self) -> Termination:
        """What the process leaves for its launcher."""
        return Termination.of(self.reason, self.message, self.code)


class PeerEnded(BaseException):
    """Another process of the participant has ended, so this one does. Only main may swallow it."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.end = end


def end_of(error: BaseException) -> End | None:
    """What ``error`` means for the process; None for an unexpected one."""
    match error:
        case WorkerError() | StoreError():
            return End(code=error.exit_code, reason=error.reason, message=str(error))
        case UserError():
            return End(code=error.exit_code, reason=ClusterReason.INVALID_CONFIGURATION, message=str(error))
        case Interrupted():
            return End(code=error.exit_code, reason=ClusterReason.INTERRUPTED, message=f"stopped by {error}")
        case _:
            return None
