"""Updates that come again, are refused, or come too late, in the round's state machine."""

from __future__ import annotations

import pytest

from photon.protocol.canonical import digest
from photon.protocol.messages import RefusalReason
from photon.protocol.records import Plan
from photon.protocol.views import Stage
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import (
    Admitted,
    CheckUpdate,
    RefusalSeen,
    UpdateRefused,
)
from photon_aggregator.rounds.state import CHECKS_A_ROUND
from tests.aggregator.machine import (
    Machine,
    admission,
    manifest,
    settings,
)


def test_an_update_that_comes_again_is_checked_once() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    machine.submit("north", plan)
    machine.submit("north", plan)
    machine.submit("north", plan, version=1)
    assert machine.count(CheckUpdate) == 1
    machine.send(Admitted(at=machine.at, round=1, admission=admission("north", plan)))
    machine.submit("north", plan)
    machine.submit("north", plan, version=1)
    machine.send(Admitted(at=machine.at, round=1, admission=admission("north", plan)))
    machine.send(Admitted(at=machine.at, round=1, admission=admission("north", plan, version=1)))
    assert machine.count(CheckUpdate) == 1
    assert machine.state.open is not None
    assert [a.digest for a in machine.state.open.admissions] == [digest(manifest("north", plan))]


def test_a_refused_participant_may_try_again_and_the_same_update_only_after_it_was_told() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    machine.submit("north", plan)
    name = digest(manifest("north", plan))
    refusal = UpdateRefused(
        at=machine.at, round=1, participant="north", digest=name, reason=RefusalReason.MISSING_PART, message="gone"
    )
    machine.send(refusal)
    machine.submit("north", plan)
    assert machine.count(CheckUpdate) == 1
    reply = assignment.verdict(machine.state, "north", 1, name)
    assert reply is not None
    assert reply.reason is RefusalReason.MISSING_PART
    machine.send(RefusalSeen(at=machine.at, round=1, participant="north", digest=name))
    machine.submit("north", plan)
    assert machine.count(CheckUpdate) == 2
    machine.send(refusal)
    machine.admit("north", plan, version=1)
    assert machine.count(CheckUpdate) == 3
    assert machine.state.open is not None
    assert machine.state.open.missing == ["east", "south"]


def refusal_of(machine: Machine, plan: Plan, version: int, reason: RefusalReason) -> str:
    name = digest(manifest("north", plan, version=version))
    machine.send(UpdateRefused(at=machine.at, round=1, participant="north", digest=name, reason=reason, message="bad"))
    machine.send(RefusalSeen(at=machine.at, round=1, participant="north", digest=name))
    return name


def test_a_refused_update_that_comes_again_is_not_read_again() -> None:
    machine = Machine(settings())
    plan = machine.opened()
    machine.submit("north", plan)
    name = refusal_of(machine, plan, 0, RefusalReason.NOT_FINITE)
    for _ in range(3):
        machine.submit("north", plan)
        machine.send(RefusalSeen(at=machine.at, round=1, participant="north", digest=name))
    assert machine.count(CheckUpdate) == 1
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
    assert machine.count(CheckUpdate) == CHECKS_A_ROUND
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
