"""What a job waits for, however long: its store, its quorum. Waiting ends by itself when its cause ends."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from photon.api.participation import WhenQuorumLost
from photon.api.placement import RetentionSpec, StorageSpec
from photon.api.status import JobReason
from photon.exit_codes import EXIT_SUPERSEDED
from photon.protocol.canonical import digest
from photon.protocol.messages import Progress, RefusalReason
from photon.protocol.views import Stage
from photon.store.errors import StorageFull
from photon.store.objects import ObjectStore
from photon_aggregator.faults import FaultPoint
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.reporting.status import Conditions
from photon_aggregator.rounds.events import (
    Evaluated,
    Finish,
    Heartbeat,
    ManifestFound,
    Merge,
    StorageAway,
    StorageBack,
    Tick,
    UpdateRefused,
)
from photon_aggregator.rounds.machine import next_wake
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.machine import Machine, manifest, result, settings, train_round
from tests.aggregator.running import HandClock, aggregator, chain, working
from tests.faults import Fault, FaultProxy
from tests.opened import OpenStore

AWAY = Fault(status=503)
DENIED = Fault(status=403, body="<Error><Code>AccessDenied</Code><Message>rotated</Message></Error>")


def chain_of_commits(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list("rounds/") if info.key.endswith("/commit.json")]


def reason(machine: Machine, books: JobBooks | None = None) -> tuple[str, str]:
    condition = Conditions().of(machine.state, books or JobBooks(()), machine.at)[0]
    assert (condition.type, condition.status) == ("Running", "True")
    return condition.reason, condition.message


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(WhenQuorumLost))
def test_no_time_runs_out_while_the_store_is_away(policy: WhenQuorumLost) -> None:
    machine = Machine(settings(quorum=2, grace_seconds=10.0, when_quorum_lost=policy))
    plan = machine.opened()
    machine.admit("east", plan)
    machine.at = 1050.0
    machine.send(StorageAway(at=machine.at, reason=JobReason.STORAGE_UNREACHABLE, message="no object store answers"))
    assert reason(machine)[0] == "StorageUnreachable"
    assert "no object store answers (since 1970-01-01T00:17:30Z" in reason(machine)[1]
    machine.at = 90_000.0
    machine.send(Tick(at=machine.at))
    assert (machine.stage, machine.count(Merge), machine.count(Finish)) == (Stage.TRAIN, 0, 0)
    wake = next_wake(machine.state)
    assert wake is None or wake > 1100 or machine.state.scanning is False
    machine.send(StorageBack(at=machine.at))
    assert reason(machine)[0] == "Training"
    assert machine.state.open is not None
    assert machine.state.deadline(machine.state.open) == 90_050.0
    assert machine.notes().count("StorageAway") == machine.notes().count("StorageBack") == 1


@pytest.mark.parametrize(("fault", "named"), [(AWAY, "StorageUnreachable"), (DENIED, "StorageRefused")])
@pytest.mark.parametrize("point", [FaultPoint.BEFORE_PLAN, FaultPoint.BEFORE_MANIFEST, FaultPoint.BEFORE_COMMIT])
def test_a_store_that_is_away_keeps_the_job_waiting_and_it_goes_on_by_itself(
    point: FaultPoint,
    fault: Fault,
    named: str,
    store: ObjectStore,
    storage: StorageSpec,
    s3: Any,
    open_store: OpenStore,
) -> None:
    job = job_document(storage, ["north"], rounds=2)
    write_round_zero(job, store)
    with FaultProxy(s3.endpoint) as proxy:
        gone = open_store(storage.model_copy(update={"endpoint": proxy.endpoint}))
        passed: list[FaultPoint] = []

        def cut(at: FaultPoint) -> None:
            if at is point and point not in passed:
                proxy.plan(*[fault] * 10_000)
            passed.append(at)

        with aggregator(job, gone, faults=cut) as running:
            worker = FakeWorker("north", [running.url])
            with working(worker):
                running.until(lambda engine: engine.state.away is not None, 60)
                status = running.get("/v1/status")["conditions"][0]
                assert (status["type"], status["status"], status["reason"]) == ("Running", "True", named)
                assert worker.finish is None
                proxy.heal()
                running.wait()
    assert (running.code, running.error) == (0, None)
    assert worker.finish is not None
    assert not worker.finish.failed
    assert len(chain(store)) == 3


def test_chores_that_cannot_be_done_keep_nothing_waiting_and_are_done_after_the_next_round(
    store: ObjectStore, storage: StorageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_document(storage.model_copy(update={"retention": RetentionSpec(keep_last_rounds=1)}), ["north"], rounds=4)
    write_round_zero(job, store)
    put, delete, full = store.put, store.delete, [True]

    def no_room(key: str, *arguments: Any, **named: Any) -> Any:
        if full[0] and ("/log.json" in key or "events" in key):
            raise StorageFull("storage is full")
        return put(key, *arguments, **named)

    def no_delete(keys: Any) -> None:
        if full[0]:
            raise StorageFull("storage is full")
        delete(keys)

    monkeypatch.setattr(store, "put", no_room)
    monkeypatch.setattr(store, "delete", no_delete)

    def free(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_COMMIT and running.engine.state.head and running.engine.state.head.round == 2:
            full[0] = False

    with aggregator(job, store, faults=free) as running, working(FakeWorker("north", [running.url])):
        running.wait()
        failures = running.engine.chore_failures
    assert running.code == 0
    assert failures["log"]
    assert failures["prune"]
    assert [f"rounds/0000{n}/log.json" for n in (1, 2, 3, 4)] == [
        key for n in (1, 2, 3, 4) for key in [f"rounds/0000{n}/log.json"] if store.head(key) is not None
    ]
    kept = {info.key.split("/")[1] for info in store.list("rounds/") if "/global/" in info.key}
    assert kept == {"00004"}


# --- the quorum -------------------------------------------------------------------------------------------------------


def test_a_round_without_its_quorum_stays_open_and_closes_at_the_first_moment_the_quorum_is_there() -> None:
    machine = Machine(settings(quorum=2))
    plan = machine.opened()
    machine.admit("east", plan)
    machine.present("east")
    machine.at = 1100.0
    machine.send(Tick(at=machine.at))
    assert machine.stage is Stage.TRAIN
    assert reason(machine)[0] == "WaitingForQuorum"
    assert "round 1 has 1 of the 2 updates of its quorum" in reason(machine)[1]
    assert reason(machine)[1].endswith(
        "missing: north (Absent, not heard since the aggregator started), "
        "south (Absent, not heard since the aggregator started)"
    )
    machine.at = 1_000_000.0
    machine.send(Tick(at=machine.at))
    machine.send(Tick(at=machine.at))
    assert (machine.stage, machine.notes().count("WaitingForQuorum")) == (Stage.TRAIN, 1)
    wake = next_wake(machine.state)
    assert wake is None or wake > machine.at or not machine.state.scanning
    machine.admit("south", plan)
    assert machine.stage is Stage.MERGE
    assert [one.participant for one in machine.last(Merge).admissions] == ["east", "south"]


def test_a_round_that_waits_says_what_each_missing_participant_is_doing() -> None:
    names = ("east", "gone", "idle", "north", "pull", "refused", "south", "west")
    machine, books = Machine(settings(names, quorum=8, rounds=9)), JobBooks(names)
    machine.recovered()
    train_round(machine, names)
    plan = machine.planned()
    machine.send(Evaluated(at=machine.at, round=1, participant="idle", result=result(1.0)))
    machine.admit("east", plan)
    machine.submit("refused", plan)
    refused = digest(manifest("refused", plan))
    why = RefusalReason.NOT_FINITE
    machine.send(
        UpdateRefused(at=machine.at, round=2, participant="refused", digest=refused, reason=why, message="NaN")
    )
    machine.send(Heartbeat(at=machine.at, participant="gone"))
    machine.at = 9000.0
    machine.send(Tick(at=machine.at))
    for name in names[2:]:
        machine.send(Heartbeat(at=machine.at, participant=name))
    books.reported("north", Progress(task_id="train-00002", phase="train", step=3))
    books.reported("pull", Progress(task_id="train-00002", phase="pull"))
    books.reported("west", Progress(task_id="train-00002", phase="push"))
    assert reason(machine, books) == (
        "WaitingForQuorum",
        "round 2 has 1 of the 8 updates of its quorum and participation.roundDeadlineSeconds (100 s) is over; missing: "
        "gone (Absent since 1970-01-01T00:16:40Z), idle (Idle), north (Training, step 3 of 4), pull (Downloading), "
        "refused (Refused: NotFinite), south (Evaluating), west (Uploading)",
    )


def test_of_a_large_cohort_the_first_that_are_missing_are_named() -> None:
    machine = Machine(settings([f"site-{number:03}" for number in range(100)]))
    machine.opened()
    machine.at = 5000.0
    machine.send(Tick(at=machine.at))
    assert reason(machine)[1].endswith("site-011 (Absent, not heard since the aggregator started), and 88 more")


def test_what_another_aggregator_admitted_counts_before_the_quorum_is_lost() -> None:
    machine = Machine(settings(("east", "north"), quorum=2, when_quorum_lost=WhenQuorumLost.FAIL))
    plan = machine.opened()
    machine.admit("east", plan)
    machine.at = 1101.0
    machine.send(Tick(at=machine.at))
    record = manifest("north", plan)
    machine.send(ManifestFound(at=machine.at, round=1, participant="north", manifest=record, digest=digest(record)))
    machine.send(Tick(at=machine.at + 5))
    assert machine.count(Finish) == 0, "an update is being checked"
    machine.admit("north", plan)
    assert (machine.stage, machine.count(Finish)) == (Stage.MERGE, 0)


def test_a_participant_that_comes_back_after_the_deadline_lets_the_job_go_on(
    store: ObjectStore, storage: StorageSpec
) -> None:
    clock = HandClock()
    job = job_document(storage, ["north", "south"], rounds=2, participation={"roundDeadlineSeconds": 100})
    write_round_zero(job, store)
    with aggregator(job, store, clock=clock) as running, working(FakeWorker("north", [running.url])):
        running.until(lambda engine: bool(engine.state.open and engine.state.open.admissions))
        clock.advance(running, 100_000.0)
        running.until(lambda engine: engine.state.open is not None and engine.state.open.overdue)
        condition = running.get("/v1/status")["conditions"][0]
        assert (condition["status"], condition["reason"]) == ("True", "WaitingForQuorum")
        assert "missing: south (Absent, not heard since" in condition["message"]
        with working(FakeWorker("south", [running.url])):
            running.wait()
    assert running.code == 0
    assert [len(commit.accepted) for commit in chain(store)[1:]] == [2, 2]


# --- another aggregator -----------------------------------------------------------------------------------------------


def test_an_aggregator_that_was_overtaken_in_its_merge_tells_nobody_that_the_job_failed(
    store: ObjectStore, storage: StorageSpec
) -> None:
    """The other one goes on to the end and deletes what the first was about to merge from."""
    kept = storage.model_copy(update={"retention": RetentionSpec(keep_last_rounds=1)})
    job = job_document(kept, ["north"], rounds=3)
    write_round_zero(job, store)
    merging, overtaken = threading.Event(), threading.Event()

    def pause(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_MERGE:
            merging.set()
            assert overtaken.wait(90)

    def after_the_first(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_MERGE:
            assert merging.wait(60)

    quick: dict[str, Any] = {"settings": {"scan_seconds": 0.5}}
    with (
        aggregator(job, store, faults=pause, **quick) as first,
        aggregator(job, store, faults=after_the_first, **quick) as second,
    ):
        with working(FakeWorker("north", [second.url])):
            second.wait()
        assert second.code == 0
        overtaken.set()
        first.wait()
    assert first.error is None
    assert first.engine.state.outcome is not None
    assert not first.engine.state.outcome.failed, first.engine.state.outcome
    assert first.code in (0, EXIT_SUPERSEDED)
    assert len(chain_of_commits(store)) == 4
