"""Any process may die at any instant: the same final commit, one commit a round, nothing lost or counted twice."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from photon.api.placement import StorageSpec
from photon.api.status import JobStatus
from photon.cli.sources.aggregator import Aggregator as StatusSource
from photon.errors import NoAnswer
from photon.exit_codes import EXIT_JOB_FAILED
from photon.protocol.messages import ErrorReason, RefusalReason
from photon.protocol.records import RollbackReason
from photon.protocol.views import StatusNotRead
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.engine import Engine
from photon_aggregator.faults import FaultPoint
from photon_aggregator.rounds.opening import make_plan
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import (
    Aggregator,
    HandClock,
    KillAt,
    Killed,
    aggregator,
    chain,
    killed_and_started_again,
    last_digest,
    working,
)
from tests.faults import Fault, FaultProxy
from tests.opened import OpenStore

NAMES = ["east", "north", "south"]


def undisturbed(job: Any, store: ObjectStore, names: list[str]) -> str:
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(*[FakeWorker(name, [running.url]) for name in names]):
        running.wait()
    assert running.code == 0, running.error
    return last_digest(store)


@pytest.mark.parametrize("point", list(FaultPoint))
def test_killed_at_any_point_and_started_again_the_final_commit_is_the_same(
    point: FaultPoint, store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    job = job_document(storage, NAMES, rounds=3)
    expected = undisturbed(job, other_store("calm"), NAMES)
    write_round_zero(job, store)
    passing = {FaultPoint.BEFORE_FINISH: 1, FaultPoint.BEFORE_MANIFEST: 4, FaultPoint.AFTER_MANIFEST: 5}.get(point, 2)
    killed_and_started_again(
        job, store, KillAt(point, passing), lambda url: [FakeWorker(name, [url]) for name in NAMES]
    )
    assert last_digest(store) == expected
    assert len(chain(store)) == 4


def test_killed_again_and_again(
    store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    job = job_document(storage, NAMES, rounds=4, outer={"type": "FedYogi", "learningRate": 0.1})
    expected = undisturbed(job, other_store("calm"), NAMES)
    write_round_zero(job, store)
    running = Aggregator(job, store, faults=KillAt(FaultPoint.AFTER_PLAN))
    port, deaths = running.socket.getsockname()[1], 0
    with working(*[FakeWorker(name, [running.url]) for name in NAMES]):
        points = iter([*FaultPoint, *FaultPoint])
        while True:
            running.start().wait()
            running.close()
            if running.code == 0:
                break
            assert isinstance(running.error, Killed)
            deaths += 1
            point = next(points)
            # Past its last point nothing dies any more, so the job always ends.
            running = Aggregator(job, store, port=port, faults=KillAt(point))
    assert deaths >= len(FaultPoint) - 1
    assert last_digest(store) == expected


def test_the_order_of_arrival_does_not_matter(
    store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    digests = set()
    job = job_document(storage, NAMES, rounds=2)
    for order in (NAMES, NAMES[::-1], ["north", "south", "east"]):
        bucket = other_store("-".join(order))
        write_round_zero(job, bucket)
        arrived: list[str] = []
        wake = threading.Condition()

        def in_turn(worker: FakeWorker, task: Any, prepared: Any, order=order, arrived=arrived, wake=wake) -> None:
            with wake:
                turn = 3 * (task.round - 1) + order.index(worker.name)
                assert wake.wait_for(lambda: len(arrived) == turn or worker.stop.is_set(), 30)
            worker.upload(task, prepared)
            assert worker.submit(task.round, prepared.manifest).state == "accepted"
            with wake:
                arrived.append(worker.name)
                wake.notify_all()

        with (
            aggregator(job, bucket) as running,
            working(*[FakeWorker(name, [running.url], tamper=in_turn) for name in NAMES]),
        ):
            running.wait()
        assert arrived == order * 2
        digests.add(last_digest(bucket))
    assert len(digests) == 1


def test_two_aggregators_on_one_job_agree_on_every_round(
    store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    job = job_document(storage, NAMES, rounds=4)
    expected = undisturbed(job, other_store("calm"), NAMES)
    write_round_zero(job, store)
    quick: dict[str, Any] = {"settings": {"scan_seconds": 0.3, "absent_seconds": 3.0}}
    with aggregator(job, store, **quick) as first, aggregator(job, store, **quick) as second:
        # Every request goes to the other one in turn, except those of south, which knows only the second.
        workers = [
            FakeWorker("east", [first.url, second.url]),
            FakeWorker("north", [second.url, first.url]),
            FakeWorker("south", [second.url]),
        ]
        with working(*workers):
            first.wait()
            second.wait()
    assert [(running.code, running.error) for running in (first, second)] == [(0, None), (0, None)]
    commits = chain(store)
    assert [[u.participant for u in commit.accepted] for commit in commits[1:]] == [NAMES] * 4
    assert last_digest(store) == expected
    folders = {info.key.split("/")[3] for info in store.list("rounds/00002/global/")}
    assert len(folders) == 1


def test_two_aggregators_that_closed_a_round_differently_keep_one_commit(
    store: ObjectStore, storage: StorageSpec
) -> None:
    """Both come to the merge with other updates; both merge those of the one that was first to say so."""
    job = job_document(
        storage,
        ["north", "south"],
        rounds=1,
        participation={"quorum": 1, "graceSeconds": 0},
        evaluation={"everyRounds": 0},
    )
    write_round_zero(job, store)
    meet = threading.Barrier(2, timeout=20)

    def at_commit(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_COMMIT:
            meet.wait()

    options: dict[str, Any] = {"faults": at_commit, "settings": {"scan_seconds": 3600.0, "absent_seconds": 2.0}}
    with aggregator(job, store, **options) as first, aggregator(job, store, **options) as second:
        for running in (first, second):
            running.until(lambda engine: engine.state.open is not None and not engine.state.scanning)
        with working(FakeWorker("north", [first.url]), FakeWorker("south", [second.url])):
            first.wait()
            second.wait()
    commits = chain(store)
    assert len(commits) == 2
    assert len(commits[1].accepted) == 1
    assert first.engine.state.head == second.engine.state.head
    assert {info.key.rsplit("/", 1)[0] for info in store.list("rounds/00001/global/")} == {commits[1].folder}


@pytest.mark.parametrize("point", [FaultPoint.BEFORE_MERGE, FaultPoint.MID_MERGE, FaultPoint.BEFORE_COMMIT])
def test_a_round_closed_without_somebody_stays_so_whatever_dies_in_the_merge(
    point: FaultPoint, store: ObjectStore, storage: StorageSpec
) -> None:
    """The deadline has passed for south. It is quick to hand in once its aggregator has died and is there again."""
    clock = HandClock()
    job = job_document(
        storage,
        NAMES,
        rounds=2,
        participation={"quorum": 2, "roundDeadlineSeconds": 100},
        evaluation={"everyRounds": 0},
    )
    write_round_zero(job, store)
    first = Aggregator(job, store, clock=clock, faults=KillAt(point))
    port = first.socket.getsockname()[1]
    held, again, told = threading.Event(), threading.Event(), list[RefusalReason | None]()

    def hold(worker: FakeWorker, task: Any, prepared: Any) -> None:
        if task.round == 1:
            worker.upload(task, prepared)
            held.set()
            assert again.wait(30)
            told.append(worker.submit(task.round, prepared.manifest).reason)
        else:
            worker.upload(task, prepared)
            worker.submit(task.round, prepared.manifest)

    first.start()
    south = FakeWorker("south", [first.url], tamper=hold)
    with working(FakeWorker("east", [first.url]), FakeWorker("north", [first.url]), south):
        first.until(lambda engine: bool(engine.state.open and len(engine.state.open.admissions) == 2) and held.is_set())
        clock.advance(first, 100.0)
        first.wait()
        assert isinstance(first.error, Killed), first.error
        first.close()
        second = Aggregator(job, store, port=port, clock=clock).start()
        try:
            again.set()
            second.wait()
        finally:
            second.close()
    assert (second.code, second.error) == (0, None)
    assert [[u.participant for u in commit.accepted] for commit in chain(store)[1:]] == [["east", "north"], NAMES]
    assert told == [RefusalReason.TOO_LATE]


def test_a_decided_update_that_is_gone_from_the_bucket_is_named_and_its_round_given_up(
    store: ObjectStore, storage: StorageSpec
) -> None:
    clock = HandClock()
    job = job_document(storage, ["north"], rounds=1, participation={"roundDeadlineSeconds": 100})
    write_round_zero(job, store)
    with aggregator(job, store, clock=clock, faults=KillAt(FaultPoint.BEFORE_MERGE)) as first:
        north = FakeWorker("north", [first.url])
        with contextlib.suppress(RuntimeError), working(north):  # it says that it was stopped
            first.wait()
            north.stop.set()
    assert isinstance(first.error, Killed), first.error
    parts = [info.key for info in store.list(f"{keys.updates_folder(1)}/") if info.key.endswith(".safetensors")]
    store.delete(parts)
    with aggregator(job, store, clock=clock) as second:
        second.until(lambda engine: engine.state.head is not None and engine.state.head.round == 1)
        clock.advance(second, 1000.0)  # nobody is here to evaluate it
        second.wait()
    assert (second.error, second.code) == (None, 0)
    returned = chain(store)[1].rollback
    assert returned is not None
    assert (returned.reason, returned.offenders) == (RollbackReason.NO_QUORUM, ["north"])
    assert "0 of 1 updates can be merged; dropped: north (MissingPart)" in returned.message


def test_a_finished_job_started_again_ends_at_once_and_with_more_rounds_goes_on(
    store: ObjectStore, storage: StorageSpec
) -> None:
    names = ["north"]
    job = job_document(storage, names, rounds=2, local={"steps": 4, "batchSize": 2, "sequenceLength": 16})
    before = undisturbed(job, store, names)
    with aggregator(job, store) as again:
        again.wait(20)
    assert again.code == 0
    assert last_digest(store) == before
    longer = job_document(storage, names, rounds=3)
    with aggregator(longer, store) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    assert [commit.round for commit in chain(store)] == [0, 1, 2, 3]


def test_figures_of_past_rounds_come_back_from_the_bucket(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=2)
    undisturbed(job, store, ["north", "south"])
    with aggregator(job, store, stop_when_done=False) as running:
        running.until(lambda engine: engine.state.outcome is not None)
        status = running.get("/v1/status")
        history = running.get("/v1/history")
    assert status["bytesUp"] > 0
    assert status["evaluatedRound"] == 2
    assert [person["tokens"] for person in status["participants"]] == [256, 256]
    assert [entry["commit"]["round"] for entry in history] == [0, 1, 2]
    assert history[2]["log"]["participants"]["north"]["outcome"] == "Accepted"
    assert len(history[2]["evaluations"]) == 2


def test_no_status_of_a_restart_goes_back_behind_what_is_committed(
    store: ObjectStore, storage: StorageSpec, s3: Any, open_store: OpenStore
) -> None:
    """The store is away while the aggregator starts: it says so, and gives no figures before it has read them."""
    undisturbed(job_document(storage, ["north"], rounds=3), store, ["north"])
    longer = job_document(storage, ["north"], rounds=5)
    with FaultProxy(s3.endpoint) as proxy:
        gone = open_store(storage.model_copy(update={"endpoint": proxy.endpoint}))
        proxy.plan(*[Fault(status=503)] * 10_000)
        with aggregator(longer, gone, stop_when_done=False) as running:
            running.until(lambda engine: engine.state.away is not None, 60)
            for path in ("/v1/status", "/v1/live"):
                reply = httpx.get(f"{running.url}{path}", trust_env=False)
                assert reply.status_code == 503
                told = StatusNotRead.model_validate_json(reply.content)
                assert told.error.reason is ErrorReason.NOT_READY
                assert (told.conditions[0].type, told.conditions[0].reason) == ("Running", "StorageUnreachable")
            with pytest.raises(NoAnswer, match=r"not been read yet.*\(StorageUnreachable: "):
                StatusSource(running.url).fetch()
            assert not re.search(
                r"^photon_(round|committed_rounds|tokens|sequential_steps)(_total)?\{", running.text("/metrics"), re.M
            )
            proxy.heal()
            seen = []
            while not seen:
                reply = httpx.get(f"{running.url}/v1/status", trust_env=False)
                assert reply.status_code in (200, 503)
                seen += [JobStatus.model_validate_json(reply.content)] if reply.status_code == 200 else []
            assert (seen[0].round, seen[0].committed_rounds, seen[0].conditions[0].reason) == (4, 3, "Training")
            assert re.search(r"^photon_round\{.*\} 4.0$", running.text("/metrics"), re.M)


def test_a_broken_chain_is_found_and_named(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=2)
    undisturbed(job, store, ["north"])
    data = store.get(keys.commit(1))
    store.put(keys.commit(1), data.replace(b'"tokens":128', b'"tokens":129', 1))
    with aggregator(job, store) as running:
        running.wait()
    assert running.code == EXIT_JOB_FAILED
    outcome = running.engine.state.outcome
    assert outcome is not None
    assert "rounds/00002/commit.json does not follow" in outcome.message


def test_a_foreign_plan_in_the_bucket_is_not_followed(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=2)
    write_round_zero(job, store)

    def planned(engine: Engine) -> bool:
        return engine.state.open is not None

    with aggregator(job, store, stop_when_done=False) as running:
        running.until(planned)
        plan = make_plan(running.engine.state)
    store.put(keys.plan(1), plan.model_copy(update={"base": "0" * 64}).model_dump_json(by_alias=True).encode())
    with aggregator(job, store) as running:
        running.wait()
    assert running.code == EXIT_JOB_FAILED
