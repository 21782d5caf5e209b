"""What status, metrics and page read of a running job. The engine is one; reporting knows no more of it than this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from photon.api.job import FederatedTrainingJob
from photon_aggregator.bucket.job import JobContext
from photon_aggregator.bucket.records import Retries
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.rounds.state import JobState


class View(Protocol):
    """A job as its process knows it now.

    ``clock``: seconds since the epoch. ``context``: None until the bucket was read. ``chore_failures``: how often each
    kind of housekeeping had to be done again.
    """

    @property
    def job(self) -> FederatedTrainingJob: ...

    @property
    def state(self) -> JobState: ...

    @property
    def books(self) -> JobBooks: ...

    @property
    def clock(self) -> Callable[[], float]: ...

    @property
    def context(self) -> JobContext | None: ...

    @property
    def retries(self) -> Retries: ...

    @property
    def chore_failures(self) -> Mapping[str, int]: ...
