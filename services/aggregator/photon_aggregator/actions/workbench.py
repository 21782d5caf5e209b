"""What actions work with: one value, handed to each of them whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from photon.api.job import FederatedTrainingJob
from photon.store.objects import ObjectStore
from photon.telemetry.traces import Traces
from photon_aggregator.actions.grants import Grants
from photon_aggregator.bucket.job import JobContext
from photon_aggregator.bucket.records import Retries
from photon_aggregator.executors import Executors
from photon_aggregator.faults import FaultHook
from photon_aggregator.rounds.state import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The means of one job's actions, shared by threads.

    ``clock``: seconds since the epoch. ``steady``: seconds that cannot be set, for durations. ``state``: the job's
    state at the time of the call. ``context``: None until the bucket was read. ``cancelled``: set when the process is
    about to exit.
    """

    job: FederatedTrainingJob
    store: ObjectStore
    executors: Executors
    retries: Retries
    faults: FaultHook
    clock: Callable[[], float]
    steady: Callable[[], float]
    traces: Traces
    state: Callable[[], JobState]
    context: JobContext | None = None
    grants: Grants = field(default_factory=Grants)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def opened(self) -> JobContext:
        """The context; for what runs only once the bucket was read."""
        assert self.context is not None
        return self.context
