"""A rollback makes an earlier round's model the head again: the chain stays one, and every process follows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from photon.api.participation import PlateauSpec, StopSpec
from photon.api.placement import StorageSpec
from photon.exit_codes import EXIT_JOB_FAILED
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.records import Commit, Plan, RollbackReason
from photon.protocol.rollback import ROUNDS_AFTER, origin, problem, rollback_commit
from photon.protocol.views import EventKind, Stage
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions.rollback import check
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.faults import FaultPoint
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.reporting.status import Conditions, participant_state
from photon_aggregator.rounds import rollback, stopping
from photon_aggregator.rounds.events import Committed, Head
from photon_aggregator.rounds.opening import make_plan
from photon_aggregator.rounds.state import JobState
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.machine import NAMES as PEOPLE
from tests.aggregator.machine import Machine, head, result, settings, train_round
from tests.aggregator.running import KillAt, aggregator, chain, killed_and_started_again, last_digest, working

NAMES = ["east", "north", "south"]


def returned(last: Head, target: Head, **fields: Any) -> Head:
    """The rollback of ``last`` to ``target``."""
    arguments = {"reason": RollbackReason.OPERATOR, **fields}
    record = rollback_commit(last.commit, last.digest, target.commit, target.digest, **arguments)
    return Head(commit=record, digest=digest(record))


def heads(count: int) -> list[Head]:
    """The first ``count`` commits of a chain."""
    found = [head()]
    while len(found) < count:
        last = found[-1]
        record = head(last.round + 1, tokens=last.commit.tokens + 100).commit.model_copy(
            update={"previous": last.digest}
        )
        found.append(Head(commit=record, digest=digest(record)))
    return found


# --- pure -------------------------------------------------------------------------------------------------------------


def test_a_rollback_takes_over_the_model_and_keeps_counting() -> None:
    trail = heads(6)
    back = returned(trail[5], trail[2], message="bad data", offenders=["b", "a"], quarantine=["b"])
    commit = back.commit
    assert (commit.round, commit.previous, commit.plan, commit.accepted) == (6, trail[5].digest, None, [])
    assert (commit.folder, commit.outer_steps, commit.sequential_steps) == ("folder-2", 2, 8)
    assert commit.tokens == trail[5].commit.tokens
    assert commit.rollback is not None
    assert commit.rollback.offenders == ["a", "b"]
    assert commit.quarantine == {"b": 6 + ROUNDS_AFTER}
    assert problem(commit, trail[2].commit, trail[2].digest) is None
    assert Commit.model_validate_json(canonical_json(commit)) == commit
    assert origin({h.round: h.commit for h in [*trail, back]}, 6) == trail[2].commit


def test_records_without_a_rollback_keep_their_bytes() -> None:
    text = canonical_json(head(1).commit) + canonical_json(make_plan(opened_state()))
    for word in (b"rollback", b"quarantine", b"outerScale", b"since", b"leftOut"):
        assert word not in text


def opened_state() -> JobState:
    machine = Machine(settings(PEOPLE))
    machine.opened()
    return machine.state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folder": "elsewhere"}, "folder"),
        ({"outer_steps": 9}, "outer_steps"),
        ({"sequential_steps": 1}, "sequential_steps"),
    ],
)
def test_a_rollback_that_says_something_else_than_its_target_is_found(change: dict[str, Any], words: str) -> None:
    trail = heads(4)
    commit = returned(trail[3], trail[1]).commit.model_copy(update=change)
    found = problem(commit, trail[1].commit, trail[1].digest)
    assert found is not None
    assert words in found
    assert "another commit" in (problem(returned(trail[3], trail[1]).commit, trail[1].commit, "f" * 64) or "")


def test_the_lineage_leaves_out_what_was_given_up() -> None:
    trail = heads(6)
    back = returned(trail[5], trail[2])
    after = head(7).commit.model_copy(update={"previous": back.digest})
    whole = [*trail, back, Head(commit=after, digest=digest(after))]
    assert [h.round for h in rollback.lineage(whole)] == [0, 1, 2, 7]
    assert rollback.abandoned(whole) == {3, 4, 5}
    again = returned(whole[-1], back)
    assert [h.round for h in rollback.lineage([*whole, again])] == [0, 1, 2], "a rollback to a rollback"


def test_who_is_in_quarantine_is_left_out_of_the_plans_of_three_rounds() -> None:
    machine = Machine(settings(PEOPLE, rounds=20))
    trail = heads(3)
    back = returned(trail[2], trail[1], quarantine=["north"], outer_scale=0.5)
    machine.recovered(back, trail=(*trail, back))
    plans: list[Plan] = []
    for _ in range(4):
        plan = machine.planned()
        plans.append(plan)
        for name in plan.cohort:
            machine.admit(name, plan)
        machine.commit()
    assert [plan.cohort for plan in plans] == [["east", "south"]] * 3 + [list(PEOPLE)]
    assert [dict(plan.left_out) for plan in plans] == [{"north": "Quarantined"}] * 3 + [{}]
    assert [plan.outer_scale for plan in plans] == [0.5] * 3 + [None]
    assert all(plan.participants == list(PEOPLE) for plan in plans)


def test_a_quarantine_of_everybody_leaves_nobody_out() -> None:
    trail = heads(2)
    assert rollback.quarantined([returned(trail[1], trail[0], quarantine=PEOPLE)], 3, PEOPLE) == frozenset()


@pytest.mark.parametrize("stage", [Stage.PLAN, Stage.TRAIN, Stage.MERGE, Stage.EVALUATE])
def test_a_rollback_by_somebody_else_is_adopted_at_any_stage(stage: Stage) -> None:
    waits = StopSpec(target_perplexity=1.1) if stage is Stage.EVALUATE else StopSpec()
    machine = Machine(settings(PEOPLE, rounds=9, stop=waits))
    machine.recovered()
    machine.present(*PEOPLE)
    train_round(machine)
    if stage in (Stage.TRAIN, Stage.MERGE):
        plan = machine.planned()
        for name in PEOPLE if stage is Stage.MERGE else PEOPLE[:1]:
            machine.admit(name, plan)
    assert machine.stage is stage
    trail = machine.state.trail
    back = returned(trail[-1], trail[0])
    machine.send(Committed(at=1000.0, commit=back.commit, digest=back.digest))
    assert machine.state.head == back
    assert machine.notes()[-1] == EventKind.ROLLED_BACK.value
    if stage is not Stage.EVALUATE:
        assert machine.planned().first_step == 0
        assert machine.state.open is not None
        assert machine.state.open.plan.base == back.digest


def test_status_says_that_the_model_is_an_earlier_one_and_who_is_left_out() -> None:
    machine = Machine(settings(PEOPLE, rounds=20))
    trail = heads(5)
    back = returned(trail[4], trail[2], message="the loss rose", quarantine=["north"])
    machine.recovered(back, trail=(*trail, back))
    machine.planned()
    state = machine.state
    running = Conditions().of(state, JobBooks(()), 1000.0)[0]
    assert (running.type, running.status) == ("Running", "True")
    assert "rolled back in round 5 to the model of round 2 (Operator: the loss rose)" in running.message
    _, *why = participant_state(state, JobBooks(PEOPLE).book("north"), "north", 1000.0)
    assert why == ["Quarantined", "left out of round 6"]


def test_evaluations_of_rounds_that_were_given_up_do_not_end_the_job() -> None:
    stop = StopSpec(plateau=PlateauSpec(evaluations=2))
    machine = Machine(settings(PEOPLE, rounds=20, stop=stop))
    trail = heads(5)
    machine.recovered(trail[4], trail=tuple(trail))
    state = machine.state
    for number, loss in ((1, 3.0), (2, 2.0), (3, 9.0), (4, 9.0)):
        state = replace(state, evaluations={**state.evaluations, number: dict.fromkeys(PEOPLE, result(loss))})
    assert stopping.ends_by_evaluation(state) is not None
    back = returned(trail[4], trail[2])
    state = replace(state, head=back, trail=(*trail, back))
    assert stopping.ends_by_evaluation(state) is None


# --- with a bucket ----------------------------------------------------------------------------------------------------


def long_job(storage: StorageSpec, rounds: int) -> Any:
    local = {"steps": 4, "batchSize": 2, "sequenceLength": 16, "learningRate": {"totalSteps": 100}}
    return job_document(storage, NAMES, rounds=rounds, local=local)


def roll_back(store: ObjectStore, to: int, **fields: Any) -> Commit:
    """What `photon rollback` writes."""
    commits = chain(store)
    last, target = commits[-1], commits[to]
    record = rollback_commit(
        last, digest(last), target, digest(target), reason=RollbackReason.OPERATOR, message="a test", **fields
    )
    assert store.create(keys.commit(record.round), canonical_json(record))
    return record


def stopped_and_rolled_back(store: ObjectStore, storage: StorageSpec) -> str:
    """Three rounds, a rollback while nothing runs, two more rounds: the digest of the last commit."""
    write_round_zero(long_job(storage, 3), store)
    with (
        aggregator(long_job(storage, 3), store) as running,
        working(*[FakeWorker(name, [running.url]) for name in NAMES]),
    ):
        running.wait()
    roll_back(store, 1, quarantine=["south"])
    job = long_job(storage, 6)
    with aggregator(job, store) as running, working(*[FakeWorker(name, [running.url]) for name in NAMES]):
        running.wait()
    assert running.code == 0, running.error
    return last_digest(store)


def test_a_job_that_was_rolled_back_goes_on_from_the_earlier_model(
    store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    """The same rollback, of a job that stood still and of one that was training: the same last commit."""
    expected = stopped_and_rolled_back(other_store("stopped"), storage)
    job = long_job(storage, 6)
    write_round_zero(job, store)
    rolled = threading.Event()
    cancelled: list[bool] = []

    def hold(worker: FakeWorker, task: Any, prepared: Any) -> None:
        if task.round != 4:
            worker.train_honestly(task, prepared)
            return
        rolled.wait(60)
        for _ in range(200):
            if worker.report(task.id, "train", step=1).cancel:
                cancelled.append(True)
                return
            worker.stop.wait(0.05)
        raise AssertionError("the open round went on after the rollback")

    with (
        aggregator(job, store, settings={"scan_seconds": 0.2}) as running,
        working(*[FakeWorker(name, [running.url], tamper=hold if name == "south" else None) for name in NAMES]),
    ):
        running.until(lambda engine: engine.state.open is not None and engine.state.open.round == 4)
        roll_back(store, 1, quarantine=["south"])
        rolled.set()
        running.until(lambda engine: engine.state.head is not None and engine.state.head.round >= 4, 60)
        message = "the model is that of round 1 again: a test"
        running.wait()
        metrics = running.engine.books.rollbacks
    assert running.code == 0, running.error
    assert cancelled == [True]
    assert metrics["Operator"] == 1
    assert any(message in record.message for record in running.engine.books.events())
    assert last_digest(store) == expected
    commits = chain(store)
    assert [commit.sequential_steps for commit in commits] == [0, 4, 8, 12, 4, 8, 12]
    assert [commit.since for commit in commits] == [None] * 5 + [4, 4]
    assert commits[4].folder == commits[1].folder
    assert [u.participant for u in commits[5].accepted] == ["east", "north"]
    assert commits[6].tokens > commits[3].tokens


@pytest.mark.parametrize("point", [FaultPoint.AFTER_PLAN, FaultPoint.MID_MERGE])
def test_killed_after_a_rollback_the_final_commit_is_the_same(
    point: FaultPoint, store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    expected = stopped_and_rolled_back(other_store("calm"), storage)
    write_round_zero(long_job(storage, 3), store)
    with (
        aggregator(long_job(storage, 3), store) as running,
        working(*[FakeWorker(name, [running.url]) for name in NAMES]),
    ):
        running.wait()
    roll_back(store, 1, quarantine=["south"])
    job = long_job(storage, 6)
    killed_and_started_again(job, store, KillAt(point), lambda url: [FakeWorker(name, [url]) for name in NAMES])
    assert last_digest(store) == expected


def test_a_rollback_to_another_model_is_a_broken_chain(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=2)
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    commits = chain(store)
    wrong = rollback_commit(
        commits[2], digest(commits[2]), commits[1], digest(commits[1]), reason=RollbackReason.OPERATOR
    ).model_copy(update={"folder": commits[0].folder})
    store.create(keys.commit(3), canonical_json(wrong))
    with pytest.raises(RecordError, match="no sound rollback"):
        check(store, wrong)
    with aggregator(job_document(storage, ["north"], rounds=5), store) as running:
        running.wait()
    assert running.code == EXIT_JOB_FAILED
    assert running.engine.state.outcome is not None
    assert "folder" in running.engine.state.outcome.message


def test_workers_that_know_of_rollbacks_are_told_of_the_last(store: ObjectStore, storage: StorageSpec) -> None:
    """A worker of an earlier release takes no field that it does not know, so only who asks for it gets it."""
    write_round_zero(long_job(storage, 3), store)
    job = long_job(storage, 1)
    with aggregator(job, store) as running, working(*[FakeWorker(name, [running.url]) for name in NAMES]):
        running.wait()
    roll_back(store, 0)
    worker = FakeWorker("north", [])
    with aggregator(long_job(storage, 9), store) as running:
        worker.urls = [running.url]
        running.until(lambda engine: engine.state.open is not None)
        asked = {"wait_seconds": 5, "done": "evaluate-00002"}
        of_now = worker.request("GET", "/v1/task", params={**asked, "since": "true"}).json()["task"]
        of_before = worker.request("GET", "/v1/task", params=asked).json()["task"]
    worker.http.close()
    assert (of_now["round"], of_now["firstStep"], of_now["since"]) == (3, 0, 2)
    assert of_before == {key: value for key, value in of_now.items() if key != "since"}


def test_retention_keeps_the_model_that_the_head_names_and_drops_it_later(
    store: ObjectStore, storage: StorageSpec
) -> None:
    kept = storage.model_copy(update={"retention": storage.retention.model_copy(update={"keep_last_rounds": 3})})
    write_round_zero(long_job(kept, 4), store)

    def go_on(rounds: int) -> set[int]:
        with (
            aggregator(long_job(kept, rounds), store) as running,
            working(*[FakeWorker(name, [running.url]) for name in NAMES]),
        ):
            running.wait()
        assert running.code == 0, running.error
        return {int(info.key.split("/")[1]) for info in store.list("rounds/") if "/global/" in info.key}

    def models() -> list[Commit]:
        return [Commit.model_validate_json(store.get(keys.commit(r))) for r in range(5)]

    assert go_on(4) == {2, 3, 4}
    commits = models()
    last, target = commits[-1], commits[2]
    record = rollback_commit(last, digest(last), target, digest(target), reason=RollbackReason.OPERATOR)
    store.create(keys.commit(5), canonical_json(record))
    assert go_on(7) == {2, 6, 7}, "round 5 is the model of round 2"
    assert go_on(8) == {6, 7, 8}
