"""The round's state machine, decision by decision."""

from __future__ import annotations

import pytest

from photon.api.participation import PlateauSpec, StopSpec, WhenQuorumLost
from photon.api.status import JobReason
from photon.protocol.canonical import digest
from photon.protocol.cohort import sample_cohort
from photon.protocol.messages import RefusalReason
from photon.protocol.records import Plan
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import (
    Admitted,
    Ahead,
    Broken,
    Check,
    Closed,
    Committed,
    Evaluated,
    Finish,
    Found,
    Heard,
    Look,
    Looked,
    Merge,
    PlanReady,
    Refused,
    Tick,
    Told,
    WritePlan,
)
from photon_aggregator.rounds.machine import next_wake
from photon_aggregator.rounds.state import CHECKS_A_ROUND, Stage
from tests.aggregator.machine import (
    NAMES,
    Machine,
    admission,
    head,
    manifest,
    next_commit,
    result,
    settings,
    train_round,
)


def test_nothing_happens_before_the_bucket_was_read() -> None:
    machine = Machine(settings())
    for event in (Tick(at=1e9), Heard(at=1001.0, participant="north"), Looked(at=1.0), Ahead(at=1.0)):
        machine.send(event)
    assert machine.stage is Stage.INIT
    assert not [a for a in machine.actions if isinstance(a, WritePlan | Look | Merge | Finish)]


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
        machine.send(Heard(at=machine.at, participant=name))
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
    machine = Machine(settings(quorum=1, grace_seconds=2.0, look_seconds=50.0))
    plan = machine.opened()
    machine.send(Looked(at=machine.at))
    for name in NAMES:
        machine.send(Heard(at=machine.at, participant=name))
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


def test_without_a_quorum_the_deadline_fails_a_job_that_does_not_wait_and_says_who_was_missing_and_why() -> None:
    machine = Machine(settings(quorum=3, when_quorum_lost=WhenQuorumLost.FAIL))
    plan = machine.opened()
    machine.admit("east", plan)
    machine.submit("north", plan)
    refused = digest(manifest("north", plan))
    machine.send(
        Refused(
            at=machine.at, round=1, participant="north", digest=refused, reason=RefusalReason.NOT_FINITE, message="NaN"
        )
    )
    machine.send(Tick(at=1099.9))
    assert machine.stage is Stage.TRAIN
    machine.send(Looked(at=1099.9))
    machine.send(Tick(at=1100.0))
    assert machine.count(Finish) == 0, "another aggregator may have admitted what is missing: look first"
    machine.send(Tick(at=1100.4))
    assert isinstance(machine.actions[-1], Look)
    machine.send(Looked(at=1100.4))
    outcome = machine.last(Finish).outcome
    assert (outcome.reason, outcome.failed) == (JobReason.QUORUM_LOST, True)
    assert "1 of the 3 updates" in outcome.message
    assert "north (refused: NotFinite)" in outcome.message
    assert "south (not heard)" in outcome.message
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


def test_an_update_that_comes_again_is_checked_once() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    machine.submit("north", plan)
    machine.submit("north", plan)
    machine.submit("north", plan, version=1)
    assert machine.count(Check) == 1
    machine.send(Admitted(at=machine.at, round=1, admission=admission("north", plan)))
    machine.submit("north", plan)
    machine.submit("north", plan, version=1)
    machine.send(Admitted(at=machine.at, round=1, admission=admission("north", plan)))
    machine.send(Admitted(at=machine.at, round=1, admission=admission("north", plan, version=1)))
    assert machine.count(Check) == 1
    assert machine.state.open is not None
    assert [a.digest for a in machine.state.open.admissions] == [digest(manifest("north", plan))]


