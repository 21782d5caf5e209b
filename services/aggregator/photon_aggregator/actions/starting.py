"""What comes before the rounds: a store that can hold a job, and the first model in it. Both are waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from photon.api.learning import LearningJob
from photon.store import keys
from photon.store.errors import Unusable
from photon.store.objects import ObjectStore
from photon_aggregator.actions import recover
from photon_aggregator.bucket.patience import Patience
from photon_aggregator.rounds.events import Event

logger = logging.getLogger(__name__)

INIT_POLL_SECONDS: Final = 0.25


async def prepare(work: Callable[[], None] | None, patience: Patience) -> None:
    """Do ``work`` once the store does its part.

    Raises:
        Unusable: The store cannot hold a job; only a person can change that.
        Contradiction, Stopped: As Patience.
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


async def first_model(store: ObjectStore, patience: Patience, *, seconds: float) -> tuple[LearningJob, str] | None:
    """job.json and its digest, once `photon-worker init` has written the first model; None after ``seconds``.

    The time in which the store is away is not time without a model. Raises Contradiction, Stopped.
    """
    loop = asyncio.get_running_loop()
    found: list[tuple[LearningJob, str]] = []

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
            told = True
        await asyncio.sleep(INIT_POLL_SECONDS)
        waited += min(loop.time() - began, 2 * INIT_POLL_SECONDS)
