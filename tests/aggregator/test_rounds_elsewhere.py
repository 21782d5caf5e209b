"""What the round's state machine makes of what another aggregator, or its own last life, left in the bucket."""

from __future__ import annotations

from photon.protocol.canonical import digest
from photon.protocol.messages import RefusalReason
from photon.protocol.views import Stage
from photon_aggregator.rounds.events import (
    Ahead,
    CheckUpdate,
    Committed,
    ManifestFound,
    PlanReady,
    Scan,
    Scanned,
    Tick,
    UpdateRefused,
    WritePlan,
)
from tests.aggregator.machine import (
    NAMES,
    Machine,
    head,
    manifest,
    next_commit,
    settings,
)


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
    found = ManifestFound(at=machine.at, round=1, participant="north", manifest=record, digest=digest(record))
    machine.send(found)
    machine.send(found)
    assert machine.count(CheckUpdate) == 1
    machine.send(
        UpdateRefused(
            at=machine.at,
            round=1,
            participant="north",
            digest=digest(record),
            reason=RefusalReason.MISSING_PART,
            message="gone",
        )
    )
    machine.send(found)
    assert machine.count(CheckUpdate) == 1


def test_opening_a_round_looks_at_once_and_then_every_few_seconds() -> None:
    machine = Machine(settings(scan_seconds=5.0))
    machine.opened()
    assert machine.last(Scan).open_round == 1
    machine.send(Tick(at=1004.0))
    assert machine.count(Scan) == 1
    machine.send(Scanned(at=1000.5))
    machine.send(Tick(at=1005.4))
    assert machine.count(Scan) == 1
    machine.send(Tick(at=1005.5))
    assert machine.count(Scan) == 2


def test_a_word_of_a_later_round_brings_the_look_forward_but_not_endlessly() -> None:
    machine = Machine(settings(scan_seconds=50.0))
    machine.opened()
    machine.send(Scanned(at=1000.0))
    for _ in range(5):
        machine.send(Ahead(at=1000.1))
        machine.send(Tick(at=1000.1))
    assert machine.count(Scan) == 1
    machine.send(Tick(at=1000.5))
    assert machine.count(Scan) == 2
