"""Queues (Kueue): whether enough of a job is admitted for a round, and Jobs whose queue the job has left.

Each child Job is one unit of the queue: all nodes of a participant, or none. Kueue admits a Job by taking back its
``spec.suspend``, and sets it again when it preempts the Job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from photon_operator.children import names
from photon_operator.decide.observed import ObservedJob
from photon_operator.decide.situation import Situation

# A job that is to be suspended waits this long for its aggregator to be admitted and end the round.
ADMISSION_SECONDS: Final = 60.0


def quorum_admitted(situation: Situation) -> bool:
    """Whether a round can have its quorum without the participants that queues hold."""
    held = sum(work is not None and work.suspended for work in situation.workers.values())
    return held == 0 or len(situation.job.spec.participants) - held >= situation.job.spec.quorum


def holds(situation: Situation) -> bool:
    """Whether a queue holds so much of a job that it cannot go on: init, its aggregator, or a quorum."""
    single = (situation.init, situation.aggregator)
    return any(work is not None and work.suspended for work in single) or not quorum_admitted(situation)


def left(work: ObservedJob, body: Mapping[str, Any]) -> bool:
    """Whether a Job waits in a queue, or at a priority, that the job no longer names. Nothing is lost with it: a Job
    that waits has no pods."""
    return work.suspended and not work.deleting and _differs(work, body)


def kept(situation: Situation) -> str:
    """What to say of Jobs that were admitted by another queue than the one that the job names now; empty if none."""
    children = situation.children
    pairs = [(situation.aggregator, children.aggregator)]
    pairs += [(work, children.workers[name]) for name, work in situation.workers.items()]
    moved = sorted(
        work.name
        for work, body in pairs
        if work is not None and not work.ended and not work.deleting and not work.suspended and _differs(work, body)
    )
    if not moved:
        return ""
    return (
        f"the changed queue or priority holds for later Jobs, not for {', '.join(moved)}: to move, suspend and resume"
    )


def _differs(work: ObservedJob, body: Mapping[str, Any]) -> bool:
    metadata, wanted = work.job["metadata"], body["metadata"]
    made_for = (metadata.get("annotations") or {}).get(names.QUEUE)
    if made_for is None:
        # Of an earlier release, or queued by Kueue's own default, which has no part in what the job says.
        has = (metadata.get("labels") or {}).get(names.KUEUE_QUEUE)
        asked = wanted["labels"].get(names.KUEUE_QUEUE)
        return has is not None and asked is not None and has != asked
    return bool(made_for != wanted["annotations"].get(names.QUEUE))
