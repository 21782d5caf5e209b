"""Checks of large updates take minutes: meanwhile everybody else is served, and the aggregator is ready."""

from __future__ import annotations

import threading

import httpx

from photon.api.placement import StorageSpec
from photon.protocol.messages import PartsReply, PartsRequest, TrainTask
from photon.store.objects import ObjectStore
from photon_aggregator.executors import ADMISSION_THREADS, CONTROL_THREADS
from photon_aggregator.faults import FaultPoint
from photon_aggregator.rounds.state import CheckState
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import aggregator, working


def test_who_asks_where_to_upload_need_not_wait_for_the_checks_of_others(
    store: ObjectStore, storage: StorageSpec
) -> None:
    quick = [f"site-{number:02d}" for number in range(max(CONTROL_THREADS, ADMISSION_THREADS))]
    job = job_document(storage, [*quick, "slow"], rounds=1)
    write_round_zero(job, store)
    released = threading.Event()

    def hold(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_MANIFEST:
            assert released.wait(60)

    with aggregator(job, store, faults=hold) as running:
        last = FakeWorker("slow", [running.url], patience=1)
        with working(*(FakeWorker(name, [running.url]) for name in quick)):
            try:
                running.until(lambda engine: being_checked(engine.state) == len(quick), seconds=60)
                with httpx.Client(trust_env=False, timeout=10) as client:
                    assert client.get(f"{running.url}/readyz").status_code == 200
                    assert client.get(f"{running.url}/v1/status").status_code == 200
                last.learning, last.job_digest = last.job().learning, running.engine.state.settings.job
                task = last.next_task(None)
                assert isinstance(task, TrainTask)
                ask = PartsRequest(plan=task.plan, parts=last.prepare(task).records)
                answer = last.post(f"/v1/rounds/{task.round}/parts", ask)
                assert len(PartsReply.model_validate_json(answer.content).uploads) == len(ask.parts)
                assert being_checked(running.engine.state) == len(quick)
            finally:
                released.set()
            last.patience = 400
            last.run()
        running.wait()
    assert (running.code, running.error) == (0, None)


def being_checked(state: object) -> int:
    open_round = state.open  # type: ignore[attr-defined]
    return sum(one.check is CheckState.CHECKING for one in open_round.submissions.values()) if open_round else 0
