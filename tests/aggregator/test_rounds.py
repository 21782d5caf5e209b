"""The round's state machine, decision by decision: from the plan to the merge."""

from __future__ import annotations

import pytest

from photon.api.participation import WhenQuorumLost
from photon.api.status import JobReason
from photon.protocol.canonical import digest
from photon.protocol.cohort import sample_cohort
from photon.protocol.messages import RefusalReason
from photon.protocol.views import Stage
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import (
    Admitted,
    Ahead,
    Closed,
    Evaluated,
    Finish,
    Heartbeat,
    Merge,
    Scan,
    Scanned,
    Tick,
    UpdateRefused,
    WritePlan,
)
from photon_aggregator.rounds.machine import next_wake
from tests.aggregator.machine import (
    NAMES,
    Machine,
    admission,
    head,
    manifest,
    result,
    settings,
    train_round,
)


def test_nothing_happens_before_the_bucket_was_read() -> None:
    machine = Machine(settings())
    for event in (Tick(at=1e9), Heartbeat(at=1001.0, participant="north"), Scanned(at=1.0), Ahead(at=1.0)):
        machine.send(event)
    assert machine.stage is Stage.INIT
    assert not [a for a in machine.actions if isinstance(a, WritePlan | Scan | Merge | Finish)]


def test_the_first_plan_follows_from_the_initial_model() -> None:
    machine = Machine(settings(cohort_size=2, quorum=1))
    (action,) = machine.recovered()
    assert isinstance(action, WritePlan)
    plan = action.plan
    assert (plan.round, plan.first_step, plan.local_steps) == (1, 0, 4)
    assert plan.base == head().digest
    assert plan.participants == list(NAMES)
    assert plan.cohort == sample_cohort(seed=3, round_number=1, participants=NAMES, size=2)


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1], ("north", "east", "south")])
def test_the_round_closes_when_the_whole_cohort_is_admitted_in_any_order(order: tuple[str, ...]) -> None:
    machine = Machine(settings())
    plan = machine.opened()
    for name in order:
        assert machine.stage is Stage.TRAIN
        machine.admit(name, plan)
    assert machine.stage is Stage.MERGE
    assert [a.participant for a in machine.last(Merge).admissions] == sorted(order)


def test_three_rounds_and_the_last_is_evaluated_before_the_end() -> None:
    machine = Machine(settings())
    machine.recovered()
    for name in NAMES:
        machine.send(Heartbeat(at=machine.at, participant=name))
    for _ in range(3):
        train_round(machine)
    assert machine.stage is Stage.EVALUATE
    for name in NAMES:
        assert machine.stage is Stage.EVALUATE
        machine.send(Evaluated(at=machine.at, round=3, participant=name, result=result(1.0)))
    assert machine.stage is Stage.DONE
    assert machine.last(Finish).outcome.reason is JobReason.ROUNDS_DONE
    assert not machine.last(Finish).outcome.failed


@pytest.mark.parametrize(
    ("grace", "at", "closes"),
    [(None, 1099.0, False), (None, 1100.0, True), (5.0, 1014.9, False), (5.0, 1015.0, True), (0.0, 1010.0, True)],
)
def test_a_quorum_closes_the_round_after_grace_or_at_the_deadline(grace: float | None, at: float, closes: bool) -> None:
    machine = Machine(settings(quorum=2, grace_seconds=grace))
    plan = machine.opened()
    machine.at = 1010.0
    machine.admit("south", plan)
    machine.admit("east", plan)
    machine.send(Tick(at=at))
    assert (machine.stage is Stage.MERGE) == closes
    if closes:
        assert [a.participant for a in machine.last(Merge).admissions] == ["east", "south"]


def test_the_next_wake_is_the_end_of_grace() -> None:
    machine = Machine(settings(quorum=1, grace_seconds=2.0, scan_seconds=50.0))
    plan = machine.opened()
    machine.send(Scanned(at=machine.at))
    for name in NAMES:
        machine.send(Heartbeat(at=machine.at, participant=name))
    machine.admit("east", plan)
    assert next_wake(machine.state) == machine.at + 2.0


def test_a_round_that_was_decided_before_takes_exactly_those_updates_and_waits_for_nobody_else() -> None:
    machine = Machine(settings(quorum=2))
    plan = machine.opened()
    machine.admit("north", plan)
    decided = {name: admission(name, plan).digest for name in ("east", "south")}
    machine.send(Closed(at=machine.at, round=plan.round, updates=decided))
    assert assignment.cancelled(machine.state, "north", assignment.train_id(plan.round)) is False, "it had handed in"
    machine.admit("east", plan)
    assert machine.stage is Stage.TRAIN
    machine.admit("south", plan)
    assert machine.stage is Stage.MERGE
    assert [one.participant for one in machine.last(Merge).admissions] == ["east", "south"]


