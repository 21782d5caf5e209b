"""The job in the trackers that users have: a step a round, read from the commits beside the engine's work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Final

from photon.protocol.figures import LEARNING, mean_loss, perplexity
from photon.protocol.records import Commit, HeldOutResult, RoundLog
from photon.store.errors import StoreError
from photon.telemetry.trackers import Trackers
from photon_aggregator.actions import recover
from photon_aggregator.engine import Engine
from photon_aggregator.errors import ShuttingDown
from photon_aggregator.reporting.status import evaluated_round
from photon_aggregator.rounds.events import Head

logger = logging.getLogger(__name__)

Values = dict[str, float | None]
POLL_SECONDS: Final = 1.0


@contextlib.asynccontextmanager
async def tracking(engine: Engine, trackers: Trackers) -> AsyncIterator[None]:
    """Track what the engine commits, until the block ends."""
    if not trackers:
        yield
        return
    tracker = JobTracker(engine, trackers)
    following = asyncio.get_running_loop().create_task(tracker.follow())
    try:
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        tracker.track_new()
        trackers.close()


class JobTracker:
    """Goes on after the last round that was tracked; without one it begins with the first commit."""

    def __init__(self, engine: Engine, trackers: Trackers) -> None:
        self._engine = engine
        self._trackers = trackers
        self._round = trackers.last_step or 0
        self._evaluated = self._round

    async def follow(self) -> None:
        while self._engine.state.head is None:
            await self._engine.changed(POLL_SECONDS)
        await self._catch_up()
        while True:
            self.track_new()
            await self._engine.changed(POLL_SECONDS)

    async def _catch_up(self) -> None:
        """Track the rounds that are in the bucket and no longer in memory: of a job that was not tracked so far."""
        engine, store = self._engine, self._engine.store
        for number in range(self._round + 1, min(engine.books.commits, default=0)):

            def read(number: int = number) -> tuple[Head, RoundLog | None, Mapping[str, HeldOutResult]]:
                head = recover.read_commit(store, number)
                return head, recover.log_of(store, number), recover.evaluations_of(store, head)

            try:
                head, log, results = await engine.in_thread(read)
            except (StoreError, ShuttingDown) as error:
                logger.warning("rounds before %d are not tracked: %s", min(engine.books.commits), error)
                return
            self._trackers.log(number, of_commit(head.commit, log))
            if results:
                self._trackers.log(number, of_evaluation(results))
            self._round = self._evaluated = number

    def track_new(self) -> None:
        """Track every round that was committed, and every one whose evaluation is whole, since the last look."""
        books, state = self._engine.books, self._engine.state
        committed = state.head.round if state.head is not None else 0
        # The log of a round is there with its commit, or never.
        for number in range(self._round + 1, committed + 1):
            if number in books.commits:
                self._trackers.log(number, of_commit(books.commits[number].commit, books.logs.get(number)))
        self._round = max(self._round, committed)
        measured = evaluated_round(state, self._engine.clock()) or 0
        for number in range(self._evaluated + 1, measured + 1):
            if results := state.evaluations.get(number):
                self._trackers.log(number, of_evaluation(results))
        self._evaluated = max(self._evaluated, measured)


def of_commit(commit: Commit, log: RoundLog | None) -> Values:
    """What is known of a round when it is committed."""
    values: Values = {"tokens": commit.tokens, "sequential_steps": commit.sequential_steps}
    if commit.metrics is not None:
        metrics = commit.metrics
        values |= {
            **{figure.tracker: figure.of(metrics) for figure in LEARNING},
            "perplexity/train": perplexity(metrics.train_loss) if metrics.train_loss is not None else None,
        }
    for update in commit.accepted:
        name = f"participants/{update.participant}"
        values |= {
            f"{name}/loss": update.loss_mean,
            f"{name}/update_norm": update.norm,
            f"{name}/cosine_to_mean": update.cosine_to_mean,
        }
    if log is not None:
        values |= {"exchange/bytes_up": log.bytes_up, "exchange/bytes_down": log.bytes_down}
        values |= {f"seconds/{phase}": spent for phase, spent in log.seconds.items()}
    return values


def of_evaluation(results: Mapping[str, HeldOutResult]) -> Values:
    """What the evaluations of a round amount to."""
    loss = mean_loss(results.values())
    values: Values = {"loss/validation": loss, "perplexity/validation": perplexity(loss) if loss is not None else None}
    for name, result in results.items():
        own = mean_loss([result])
        values[f"participants/{name}/perplexity"] = perplexity(own) if own is not None else None
    return values
