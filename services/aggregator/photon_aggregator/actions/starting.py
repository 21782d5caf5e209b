"""What comes before the rounds: a store that can hold a job, the first model in it, and where the job stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve_against
from photon.api.status import JobReason
from photon.protocol.owner import Owner
from photon.store import keys
from photon.store.errors import Contradiction, Unusable
from photon.store.objects import ObjectStore
from photon.store.owner import claim, require_ours
from photon_aggregator.actions import recover
from photon_aggregator.actions.past import Past
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.bucket import records
from photon_aggregator.bucket.job import JobContext, open_context
from photon_aggregator.bucket.patience import Patience
from photon_aggregator.errors import JobMismatch, ShuttingDown
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.rounds.events import Broken, Event, Recovered

logger = logging.getLogger(__name__)

INIT_POLL_SECONDS: Final = 0.25

# job.json and its digest.
Stored = tuple[LearningJob, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a start found: ``past`` is what of it is still to be read, ``event`` sets the round machine going."""

    context: JobContext
    past: Past
    event: Recovered


async def prepare(work: Callable[[], None] | None, patience: Patience) -> None:
    """Do ``work`` once the store does its part.

    Raises:
        Unusable: The store cannot hold a job; only a person can change that.
        Contradiction, ShuttingDown: As Patience.
    """
    unusable: list[Unusable] = []

    def attempt() -> list[Event]:
        try:
            if work is not None:
                work()
        except Unusable as error:
            unusable.append(error)
        return []

    await patience(attempt, "control")
    if unusable:
        raise unusable[0]


async def first_model(
    store: ObjectStore, patience: Patience, *, seconds: float, missing: Callable[[], None]
) -> Stored | None:
    """job.json and its digest, once `photon-worker init` has written the first model; None after ``seconds``.
    ``missing`` is called once it is known that there is none.

    The time in which the store is away is not time without a model. Raises Contradiction, ShuttingDown.
    """
    loop = asyncio.get_running_loop()
    found: list[Stored] = []

    def read() -> list[Event]:
        stored = recover.stored_job(store)
        if stored is not None:
            found.append(stored)
        return []

    waited, told = 0.0, False
    while True:
        began = loop.time()
        await patience(read, "control")
        if found:
            return found[0]
        if waited >= seconds:
            return None
        if not told:
            logger.info("waiting for the initial model at %s (photon-worker init)", store.uri(keys.commit(0)))
            missing()
            told = True
        await asyncio.sleep(INIT_POLL_SECONDS)
        waited += min(loop.time() - began, 2 * INIT_POLL_SECONDS)


async def begin(
    bench: Workbench,
    patience: Patience,
    prepare_store: Callable[[], None] | None,
    init_seconds: float,
    missing: Callable[[], None],
) -> Stored | Broken | None:
    """Wait for the store and the first model; Broken when they will not come, None when the process is about to exit.
    ``missing``: as ``first_model``.

    Raises:
        Unusable: The store cannot hold a job.
    """
    try:
        await prepare(prepare_store, patience)
        stored = await first_model(bench.store, patience, seconds=init_seconds, missing=missing)
    except ShuttingDown:
        return None
    except Contradiction as error:
        return Broken(at=bench.clock(), reason=JobReason.STORAGE_FAILED, message=str(error))
    if stored is not None:
        return stored
    where = bench.store.uri(keys.commit(0))
    message = f"no initial model at {where} within {init_seconds:g} s: run `photon-worker init --job JOB` first"
    return Broken(at=bench.clock(), reason=JobReason.WAITING_FOR_INIT, message=message)


def compare(job: FederatedTrainingJob, stored: Stored) -> None:
    """See whether the job file still describes the job in the bucket. Raises JobMismatch."""
    try:
        resolve_against(job, stored[0])
    except ValueError as error:
        raise JobMismatch(str(error)) from error


async def own(bench: Workbench, stored: Stored, owner: Owner, patience: Patience) -> bool:
    """See to it that bucket and prefix are the job's; one that an earlier release began has no record of that yet.
    False when the process is about to exit.

    Raises:
        PrefixTaken: The prefix is another job's.
        JobMismatch: The job file does not describe the job in the bucket.
    """

    def attempt() -> list[Event]:
        require_ours(bench.store, owner)
        compare(bench.job, stored)
        claim(bench.store, owner)
        return []

    try:
        await patience(attempt, "control")
    except ShuttingDown:
        return False
    return True


def restore(bench: Workbench, books: JobBooks, stored: Stored) -> Restored:
    """Read what the bucket says of the job, from which its rounds go on, and fill ``books`` with it. Blocking.

    Raises:
        RecordError: A record is damaged, or the chain of commits is broken.
        StoreError: The store does not answer.
    """
    learning, digest = stored
    found = recover.recover(bench.store, digest, bench.state().settings, bench.executors.requests)
    head = found.head
    context = open_context(learning, digest, bench.store, head.commit, exchange=bench.job.spec.exchange)
    written_at = records.written_at(bench.store, keys.commit(head.round))
    # From here on nothing fails, so what is read again is not counted twice.
    logger.info("round %d is committed; going on from there", head.round)
    books.restored(found.recent, found.logs, totals=found.totals, counted_before=found.counted_before)
    for number, results in found.evaluations.items():
        books.curves.evaluated(number, results)
    return Restored(
        context=context,
        past=Past(bench.store, digest, found),
        event=Recovered(
            at=bench.clock(),
            job=digest,
            head=head,
            planned=found.planned,
            first_planned_at=found.first_planned_at,
            end=found.end,
            written_at=written_at.timestamp() if written_at is not None else None,
            evaluations=found.evaluations,
            past_losses=found.past_losses,
            baseline=found.baseline,
            trail=found.recent,
        ),
    )
