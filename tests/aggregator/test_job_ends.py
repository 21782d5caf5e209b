"""When the job ends, and what the round's state machine waits for before it does."""

from __future__ import annotations

import pytest

from photon.api.participation import PlateauSpec, StopSpec
from photon.api.status import JobReason
from photon.protocol.canonical import digest
from photon.protocol.views import Stage
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import (
    Broken,
    Evaluated,
    Finish,
    Heartbeat,
    Merge,
    PlanReady,
    Tick,
    WritePlan,
)
from tests.aggregator.machine import (
    NAMES,
    Machine,
    head,
    result,
    settings,
    train_round,
)


def test_tokens_end_the_job_after_the_round_that_reached_them() -> None:
    machine = Machine(settings(evaluate_every=0, rounds=100, stop=StopSpec(tokens=600)))
    machine.recovered()
    train_round(machine)
    assert machine.stage is Stage.PLAN
    train_round(machine)
    assert machine.state.ending is not None
    assert machine.state.ending.reason is JobReason.TOKENS_REACHED


def test_wall_clock_counts_from_the_first_plan_also_after_a_restart() -> None:
    machine = Machine(settings(stop=StopSpec(wall_clock_seconds=50)))
    machine.recovered(head(1), first_planned_at=960.0)
    assert machine.stage is Stage.PLAN
    machine.at = 1011.0
    train_round(machine)
    assert machine.state.ending is not None
    assert machine.state.ending.reason is JobReason.WALL_CLOCK_REACHED


def test_a_round_that_was_planned_before_a_restart_is_trained_whatever_the_clock_says() -> None:
    machine = Machine(settings(stop=StopSpec(wall_clock_seconds=50)))
    machine.recovered(head(1), planned=True, first_planned_at=0.0)
    assert machine.stage is Stage.PLAN


def test_rounds_are_pipelined_unless_an_evaluation_may_end_the_job() -> None:
    free, bound = Machine(settings()), Machine(settings(stop=StopSpec(target_perplexity=2.0)))
    for machine in (free, bound):
        machine.recovered()
        for name in NAMES:
            machine.send(Heartbeat(at=machine.at, participant=name))
        train_round(machine)
    assert free.stage is Stage.PLAN
    assert bound.stage is Stage.EVALUATE
    for name in NAMES:
        bound.send(Evaluated(at=bound.at, round=1, participant=name, result=result(1.0)))
    assert bound.stage is Stage.PLAN
    train_round(bound)
    for name in NAMES:
        bound.send(Evaluated(at=bound.at, round=2, participant=name, result=result(0.5)))
    assert bound.last(Finish).outcome.reason is JobReason.TARGET_PERPLEXITY_REACHED


@pytest.mark.parametrize(
    ("losses", "ends"),
    [([3.0, 2.0, 1.0], False), ([2.0, 2.0], False), ([2.0, 2.1, 2.0], True), ([2.0, 2.1, 1.95], True), ([3, 2, 2], 0)],
)
def test_a_plateau_is_so_many_evaluations_without_enough_improvement(losses: list[float], ends: bool) -> None:
    stop = StopSpec(plateau=PlateauSpec(evaluations=2, min_improvement=0.1))
    machine = Machine(settings(["north"], rounds=50, stop=stop))
    machine.recovered()
    machine.send(Heartbeat(at=machine.at, participant="north"))
    for number, loss in enumerate(losses, 1):
        train_round(machine, ("north",))
        machine.send(Evaluated(at=machine.at, round=number, participant="north", result=result(loss)))
    assert (machine.stage is Stage.DONE) == bool(ends)
    if ends:
        assert machine.last(Finish).outcome.reason is JobReason.PLATEAU_REACHED


def test_the_end_waits_for_those_who_are_here_and_for_nobody_else() -> None:
    machine = Machine(settings(rounds=1))
    machine.recovered()
    plan = machine.planned()
    for name in NAMES:
        machine.admit(name, plan)
    machine.present("north", "east")
    machine.commit()
    machine.send(Evaluated(at=machine.at, round=1, participant="north", result=result(1.0)))
    assert machine.stage is Stage.EVALUATE
    machine.send(Heartbeat(at=machine.at, participant="east", done="evaluate-00001"))
    assert machine.stage is Stage.DONE


def test_a_worker_that_dies_while_it_evaluates_does_not_hold_the_end_up() -> None:
    machine = Machine(settings(rounds=1, absent_seconds=15.0))
    machine.recovered()
    train_round(machine)
    machine.send(Heartbeat(at=1010.0, participant="north"))
    machine.send(Tick(at=1020.0))
    assert machine.stage is Stage.EVALUATE
    machine.send(Tick(at=1025.0))
    assert machine.stage is Stage.DONE


def test_who_falls_silent_is_noted_as_absent_and_who_never_came_is_not() -> None:
    machine = Machine(settings(absent_seconds=15.0))
    machine.opened()
    machine.send(Heartbeat(at=1001.0, participant="north"))
    machine.send(Tick(at=1016.0))
    machine.send(Tick(at=1017.0))
    assert machine.notes().count("ParticipantAbsent") == 1
    machine.send(Heartbeat(at=1018.0, participant="north"))
    assert machine.notes().count("ParticipantJoined") == 2


def test_evaluations_have_a_deadline_too() -> None:
    machine = Machine(settings(rounds=1))
    machine.recovered()
    train_round(machine)
    machine.send(Heartbeat(at=1099.0, participant="north"))
    machine.send(Tick(at=1100.0))
    assert machine.stage is Stage.DONE


def test_suspend_stops_at_the_boundary_of_a_round_and_workers_leave() -> None:
    machine = Machine(settings(suspend=True))
    machine.recovered(planned=True)
    train_round(machine)
    outcome = machine.last(Finish).outcome
    assert (outcome.reason, outcome.failed) == (JobReason.SUSPENDED, False)
    assert isinstance(assignment.task_for(machine.state, "north", None), assignment.Leave)
    idle = Machine(settings(suspend=True))
    idle.recovered()
    assert idle.last(Finish).outcome.reason is JobReason.SUSPENDED


def test_a_round_does_not_wait_for_who_was_taken_out_of_the_job() -> None:
    before = Machine(settings())
    before.recovered()
    plan = before.last(WritePlan).plan
    machine = Machine(settings(("east", "north")))
    machine.recovered(planned=True)
    machine.send(PlanReady(at=machine.at, plan=plan, digest=digest(plan), planned_at=machine.at))
    machine.admit("east", plan)
    assert machine.count(Merge) == 0
    machine.admit("north", plan)
    assert [a.participant for a in machine.last(Merge).admissions] == ["east", "north"]


def test_more_rounds_than_before_go_on_where_the_job_ended() -> None:
    machine = Machine(settings(rounds=5))
    machine.recovered(head(3))
    assert machine.last(WritePlan).plan.round == 4


def test_a_store_that_failed_ends_the_job_as_failed() -> None:
    machine = Machine(settings())
    machine.opened()
    machine.send(Broken(at=machine.at, reason=JobReason.STORAGE_FAILED, message="no object store answers"))
    outcome = machine.last(Finish).outcome
    assert (outcome.reason, outcome.message, outcome.failed) == (
        JobReason.STORAGE_FAILED,
        "no object store answers",
        True,
    )
