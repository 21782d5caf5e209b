"""How a job ended: from the aggregator's last status, wherever it was left (its answer, its pod's last words, ours)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from photon.api.status import Condition, ConditionType, JobStatus

_ENDS = (ConditionType.COMPLETE, ConditionType.FAILED, ConditionType.SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """``condition`` is the one that became true; ``status`` the last figures; ``at`` seconds since the epoch."""

    condition: Condition
    status: JobStatus
    at: float

    @property
    def suspended(self) -> bool:
        """At rest at a round's boundary."""
        return self.condition.type == ConditionType.SUSPENDED

    @property
    def finished(self) -> bool:
        """Complete or failed: nothing more happens to it unless the user changes it."""
        return not self.suspended

    @classmethod
    def from_message(cls, message: str) -> Ending | None:
        """From an aggregator's termination message; None when it left none (it was killed)."""
        try:
            return ending_of(JobStatus.model_validate_json(message))
        except ValidationError:
            return None


def ending_of(status: JobStatus) -> Ending | None:
    """The ending that ``status`` tells of."""
    for condition in status.conditions:
        if condition.status == "True" and condition.type in _ENDS:
            at = datetime.fromisoformat(condition.last_transition_time).timestamp()
            return Ending(condition=condition, status=status, at=at)
    return None
