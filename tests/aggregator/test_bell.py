"""A change wakes whom it concerns: the others are answered as before, so asking again would be for nothing."""

from __future__ import annotations

import asyncio

from photon.protocol.canonical import digest
from photon.protocol.messages import RefusalReason
from photon.protocol.views import Stage
from photon_aggregator.bell import Bell, concerned, noticed
from photon_aggregator.rounds.events import Event, Heartbeat, Submitted, Tick, UpdateRefused
from tests.aggregator.machine import Machine, manifest, settings


def woken(machine: Machine, event: Event) -> object:
    before = machine.state
    machine.send(event)
    return concerned(before, machine.state, event) if noticed(before, machine.state) else "nobody"


def test_what_one_does_wakes_only_that_one_and_what_changes_the_round_wakes_everyone() -> None:
    machine = Machine(settings(quorum=2, grace_seconds=0.0))
    plan = machine.opened()
    one = manifest("north", plan)
    submitted = Submitted(at=machine.at, round=1, participant="north", manifest=one, digest=digest(one))
    assert woken(machine, submitted) == ("north",)
    assert woken(machine, Heartbeat(at=machine.at, participant="south")) == "nobody"
    refused = UpdateRefused(
        at=machine.at, round=1, participant="north", digest=digest(one), reason=RefusalReason.NOT_FINITE, message=""
    )
    assert woken(machine, refused) == ("north",)
    assert woken(machine, Tick(at=machine.at)) in ((), "nobody")
    machine.admit("east", plan)
    before = machine.state
    machine.admit("south", plan)
    assert machine.state.stage is Stage.MERGE
    assert concerned(before, machine.state, Tick(at=machine.at)) is None


def test_timers_are_woken_by_everything_and_participants_by_what_is_theirs() -> None:
    async def main() -> None:
        bell, order = Bell(), list[str]()

        async def wait(name: str | None) -> None:
            await bell.wait(60, name)
            order.append(name or "timer")

        waiting = [asyncio.create_task(wait(name)) for name in (None, "north", "south")]
        await asyncio.sleep(0)
        bell.ring(("north",))
        await asyncio.gather(*waiting[:2])
        assert sorted(order) == ["north", "timer"]
        bell.ring()
        await waiting[2]
        await bell.wait(0.01, "north")

    asyncio.run(main())
