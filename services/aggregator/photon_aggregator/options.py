"""What programs and tests set differently for an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from photon.protocol.owner import Owner
from photon.telemetry.traces import Traces
from photon_aggregator.bucket.records import RETRY_PAUSES_SECONDS
from photon_aggregator.faults import FaultHook, no_fault

INIT_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine measures time, waits and fails.

    ``clock``: seconds since the epoch. ``steady``: seconds that cannot be set; without it the clock is trusted.
    ``owner``: whose the prefix must be; by default the job's as its document names it. ``prepare``: what must succeed
    before the bucket is read; it is waited for like all else that the store has to do.
    """

    clock: Callable[[], float]
    steady: Callable[[], float] | None = None
    owner: Owner | None = None
    prepare: Callable[[], None] | None = None
    faults: FaultHook = no_fault
    init_seconds: float = INIT_SECONDS
    retry_pauses: tuple[float, ...] = RETRY_PAUSES_SECONDS
    traces: Traces = field(default_factory=Traces)