def test_whom_a_decided_round_does_not_take_is_told_so_at_once() -> None:
    machine = Machine(settings(quorum=1))
    plan = machine.opened()
    machine.send(Closed(at=machine.at, round=plan.round, updates={"east": admission("east", plan).digest}))
    late = manifest("north", plan)
    assert machine.submit("north", plan) == []
    reply = assignment.verdict(machine.state, "north", plan.round, digest(late))
    assert reply is not None
    assert reply.reason is RefusalReason.TOO_LATE
    assert assignment.cancelled(machine.state, "north", assignment.train_id(plan.round)) is True
    assert assignment.task_for(machine.state, "north", None) is None
    assert isinstance(assignment.task_for(machine.state, "east", None), assignment.Train)


def test_a_decided_round_whose_updates_do_not_come_is_merged_at_the_deadline_which_says_why_not() -> None:
    machine = Machine(settings(quorum=2))
    plan = machine.opened()
    machine.send(Closed(at=machine.at, round=plan.round, updates={"east": "a" * 64, "south": "b" * 64}))
    machine.at += machine.state.settings.deadline_seconds - 1
    machine.send(Tick(at=machine.at))
    assert machine.stage is Stage.TRAIN
    machine.at += 1
    machine.send(Tick(at=machine.at))
    assert machine.stage is Stage.MERGE
    assert machine.state.outcome is None


def test_an_update_that_was_handed_in_before_the_deadline_counts_however_long_its_check_takes() -> None:
    machine = Machine(settings(("east", "north", "south", "west"), quorum=2))
    plan = machine.opened()
    machine.admit("east", plan)
    machine.admit("north", plan)
    machine.at += 9.0
    machine.submit("south", plan)
    machine.at = 1100.0
    machine.send(Tick(at=machine.at))
    assert machine.stage is Stage.TRAIN
    wake = next_wake(machine.state)
    assert wake is None or wake > machine.at, "it does not look at the clock again and again"
    machine.at += 5.0
    machine.submit("west", plan)  # too late: it is not waited for
    machine.send(Admitted(at=machine.at, round=1, admission=admission("south", plan)))
    assert machine.stage is Stage.MERGE
    assert [one.participant for one in machine.last(Merge).admissions] == ["east", "north", "south"]


def test_a_check_that_ends_badly_after_the_deadline_holds_the_round_up_no_longer() -> None:
    machine = Machine(settings(quorum=2))
    plan = machine.opened()
    machine.admit("east", plan)
    machine.admit("north", plan)
    machine.submit("south", plan)
    machine.at = 1101.0
    machine.send(Tick(at=machine.at))
    assert machine.stage is Stage.TRAIN
    refused = digest(manifest("south", plan))
    why = RefusalReason.NOT_FINITE
    machine.send(UpdateRefused(at=machine.at, round=1, participant="south", digest=refused, reason=why, message="NaN"))
    machine.send(Tick(at=machine.at))
    assert [one.participant for one in machine.last(Merge).admissions] == ["east", "north"]


def test_without_a_quorum_the_deadline_fails_a_job_that_does_not_wait_and_says_who_was_missing_and_why() -> None:
    machine = Machine(settings(quorum=3, when_quorum_lost=WhenQuorumLost.FAIL))
    plan = machine.opened()
    machine.admit("east", plan)
    machine.submit("north", plan)
    refused = digest(manifest("north", plan))
    machine.send(
        UpdateRefused(
            at=machine.at, round=1, participant="north", digest=refused, reason=RefusalReason.NOT_FINITE, message="NaN"
        )
    )
    machine.send(Tick(at=1099.9))
    assert machine.stage is Stage.TRAIN
    machine.send(Scanned(at=1099.9))
    machine.send(Tick(at=1100.0))
    assert machine.count(Finish) == 0, "another aggregator may have admitted what is missing: look first"
    machine.send(Tick(at=1100.4))
    assert isinstance(machine.actions[-1], Scan)
    machine.send(Scanned(at=1100.4))
    outcome = machine.last(Finish).outcome
    assert (outcome.reason, outcome.failed) == (JobReason.QUORUM_LOST, True)
    assert "1 of the 3 updates" in outcome.message
    assert "north (Refused: NotFinite)" in outcome.message
    assert "south (Absent, not heard since" in outcome.message
    assert "east" not in outcome.message


@pytest.mark.parametrize("planned_at", [0.0, 990.0, 1005.0, 9999.0])
def test_the_deadline_counts_from_when_the_plan_was_there_for_us_whatever_the_stores_clock_says(
    planned_at: float,
) -> None:
    machine = Machine(settings())
    machine.recovered()
    machine.at = 1010.0
    machine.planned(planned_at=planned_at)
    assert machine.state.open is not None
    assert machine.state.deadline(machine.state.open) == 1110.0
