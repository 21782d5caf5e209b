"""When a job started, and how much is left of ``spec.activeDeadlineSeconds``."""

from __future__ import annotations

from photon_operator.decide import queues
from photon_operator.decide.observed import seconds, timestamp
from photon_operator.decide.reasons import FINISHED
from photon_operator.decide.situation import Situation


def start(situation: Situation) -> str | None:
    """When the job last started: when it was made, resumed, admitted by its queue, tried again or given more to do.
    None while it is suspended or queued, so that this time never counts."""
    held, before = situation.held, situation.before
    if situation.job.spec.suspend or queues.holds(situation):
        return None
    if before.start_time is not None and (held is None or held.type not in FINISHED):
        return before.start_time
    return timestamp(situation.observed.now)


def seconds_left(situation: Situation) -> float | None:
    """Until the job's deadline; None without one, and while the clock stands still."""
    limit, started = situation.job.spec.active_deadline_seconds, seconds(start(situation))
    if limit is None or started is None:
        return None
    return started + limit - situation.observed.now
