"""Which task a participant is given now."""

from __future__ import annotations

from photon.protocol.canonical import digest
from photon.protocol.messages import RefusalReason
from photon.protocol.views import Stage
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import Evaluated, Submitted, UpdateRefused, WritePlan
from tests.aggregator.machine import Machine, manifest, result, settings, train_round

NAMES = ("east", "north", "south")


def test_evaluation_comes_before_training_and_each_is_given_once() -> None:
    machine = Machine(settings())
    machine.recovered()
    train_round(machine)
    plan = machine.planned()
    assert assignment.task_for(machine.state, "north", None) == assignment.Evaluate(round=1)
    training = assignment.task_for(machine.state, "north", "evaluate-00001")
    assert isinstance(training, assignment.Train)
    assert training.open.round == 2
    machine.send(Evaluated(at=machine.at, round=1, participant="north", result=result(1.0)))
    assert isinstance(assignment.task_for(machine.state, "north", None), assignment.Train)
    machine.submit("north", plan)
    assert assignment.task_for(machine.state, "north", None) is None


def test_who_was_refused_gets_the_task_again_unless_it_says_that_it_is_through() -> None:
    machine = Machine(settings(evaluate_every=0))
    plan = machine.opened()
    machine.submit("north", plan)
    name = digest(manifest("north", plan))
    machine.send(
        UpdateRefused(
            at=machine.at, round=1, participant="north", digest=name, reason=RefusalReason.NOT_FINITE, message=""
        )
    )
    assert assignment.task_for(machine.state, "north", "train-00001") is None
    assert isinstance(assignment.task_for(machine.state, "north", None), assignment.Train)


def test_a_worker_that_is_ahead_of_this_aggregator_gets_nothing_old() -> None:
    machine = Machine(settings(rounds=50))
    machine.opened()
    assert assignment.task_for(machine.state, "north", "train-00002") is None
    assert assignment.task_for(machine.state, "north", "evaluate-00001") is None
    assert not assignment.cancelled(machine.state, "north", "train-00002")
    assert assignment.verdict(machine.state, "north", 2, "f" * 64) is None
    refused = assignment.verdict(machine.state, "north", 40, "f" * 64)
    assert refused is not None
    assert refused.reason is RefusalReason.WRONG_ROUND


def test_only_the_cohort_trains_and_everyone_evaluates() -> None:
    machine = Machine(settings(cohort_size=1, quorum=1))
    machine.recovered()
    plan = machine.planned()
    machine.admit(plan.cohort[0], plan)
    machine.commit()
    plan = machine.planned()
    for name in NAMES:
        assert assignment.task_for(machine.state, name, None) == assignment.Evaluate(round=1)
        trains = assignment.task_for(machine.state, name, "evaluate-00001")
        assert isinstance(trains, assignment.Train) == (name in plan.cohort)


def test_a_restarted_aggregator_accepts_the_update_of_its_head_and_no_other() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    for name in NAMES:
        machine.admit(name, plan)
    machine.commit()
    accepted = assignment.verdict(machine.state, "north", 1, digest(manifest("north", plan)))
    assert accepted is not None
    assert accepted.state == "accepted"
    other = assignment.verdict(machine.state, "north", 1, "f" * 64)
    assert other is not None
    assert other.reason is RefusalReason.TOO_LATE


def test_submissions_to_a_round_that_is_being_planned_wait() -> None:
    machine = Machine(settings())
    machine.recovered()
    assert machine.stage is Stage.PLAN
    assert assignment.verdict(machine.state, "north", 1, "f" * 64) is None
    event = Submitted(
        at=machine.at, round=1, participant="north", manifest=manifest("north", machine.last(WritePlan).plan), digest=""
    )
    assert machine.send(event) == []
