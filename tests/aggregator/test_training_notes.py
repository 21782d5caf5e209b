"""What a worker says of a round that counts all the same: steps that it skipped, an optimizer that was fresh."""

from __future__ import annotations

import httpx
import pytest

from photon.api.placement import StorageSpec
from photon.api.status import JobStatus
from photon.protocol.messages import ACCEPTS, TRAINING_NOTES, TrainTask
from photon.store.objects import ObjectStore
from photon.telemetry import metric_names as names
from tests.aggregator.fake_worker import FakeWorker, Prepared, job_document, write_round_zero
from tests.aggregator.running import aggregator, working

pytestmark = pytest.mark.s3


def troubled(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    notes = {"skipped_steps": 2, "fresh_optimizer": True}
    metrics = prepared.manifest.metrics.model_copy(update=notes)
    worker.upload(task, prepared)
    worker.submit(task.round, prepared.manifest.model_copy(update={"metrics": metrics}))
    worker.report(task.id, "push", skipped_steps=2)
    worker.report("evaluate-00001", "evaluate")
    worker.stop.set()


def test_an_operator_sees_what_was_odd_about_an_update_that_counts(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=1, participation={"quorum": 2})
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        north, south = (FakeWorker(name, [running.url]) for name in ("north", "south"))
        north.tamper = troubled
        with working(north, south):
            running.until(lambda engine: engine.state.head is not None and engine.state.head.round == 1)
            running.until(lambda engine: engine.books.book("north").skipped_steps == 2)
            south.stop.set()
        events = {e["participant"]: e for e in running.get("/v1/events") if e["kind"] == "UpdateAccepted"}
        status = JobStatus.model_validate(running.get("/v1/status"))
        metrics = running.text("/metrics")
    assert "2 of " in events["north"]["message"]
    assert (
        "steps skipped (loss or gradient not finite), trained with a fresh inner optimizer"
        in (events["north"]["message"])
    )
    assert "skipped" not in events["south"]["message"]
    assert [person.skipped_steps for person in status.participants] == [2, 0]
    assert "skippedSteps" not in status.participants[1].model_dump(by_alias=True), "an older operator reads it"
    assert f'{names.PARTICIPANT_SKIPPED_STEPS}{{job="test",participant="north"}} 2.0' in metrics


def test_workers_are_told_that_they_may_say_so(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=1)
    write_round_zero(job, store)
    with aggregator(job, store) as running:
        worker = FakeWorker("north", [running.url])
        reply: httpx.Response = worker.request("GET", "/v1/task?wait_seconds=5")
        worker.http.close()
        assert TRAINING_NOTES in reply.headers[ACCEPTS]
