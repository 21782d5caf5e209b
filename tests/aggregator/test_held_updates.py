"""Updates that wait for their verdict: with N of them a round costs N events and N wake-ups, not N for each change."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from photon.api.placement import StorageSpec
from photon.api.status import JobReason
from photon.store.objects import ObjectStore
from photon_aggregator.faults import FaultPoint
from photon_aggregator.rounds.events import Event, StorageAway, StorageBack, Submitted
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import Aggregator, working

NAMES = [f"site-{number:02}" for number in range(10)]


def test_a_held_update_is_handed_in_once_whatever_happens_meanwhile(store: ObjectStore, storage: StorageSpec) -> None:
    checks = threading.Event()

    def hold(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_MANIFEST:
            assert checks.wait(30)

    job = job_document(storage, NAMES, rounds=1)
    write_round_zero(job, store)
    running = Aggregator(job, store, faults=hold).start()
    said: Counter[type] = Counter()
    woken: Counter[str] = Counter()
    engine = running.engine
    send, changed = engine.send, engine.changed

    def counted(event: Event) -> None:
        said[type(event)] += 1
        send(event)

    async def waited(timeout_seconds: float, participant: str | None = None) -> None:
        await changed(timeout_seconds, participant)
        if participant is not None and not checks.is_set():
            woken["before"] += 1
        elif participant is not None and engine.state.open is not None:
            woken["by verdicts"] += 1

    def everything_changes() -> None:
        for _ in NAMES:
            send(StorageAway(at=engine.clock(), reason=JobReason.STORAGE_UNREACHABLE, message="away"))
            send(StorageBack(at=engine.clock()))

    replaced: Any = engine
    replaced.send, replaced.changed = counted, waited
    try:
        with working(*(FakeWorker(name, [running.url]) for name in NAMES)):
            running.until(lambda e: e.state.open is not None and len(e.state.open.submissions) == len(NAMES))
            running.loop.call_soon_threadsafe(everything_changes)
            running.until(lambda e: any(r.kind.value == "StorageBack" for r in e.books.events()))
            checks.set()
            running.wait()
    finally:
        checks.set()
        running.close()
    assert running.code == 0, running.error
    assert said[Submitted] == len(NAMES), said
    assert woken["by verdicts"] <= 2 * len(NAMES), "one verdict wakes one request, not all that are held"
