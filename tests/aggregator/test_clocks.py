"""Clocks that are set, and processes that do not run for a while: neither is time that counts against anybody."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from photon.api.participation import SampleFrom, StopSpec, WhenQuorumLost
from photon.api.placement import StorageSpec
from photon.api.status import JobReason
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.records import LeftOut
from photon.protocol.views import Stage
from photon.store.objects import ObjectStore
from photon_aggregator.clock import LONGEST_GAP_SECONDS, Drift
from photon_aggregator.rounds.events import Committed, Evaluated, Finish, Heartbeat, Jumped, Scanned, Tick, WritePlan
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.machine import NAMES, Machine, head, next_commit, result, settings, train_round
from tests.aggregator.running import aggregator, chain, working

DAY = 86_400.0


@pytest.mark.parametrize(
    ("wall", "steady", "gained"),
    [
        (1.0, 1.0, 0.0),
        (1.4, 1.0, 0.0),  # slewed
        (DAY + 1.0, 1.0, DAY),  # set forward
        (1.0 - DAY, 1.0, -DAY),  # set back
        (7200.0, 1.0, 7199.0),  # suspended: CLOCK_MONOTONIC stood still
        (7200.0, 7200.0, 7200.0 - LONGEST_GAP_SECONDS),  # SIGSTOP: it went on
    ],
)
def test_time_that_has_not_passed_is_found(wall: float, steady: float, gained: float) -> None:
    now = [1_800_000_000.0, 50.0]
    drift = Drift(lambda: now[0], lambda: now[1])
    now[0] += wall
    now[1] += steady
    assert drift.jumped() == pytest.approx(gained)
    assert drift.jumped() == 0.0


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_a_jump_leaves_all_deadlines_as_far_away_as_they_were(seconds: float) -> None:
    machine = Machine(settings(quorum=2, grace_seconds=50.0, when_quorum_lost=WhenQuorumLost.FAIL))
    plan = machine.opened()
    for name in ("east", "north", "south"):
        machine.send(Heartbeat(at=machine.at, participant=name))
    machine.admit("east", plan)
    machine.admit("north", plan)
    machine.at += seconds
    machine.send(Jumped(at=machine.at, seconds=seconds))
    machine.at += 11.0
    machine.send(Tick(at=machine.at))
    assert (machine.stage, machine.count(Finish)) == (Stage.TRAIN, 0)
    assert all(machine.state.present(name, machine.at) for name in ("east", "north", "south"))
    machine.at += 39.0
    machine.send(Tick(at=machine.at))
    assert machine.stage is Stage.MERGE, "the grace window is over"


class Clocks:
    """This machine's clocks, that a test sets and stops."""

    def __init__(self) -> None:
        self.set_by = 0.0
        self.stopped_for = 0.0

    def wall(self) -> float:
        return time.time() + self.set_by + self.stopped_for

    def steady(self) -> float:
        return time.monotonic() + self.stopped_for


@pytest.mark.parametrize(("set_by", "stopped_for"), [(DAY, 0.0), (-DAY, 0.0), (0.0, 7200.0)])
def test_a_round_outlives_a_clock_that_is_set_and_a_process_that_is_stopped(
    set_by: float, stopped_for: float, store: ObjectStore, storage: StorageSpec
) -> None:
    clocks = Clocks()
    participation = {"roundDeadlineSeconds": 600, "whenQuorumLost": "Fail"}
    job = job_document(storage, ["north", "south"], rounds=2, participation=participation)
    write_round_zero(job, store)
    go = threading.Event()

    def hold(worker: FakeWorker, task: Any, prepared: Any) -> None:
        assert go.wait(60)
        worker.train_honestly(task, prepared)

    with aggregator(job, store, clock=clocks.wall, steady=clocks.steady) as running:
        south = FakeWorker("south", [running.url], tamper=hold)
        with working(FakeWorker("north", [running.url]), south):
            running.until(lambda engine: bool(engine.state.open and engine.state.open.admissions))
            before = running.engine.state
            clocks.set_by, clocks.stopped_for = set_by, stopped_for
            running.until(lambda engine: engine.state.started_at != before.started_at)
            go.set()
            running.wait()
    assert (running.code, running.error) == (0, None)
    assert [len(commit.accepted) for commit in chain(store)[1:]] == [2, 2]


# --- what counts ------------------------------------------------------------------------------------------------------


def test_evaluation_does_not_count_into_the_deadline_of_the_next_round() -> None:
    machine = Machine(settings(("north",), when_quorum_lost=WhenQuorumLost.FAIL))
    machine.recovered()
    train_round(machine, ("north",))
    machine.send(Heartbeat(at=machine.at, participant="north"))
    machine.planned()
    begun = machine.at
    for _ in range(9):
        machine.at += 10.0
        machine.send(Heartbeat(at=machine.at, participant="north"))
        machine.send(Tick(at=machine.at))
    machine.send(Evaluated(at=machine.at, round=1, participant="north", result=result(1.0)))
    assert machine.state.open is not None
    assert machine.state.deadline(machine.state.open) == machine.at + 100.0
    assert machine.state.open.opened_at == begun


def evaluating(machine: Machine, seconds: float, *names: str) -> None:
    """These evaluate for so long, heard every ten seconds."""
    until = machine.at + seconds
    while machine.at < until:
        machine.at += 10.0
        for name in names:
            machine.send(Heartbeat(at=machine.at, participant=name))
        machine.send(Tick(at=machine.at))


