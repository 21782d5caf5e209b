"""Participants that join from elsewhere: who is planned, who is awaited, and how the same membership is repeated."""

from __future__ import annotations

from photon.api.status import MemberState
from photon.protocol.canonical import digest
from photon.protocol.records import LeftOut
from photon.protocol.views import Stage
from photon_aggregator.rounds.events import Heartbeat, Members, Merge, WritePlan
from photon_aggregator.rounds.state import PastRound
from tests.aggregator.machine import Machine, manifest, settings

ACTIVE, INVITED, REVOKED, LEFT = (
    MemberState.ACTIVE,
    MemberState.INVITED,
    MemberState.REVOKED,
    MemberState.LEFT,
)


def machine(least: int = 1, **fields: object) -> Machine:
    """``east`` runs at the hub; ``north`` and ``south`` join."""
    return Machine(settings(remote=frozenset({"north", "south"}), min_participants=least, **fields))


def stand(it: Machine, north: MemberState, south: MemberState) -> None:
    it.send(Members(at=it.at, states={"north": north, "south": south}))


def test_the_first_round_waits_for_as_many_members_as_the_job_asks_for() -> None:
    it = machine(least=3)
    it.recovered()
    assert it.count(WritePlan) == 0

    stand(it, ACTIVE, INVITED)
    assert it.count(WritePlan) == 0
    assert it.notes() == ["AccessChanged", "WaitingForParticipants"]

    stand(it, ACTIVE, ACTIVE)
    it.send(Heartbeat(at=it.at, participant="south"))
    assert it.last(WritePlan).plan.cohort == ["east", "north", "south"]
    assert it.last(WritePlan).plan.left_out == {}


def test_who_is_no_member_is_left_out_of_the_plan_by_name() -> None:
    it = machine()
    it.recovered()
    stand(it, INVITED, INVITED)

    plan = it.planned()

    assert plan.cohort == ["east"]
    assert plan.left_out == {"north": LeftOut.NOT_A_MEMBER, "south": LeftOut.NOT_A_MEMBER}


def test_who_joins_in_mid_job_is_in_the_next_round_once_its_worker_was_heard() -> None:
    it = machine()
    stand(it, INVITED, INVITED)
    it.recovered()
    plan = it.planned()
    stand(it, ACTIVE, INVITED)
    it.admit("east", plan)
    it.commit()
    plan = it.planned()
    # Its worker may be in a queue for hours: no round waits for it.
    assert (plan.cohort, plan.left_out["north"]) == (["east"], LeftOut.ABSENT)

    it.send(Heartbeat(at=it.at, participant="north"))
    it.admit("east", plan)
    it.commit()

    assert it.planned().cohort == ["east", "north"]


def test_the_first_round_waits_for_the_workers_of_its_members() -> None:
    it = machine(least=3)
    stand(it, INVITED, INVITED)
    it.recovered()
    stand(it, ACTIVE, ACTIVE)
    assert it.count(WritePlan) == 0

    it.send(Heartbeat(at=it.at, participant="north"))
    assert it.count(WritePlan) == 0
    it.send(Heartbeat(at=it.at, participant="south"))

    assert it.planned().cohort == ["east", "north", "south"]


def test_a_new_aggregator_takes_all_members_for_heard() -> None:
    it = machine(least=3)
    stand(it, ACTIVE, ACTIVE)
    it.recovered()

    assert it.planned().cohort == ["east", "north", "south"]


def test_a_round_does_not_wait_for_a_participant_that_was_revoked_meanwhile() -> None:
    it = machine()
    stand(it, ACTIVE, ACTIVE)
    it.recovered()
    plan = it.planned()
    it.admit("east", plan)
    it.admit("south", plan)
    assert it.stage is Stage.TRAIN

    stand(it, REVOKED, ACTIVE)

    assert it.stage is Stage.MERGE
    assert [one.participant for one in it.last(Merge).admissions] == ["east", "south"]


def test_an_update_that_was_admitted_before_its_participant_left_counts() -> None:
    it = machine()
    stand(it, ACTIVE, ACTIVE)
    it.recovered()
    plan = it.planned()
    it.admit("north", plan)
    stand(it, LEFT, ACTIVE)
    it.admit("east", plan)
    it.admit("south", plan)

    assert [one.participant for one in it.last(Merge).admissions] == ["east", "north", "south"]


def test_a_round_whose_whole_cohort_was_revoked_is_given_up() -> None:
    it = Machine(settings(("north", "south"), remote=frozenset({"north", "south"})))
    stand(it, ACTIVE, ACTIVE)
    it.recovered()
    it.planned()

    stand(it, REVOKED, REVOKED)

    assert it.stage is Stage.MERGE
    assert it.last(Merge).admissions == ()


def test_with_no_member_left_the_job_waits_and_goes_on_when_one_is_back() -> None:
    it = Machine(settings(("north", "south"), remote=frozenset({"north", "south"})))
    stand(it, ACTIVE, ACTIVE)
    it.recovered()
    plan = it.planned()
    it.admit("north", plan)
    it.admit("south", plan)
    stand(it, REVOKED, LEFT)
    it.commit()
    assert it.count(WritePlan) == 1

    stand(it, ACTIVE, LEFT)
    it.send(Heartbeat(at=it.at, participant="north"))

    assert it.planned().cohort == ["north"]


def test_evaluations_of_who_has_left_are_not_awaited() -> None:
    it = machine(rounds=1)
    stand(it, ACTIVE, ACTIVE)
    it.recovered()
    plan = it.planned()
    for name in ("east", "north", "south"):
        it.admit(name, plan)
    it.present("north")
    it.commit()
    assert it.stage is Stage.EVALUATE

    stand(it, LEFT, ACTIVE)

    assert it.stage is Stage.DONE


def test_a_job_without_remote_participants_has_the_plans_that_it_always_had() -> None:
    it = Machine(settings())
    it.recovered()

    assert it.last(WritePlan).plan.left_out == {}
    assert it.state.quorum_of(it.planned()) == 3


def test_after_a_restart_no_round_is_planned_or_closed_before_the_records_of_members_are_read() -> None:
    it = machine()
    it.recovered()
    assert (it.count(WritePlan), it.notes()) == (0, [])
    stand(it, ACTIVE, ACTIVE)
    assert it.last(WritePlan).plan.left_out == {}

    again = machine()
    again.recovered(planned=True)
    plan = again.planned()
    again.admit("east", plan)
    assert again.stage is Stage.TRAIN
    stand(again, ACTIVE, ACTIVE)
    assert again.stage is Stage.TRAIN


def test_the_same_membership_gives_the_same_plans_and_takes_the_same_updates() -> None:
    hub = machine()
    stand(hub, ACTIVE, INVITED)
    hub.recovered()
    first = hub.planned()

    past = PastRound(not_members=frozenset({"south"}), updates={"east": digest(manifest("east", first))})
    here = Machine(settings(replayed={1: past}))
    here.recovered()
    plan = here.planned()
    assert digest(plan) == digest(first)

    here.admit("north", plan)
    assert here.stage is Stage.TRAIN
    here.admit("east", plan)

    assert [one.participant for one in here.last(Merge).admissions] == ["east"]
    # Of the cohort north was revoked in mid-round: what was a quorum then is one here, or the round would be given up.
    assert here.last(Merge).quorum == 1
