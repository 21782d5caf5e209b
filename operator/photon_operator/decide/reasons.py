"""States and reasons: which of them become events and warnings, and with which fixed messages.

photon.api.status has the reasons themselves. One that is named in no group here is a warning at the participant or the
job whenever it is new, if it is a ClusterReason, and nothing but a condition if it is a JobReason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from photon.api.status import ClusterReason, ConditionType, JobReason

# The job has ended; only an edit of what rounds depend on starts it again.
FINISHED: Final = (ConditionType.COMPLETE, ConditionType.FAILED)
# It is not known yet how it will end.
UNDECIDED: Final = (ConditionType.PENDING, ConditionType.RUNNING)

# These follow each other every round: one event stands for all of them.
AT_WORK: Final = frozenset({JobReason.WAITING_FOR_INIT, JobReason.TRAINING, JobReason.MERGING, JobReason.EVALUATING})
# Reasons of the cluster that are as they should be: an event of type Normal.
EXPECTED: Final = frozenset({ClusterReason.STARTING, ClusterReason.QUEUED, ClusterReason.SUSPENDING})
# Reasons of the aggregator for which a running job makes no progress: an event of type Warning.
STALLED: Final = frozenset({JobReason.WAITING_FOR_QUORUM, JobReason.STORAGE_REFUSED})
WARNINGS: Final = frozenset(reason.value for reason in {*ClusterReason, *STALLED} - EXPECTED)

# The reasons that the operator finds; a participant's other reasons are its aggregator's.
CLUSTER_REASONS: Final = frozenset(reason.value for reason in ClusterReason)
# How grave a reason is: the enumeration begins with what time may heal.
GRAVITY: Final[Mapping[str, int]] = {reason.value: number for number, reason in enumerate(ClusterReason)}

# The message of an event where the condition has none of its own.
EVENT_MESSAGES: Final[Mapping[str, str]] = {
    ConditionType.PENDING.value: "the job is being started",
    ConditionType.RUNNING.value: "the aggregator runs rounds",
    ConditionType.COMPLETE.value: "the job has ended well",
    ConditionType.FAILED.value: "the job has failed",
    ConditionType.SUSPENDED.value: "the job is suspended",
}

# WaitingForInit: the Job that makes the initial model has not completed.
MAKING_MODEL: Final = "the initial model is being made"
# Whose failure it is when that Job fails.
INIT: Final = "making the initial model"
# Training: the aggregator is ready, but has not answered for UNHEARD_SECONDS.
UNREAD: Final = "the aggregator is ready, but the operator cannot read its status"
# Starting, in this order: no worker runs yet, so there is no aggregator; its pod does not run; it has not answered.
NO_WORKER: Final = "waiting for the first worker to run"
NO_AGGREGATOR_POD: Final = "the aggregator is being started"
NO_ANSWER: Final = "waiting for the aggregator's first answer"
# Of a job that has ended: what follows its message when an edit cannot be.
NOT_APPLIED: Final = "; the last edit is not applied: "
# Starting: children of a deleted job of the same name are still there.
FORMER: Final = "waiting until what belongs to a deleted job of this name is removed"