def second_round(**fields: Any) -> Machine:
    """The second round is planned; the model of the first is to be evaluated by all three, who are here."""
    machine = Machine(settings(when_quorum_lost=WhenQuorumLost.FAIL, **fields))
    machine.recovered()
    train_round(machine)
    for name in NAMES:
        machine.send(Heartbeat(at=machine.at, participant=name))
    machine.planned()
    return machine


def test_an_evaluation_that_takes_several_deadlines_fails_no_job() -> None:
    machine = second_round()
    evaluating(machine, 1000.0, *NAMES)
    assert (machine.stage, machine.count(Finish)) == (Stage.TRAIN, 0)
    for name in NAMES:
        machine.send(Evaluated(at=machine.at, round=1, participant=name, result=result(1.0)))
    assert machine.state.open is not None
    assert machine.state.deadline(machine.state.open) == machine.at + 100.0
    machine.at += 101.0
    machine.send(Tick(at=machine.at))
    machine.send(Scanned(at=machine.at))
    assert machine.last(Finish).outcome.reason is JobReason.QUORUM_LOST, "training counts"


def test_a_deadline_counts_once_a_quorum_can_train_and_gives_the_others_one_more() -> None:
    machine = second_round(quorum=2)
    evaluating(machine, 40.0, *NAMES)
    for name in ("east", "north"):
        machine.send(Evaluated(at=machine.at, round=1, participant=name, result=result(1.0)))
    evaluating(machine, 300.0, *NAMES)
    assert machine.state.open is not None
    assert machine.state.deadline(machine.state.open) <= machine.state.open.opened_at + 200.0


def test_who_comes_back_and_must_evaluate_first_is_given_time_to_train() -> None:
    machine = second_round()
    for name in ("east", "north"):
        machine.send(Evaluated(at=machine.at, round=1, participant=name, result=result(1.0)))
    evaluating(machine, 60.0, "east", "north")  # south is away
    evaluating(machine, 200.0, *NAMES)
    assert (machine.stage, machine.count(Finish)) == (Stage.TRAIN, 0)
    machine.send(Evaluated(at=machine.at, round=1, participant="south", result=result(1.0)))
    assert machine.state.open is not None
    assert machine.state.deadline(machine.state.open) == machine.at + 100.0


def test_who_trains_evaluates_no_more_although_its_result_never_came() -> None:
    machine = second_round()
    planned_at = machine.at
    for name in NAMES:
        machine.send(Heartbeat(at=machine.at, participant=name, task="train-00002"))
    evaluating(machine, 90.0, *NAMES)
    assert machine.state.open is not None
    assert machine.state.deadline(machine.state.open) == planned_at + 100.0


def test_the_wall_clock_of_a_job_is_the_stores() -> None:
    def committed(written_at: float | None) -> Machine:
        machine = Machine(settings(stop=StopSpec(wall_clock_seconds=60), evaluate_every=0, rounds=9), at=5000.0)
        machine.recovered()
        plan = machine.planned(planned_at=100.0)
        commit = next_commit(head(), ("east", "north", "south"), plan)
        machine.send(Committed(at=machine.at, commit=commit, digest=digest(commit), written_at=written_at))
        return machine

    assert committed(159.0).state.ending is None
    ending = committed(160.0).state.ending
    assert ending is not None
    assert ending.reason is JobReason.WALL_CLOCK_REACHED


# --- who is there -----------------------------------------------------------------------------------------------------


def absent(machine: Machine, *names: str) -> None:
    machine.at += 30.0
    for name in machine.state.settings.participants:
        if name not in names:
            machine.send(Heartbeat(at=machine.at, participant=name))
    machine.send(Tick(at=machine.at))


def test_those_present_are_sampled_and_the_plan_says_who_was_left_out() -> None:
    machine = Machine(settings(quorum=2, sample=SampleFrom.PRESENT))
    absent(machine, "north")
    machine.recovered()
    plan = machine.last(WritePlan).plan
    assert (plan.cohort, plan.left_out) == (["east", "south"], {"north": LeftOut.ABSENT})
    assert plan.participants == ["east", "north", "south"]


def test_a_quorum_is_never_lowered_by_absence() -> None:
    machine = Machine(settings(quorum=2, sample=SampleFrom.PRESENT))
    absent(machine, "north", "south")
    machine.recovered()
    plan = machine.last(WritePlan).plan
    assert (plan.cohort, plan.left_out) == (["east", "north", "south"], {})
    assert b"leftOut" not in canonical_json(plan)


# --- another aggregator -----------------------------------------------------------------------------------------------


def test_an_aggregator_that_nobody_speaks_with_leaves_when_another_commits() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    absent(machine, "east", "north", "south")
    commit = next_commit(head(), ("east", "north", "south"), plan)
    machine.send(Committed(at=machine.at, commit=commit, digest=digest(commit), foreign=True))
    outcome = machine.last(Finish).outcome
    assert (outcome.reason, outcome.failed) == (JobReason.SUPERSEDED, False)


def test_an_aggregator_that_somebody_speaks_with_follows_the_one_that_commits() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    absent(machine, "east", "north")
    commit = next_commit(head(), ("east", "north", "south"), plan)
    machine.send(Committed(at=machine.at, commit=commit, digest=digest(commit), foreign=True))
    assert machine.count(Finish) == 0
    assert machine.last(WritePlan).plan.round == 2