def test_a_refused_participant_may_try_again_and_the_same_update_only_after_it_was_told() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    machine.submit("north", plan)
    name = digest(manifest("north", plan))
    refusal = Refused(
        at=machine.at, round=1, participant="north", digest=name, reason=RefusalReason.MISSING_PART, message="gone"
    )
    machine.send(refusal)
    machine.submit("north", plan)
    assert machine.count(Check) == 1
    reply = assignment.verdict(machine.state, "north", 1, name)
    assert reply is not None
    assert reply.reason is RefusalReason.MISSING_PART
    machine.send(Told(at=machine.at, round=1, participant="north", digest=name))
    machine.submit("north", plan)
    assert machine.count(Check) == 2
    machine.send(refusal)
    machine.admit("north", plan, version=1)
    assert machine.count(Check) == 3
    assert machine.state.open is not None
    assert machine.state.open.missing == ["east", "south"]


def refusal_of(machine: Machine, plan: Plan, version: int, reason: RefusalReason) -> str:
    name = digest(manifest("north", plan, version=version))
    machine.send(Refused(at=machine.at, round=1, participant="north", digest=name, reason=reason, message="bad"))
    machine.send(Told(at=machine.at, round=1, participant="north", digest=name))
    return name


def test_a_refused_update_that_comes_again_is_not_read_again() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    machine.submit("north", plan)
    name = refusal_of(machine, plan, 0, RefusalReason.NOT_FINITE)
    for _ in range(3):
        machine.submit("north", plan)
        machine.send(Told(at=machine.at, round=1, participant="north", digest=name))
    assert machine.count(Check) == 1
    reply = assignment.verdict(machine.state, "north", 1, name)
    assert reply is not None
    assert (reply.reason, reply.message) == (RefusalReason.NOT_FINITE, "bad")


@pytest.mark.parametrize("reason", [RefusalReason.NOT_FINITE, RefusalReason.MISSING_PART])
def test_checks_of_a_participant_in_a_round_are_bounded(reason: RefusalReason) -> None:
    machine = Machine(settings())
    plan = machine.opened()
    for attempt in range(3 * CHECKS_A_ROUND):
        version = attempt if reason is RefusalReason.NOT_FINITE else 0
        machine.submit("north", plan, version=version)
        refusal_of(machine, plan, version, reason)
    assert machine.count(Check) == CHECKS_A_ROUND
    assert not assignment.wants_update(machine.state, "north")
    assert assignment.wants_update(machine.state, "south")
    reply = assignment.verdict(machine.state, "north", 1, "0" * 64)
    assert reply is not None
    assert reply.reason is reason
    assert reply.message.startswith(f"{CHECKS_A_ROUND} updates of north were refused in round 1")
    machine.admit("south", plan)
    machine.admit("east", plan)
    assert machine.state.open is not None
    assert machine.state.open.missing == ["north"]


def test_what_comes_after_the_round_was_closed_changes_nothing_and_is_too_late() -> None:
    machine = Machine(settings(quorum=2, grace_seconds=0.0))
    plan = machine.opened()
    machine.submit("east", plan)
    machine.admit("north", plan)
    machine.admit("south", plan)
    assert machine.stage is Stage.MERGE
    before = machine.state
    machine.send(Admitted(at=machine.at, round=1, admission=admission("east", plan)))
    machine.submit("east", plan)
    assert machine.state == before
    late = assignment.verdict(machine.state, "east", 1, digest(manifest("east", plan)))
    assert late is not None
    assert late.reason is RefusalReason.TOO_LATE
    assert assignment.cancelled(machine.state, "east", assignment.train_id(1))
    assert not assignment.cancelled(machine.state, "north", assignment.train_id(1))


def test_a_commit_of_another_aggregator_is_adopted_in_the_middle_of_a_round() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    machine.admit("north", plan)
    foreign = next_commit(head(), ["north", "south"], plan)
    machine.send(Committed(at=machine.at, commit=foreign, digest=digest(foreign)))
    assert machine.stage is Stage.PLAN
    assert machine.last(WritePlan).plan.base == digest(foreign)
    machine.send(Committed(at=machine.at, commit=foreign, digest=digest(foreign)))
    assert machine.count(WritePlan) == 2


def test_our_own_commit_that_lost_is_ignored_after_the_winner_was_adopted() -> None:
    machine = Machine(settings(quorum=2, grace_seconds=0.0))
    plan = machine.opened()
    machine.admit("north", plan)
    machine.admit("south", plan)
    winner = next_commit(head(), NAMES, plan)
    machine.send(Committed(at=machine.at, commit=winner, digest=digest(winner)))
    state = machine.state
    machine.commit()
    assert machine.state == state


