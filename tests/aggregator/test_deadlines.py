"""Deadline, quorum and absence with a clock that the test turns, and what becomes of a job whose store is gone."""

from __future__ import annotations

import threading
from typing import Any

from photon.api.placement import StorageSpec
from photon.api.status import JobReason, JobStatus
from photon.exit_codes import EXIT_JOB_FAILED
from photon.protocol.messages import RefusalReason
from photon.store.objects import ObjectStore
from photon_aggregator.errors import JobMismatch
from photon_aggregator.faults import FaultPoint
from tests.aggregator.fake_worker import FakeWorker, Prepared, job_document, write_round_zero
from tests.aggregator.running import HandClock, aggregator, chain, working
from tests.faults import Fault, FaultProxy
from tests.opened import OpenStore


def test_the_deadline_closes_a_round_that_has_its_quorum(store: ObjectStore, storage: StorageSpec) -> None:
    clock = HandClock()
    job = job_document(
        storage,
        ["north", "south"],
        rounds=1,
        participation={"quorum": 1, "roundDeadlineSeconds": 100},
        evaluation={"everyRounds": 0},
    )
    write_round_zero(job, store)
    with aggregator(job, store, clock=clock, stop_when_done=False) as running:
        south = FakeWorker("south", [running.url])
        held: list[tuple[Any, Prepared]] = []
        late = threading.Event()

        def wait(worker: FakeWorker, task: Any, prepared: Prepared) -> None:
            worker.upload(task, prepared)
            held.append((task, prepared))
            assert late.wait(30)
            reply = worker.submit(task.round, prepared.manifest)
            assert reply.reason is RefusalReason.TOO_LATE

        south.tamper = wait
        with working(FakeWorker("north", [running.url]), south):
            running.until(lambda engine: bool(engine.state.open and engine.state.open.admissions) and bool(held))
            clock.advance(running, 99.0)
            assert south.report("train-00001", "push").cancel is False
            clock.advance(running, 1.0)
            running.until(lambda engine: engine.state.head is not None and engine.state.head.round == 1)
            assert south.report("train-00001", "push").cancel is True
            late.set()
    assert [u.participant for u in chain(store)[1].accepted] == ["north"]


def test_the_deadline_without_a_quorum_fails_the_job(store: ObjectStore, storage: StorageSpec) -> None:
    clock = HandClock()
    participation = {"roundDeadlineSeconds": 100, "whenQuorumLost": "Fail"}
    job = job_document(storage, ["north", "south"], participation=participation)
    write_round_zero(job, store)
    with aggregator(job, store, clock=clock) as running:
        worker = FakeWorker("north", [running.url])
        with working(worker):
            running.until(lambda engine: bool(engine.state.open and engine.state.open.admissions))
            clock.advance(running, 99.0)
            worker.report("train-00001", "wait")
            clock.advance(running, 1.0)
        running.wait()
        assert worker.finish is not None
        assert (worker.finish.failed, worker.finish.reason) == (True, "QuorumLost")
        assert "south (Absent, not heard since" in worker.finish.message
    assert running.code == EXIT_JOB_FAILED
    assert len(chain(store)) == 1


def test_a_failed_job_can_be_looked_at_until_the_process_is_stopped(store: ObjectStore, storage: StorageSpec) -> None:
    clock = HandClock()
    participation = {"roundDeadlineSeconds": 100, "whenQuorumLost": "Fail"}
    job = job_document(storage, ["north"], participation=participation)
    write_round_zero(job, store)
    with aggregator(job, store, clock=clock, stop_when_done=False) as running:
        running.until(lambda engine: engine.state.open is not None)
        clock.advance(running, 100.0)
        running.until(lambda engine: engine.state.outcome is not None)
        status = JobStatus.model_validate(running.get("/v1/status"))
    failed = {c.type: c for c in status.conditions}["Failed"]
    assert (failed.status, failed.reason) == ("True", "QuorumLost")
    assert "north" in failed.message
    assert running.code == EXIT_JOB_FAILED


def test_without_an_initial_model_the_job_fails_with_what_to_do(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"])
    with aggregator(job, store, init_seconds=0.5) as running:
        running.wait(20)
    assert running.code == EXIT_JOB_FAILED
    outcome = running.engine.state.outcome
    assert outcome is not None
    assert outcome.reason is JobReason.WAITING_FOR_INIT
    assert "photon-worker init" in outcome.message


def test_a_job_file_that_says_something_else_is_the_users_mistake(store: ObjectStore, storage: StorageSpec) -> None:
    write_round_zero(job_document(storage, ["north"]), store)
    other = job_document(storage, ["north"], outer={"type": "FedAvg"})
    with aggregator(other, store) as running:
        running.wait(20)
    assert isinstance(running.error, JobMismatch)
    assert "outer" in str(running.error)


def test_a_store_that_is_away_for_a_moment_is_outlived(
    s3: Any, store: ObjectStore, storage: StorageSpec, open_store: OpenStore
) -> None:
    job = job_document(storage, ["north"], rounds=2)
    write_round_zero(job, store)
    with FaultProxy(s3.endpoint) as proxy:
        flaky = open_store(storage.model_copy(update={"endpoint": proxy.endpoint}))

        points: list[FaultPoint] = []

        def trouble(point: FaultPoint) -> None:
            points.append(point)
            if points.count(FaultPoint.BEFORE_COMMIT) == 1 and point is FaultPoint.BEFORE_COMMIT:
                proxy.plan(*[Fault(status=503)] * 4, Fault(method="PUT", drop_answer=True))

        with aggregator(job, flaky, faults=trouble) as running, working(FakeWorker("north", [running.url])):
            running.wait()
    assert running.code == 0
    assert len(chain(store)) == 3
    assert points.count(FaultPoint.BEFORE_MERGE) == 2, "a merge was done again because its commit had to wait"


def test_suspend_ends_at_the_boundary_and_the_job_can_go_on(store: ObjectStore, storage: StorageSpec) -> None:
    write_round_zero(job_document(storage, ["north"]), store)
    suspended = job_document(storage, ["north"], suspend=True)
    with aggregator(suspended, store, stop_when_done=False) as running:
        worker = FakeWorker("north", [running.url])
        with working(worker):
            pass
    assert running.code == 0
    assert worker.finish is not None
    assert (worker.finish.reason, worker.finish.failed) == ("Suspended", False)
    with aggregator(job_document(storage, ["north"]), store) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    assert len(chain(store)) == 4
