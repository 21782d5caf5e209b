"""The conditions by which Flux, Argo CD and ``kubectl`` plugins know any object: Ready, Reconciling, Stalled.

They follow from the one condition of the job that holds, and come after it: a client that looks for the first that is
true finds the job's own. A job is ready when it is as its document says: it trains, is suspended, or has ended well.

Source: https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus. Reconciling and Stalled are there only
while they are true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from photon.api.status import ClusterReason, Condition, ConditionType

READY: Final = "Ready"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"


def readiness(holds: Condition, before: Sequence[Condition], stamp: str) -> list[Condition]:
    """What follows from ``holds``. ``before``: all conditions until now; ``stamp``: the time."""
    # A job with an edit that cannot be goes on as before: it is not as its document says, and will not be.
    stalled = holds.type == ConditionType.FAILED or holds.reason == ClusterReason.INVALID_SPEC
    waits = holds.type == ConditionType.PENDING and not stalled
    values = {READY: "False" if stalled or waits else "True"}
    values |= {RECONCILING: "True"} if waits else {}
    values |= {STALLED: "True"} if stalled else {}
    return [_condition(kind, value, holds, before, stamp) for kind, value in values.items()]


def _condition(kind: str, value: str, holds: Condition, before: Sequence[Condition], stamp: str) -> Condition:
    known = next((c for c in before if c.type == kind and c.status == value), None)
    return holds.model_copy(
        update={
            "type": kind,
            "status": value,
            "last_transition_time": known.last_transition_time if known is not None else stamp,
        }
    )