def test_a_plan_of_another_base_is_ignored() -> None:
    machine = Machine(settings())
    machine.recovered()
    plan = machine.last(WritePlan).plan.model_copy(update={"base": "0" * 64})
    machine.send(PlanReady(at=machine.at, plan=plan, digest=digest(plan), planned_at=machine.at))
    assert machine.stage is Stage.PLAN


def test_a_plan_of_another_aggregator_with_fewer_participants_lowers_the_quorum_to_its_cohort() -> None:
    machine = Machine(settings())
    machine.recovered()
    plan = machine.last(WritePlan).plan.model_copy(update={"cohort": ["north"], "participants": ["north"]})
    machine.send(PlanReady(at=machine.at, plan=plan, digest=digest(plan), planned_at=machine.at))
    machine.admit("north", plan)
    assert machine.stage is Stage.MERGE


def test_found_manifests_are_checked_again_and_once() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    record = manifest("north", plan)
    found = Found(at=machine.at, round=1, participant="north", manifest=record, digest=digest(record))
    machine.send(found)
    machine.send(found)
    assert machine.count(Check) == 1
    machine.send(
        Refused(
            at=machine.at,
            round=1,
            participant="north",
            digest=digest(record),
            reason=RefusalReason.MISSING_PART,
            message="gone",
        )
    )
    machine.send(found)
    assert machine.count(Check) == 1


def test_opening_a_round_looks_at_once_and_then_every_few_seconds() -> None:
    machine = Machine(settings(look_seconds=5.0))
    machine.opened()
    assert machine.last(Look).open_round == 1
    machine.send(Tick(at=1004.0))
    assert machine.count(Look) == 1
    machine.send(Looked(at=1000.5))
    machine.send(Tick(at=1005.4))
    assert machine.count(Look) == 1
    machine.send(Tick(at=1005.5))
    assert machine.count(Look) == 2


def test_a_word_of_a_later_round_brings_the_look_forward_but_not_endlessly() -> None:
    machine = Machine(settings(look_seconds=50.0))
    machine.opened()
    machine.send(Looked(at=1000.0))
    for _ in range(5):
        machine.send(Ahead(at=1000.1))
        machine.send(Tick(at=1000.1))
    assert machine.count(Look) == 1
    machine.send(Tick(at=1000.5))
    assert machine.count(Look) == 2


# --- stopping ---------------------------------------------------------------------------------------------------------


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
            machine.send(Heard(at=machine.at, participant=name))
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
    machine.send(Heard(at=machine.at, participant="north"))
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
    machine.send(Heard(at=machine.at, participant="east", done="evaluate-00001"))
    assert machine.stage is Stage.DONE


def test_a_worker_that_dies_while_it_evaluates_does_not_hold_the_end_up() -> None:
    machine = Machine(settings(rounds=1, absent_seconds=15.0))
    machine.recovered()
    train_round(machine)
    machine.send(Heard(at=1010.0, participant="north"))
    machine.send(Tick(at=1020.0))
    assert machine.stage is Stage.EVALUATE
    machine.send(Tick(at=1025.0))
    assert machine.stage is Stage.DONE


def test_who_falls_silent_is_noted_as_absent_and_who_never_came_is_not() -> None:
    machine = Machine(settings(absent_seconds=15.0))
    machine.opened()
    machine.send(Heard(at=1001.0, participant="north"))
    machine.send(Tick(at=1016.0))
    machine.send(Tick(at=1017.0))
    assert machine.notes().count("ParticipantAbsent") == 1
    machine.send(Heard(at=1018.0, participant="north"))
    assert machine.notes().count("ParticipantJoined") == 2


def test_evaluations_have_a_deadline_too() -> None:
    machine = Machine(settings(rounds=1))
    machine.recovered()
    train_round(machine)
    machine.send(Heard(at=1099.0, participant="north"))
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
