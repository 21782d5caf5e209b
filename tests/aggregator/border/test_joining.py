"""Institutions join a job at its door: with an invitation, signatures and sessions, to the same model as elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable

from photon.api.status import MemberState
from photon.protocol.canonical import digest
from photon.protocol.messages import TrainTask
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.trust import statements
from photon.trust.keys import Identity
from photon.trust.members import MemberRecord, fold
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker, write_round_zero
from tests.aggregator.running import Aggregator, aggregator, chain, working


def site(hub: Hub, name: str, token: str | None = None) -> Site:
    return Site(name, [hub.url], hub=hub.identity.key, invitation=token)


def changes(running: Aggregator) -> list[tuple[str, str]]:
    """Whose access changed, as people are told."""
    events = json.loads(running.text("/v1/events"))
    return [(event["participant"], event["reason"]) for event in events if event["kind"] == "AccessChanged"]


def test_a_job_across_institutions_ends_with_the_model_of_one_at_home(
    hub: Hub, other_store: Callable[[str], ObjectStore]
) -> None:
    sites = [site(hub, name, hub.invite(name)) for name in hub.remote]
    with hub.running() as running:
        assert [one.join().state for one in sites] == [MemberState.ACTIVE, MemberState.ACTIVE]
        with working(FakeWorker("home", [running.url]), *sites):
            running.wait()
    assert (running.code, running.error) == (0, None)

    alone = other_store("alone")
    write_round_zero(hub.job, alone)
    with (
        aggregator(hub.job, alone) as local,
        working(*(FakeWorker(name, [local.url]) for name in ("home", "north", "south"))),
    ):
        local.wait()
    assert digest(chain(hub.store)[-1]) == digest(chain(alone)[-1])
    assert all(one.finish is not None and one.finish.reason == "RoundsDone" for one in sites)


def test_what_was_signed_is_kept_beside_the_records(hub: Hub) -> None:
    sites = [site(hub, name, hub.invite(name)) for name in hub.remote]
    with hub.running() as running:
        for one in sites:
            one.join()
        with working(FakeWorker("home", [running.url]), *sites):
            running.wait()
    north = sites[0].identity.key
    history = [MemberRecord.model_validate_json(hub.store.get(keys.member("north", 1)))]
    job = digest(sites[0].learning)
    assert fold("north", history, hub=hub.identity.key, job=job, job_name="default/test").key == north

    last = chain(hub.store)[-1]
    taken = {update.participant: update.manifest for update in last.accepted}
    signed = hub.store.get(keys.update_signature(3, "north", taken["north"]))
    assert statements.verify(signed, statements.Update, north).manifest == taken["north"]
    said = statements.verify(hub.store.get(keys.commit_signature(3)), statements.Commit, hub.identity.key)
    assert said.commit == digest(last)
    assert said.keys == {one.name: one.identity.key.id for one in sites}
    task = statements.verify(sites[0].envelopes[0].encode(), statements.Task2, hub.identity.key)
    assert (task.kind, task.round, task.participant) == ("train", 1, "north")


def test_the_first_round_waits_until_everybody_has_joined(hub: Hub) -> None:
    north = site(hub, "north", hub.invite("north"))
    with hub.running() as running:
        north.join()
        running.until(lambda engine: engine.state.lacks_members)
        reason = running.get("/v1/status")["conditions"][0]
        assert reason["reason"] == "WaitingForParticipants"
        assert "south (Invited)" in reason["message"]


def test_a_participant_that_is_revoked_is_out_at_once_and_can_come_back(hub: Hub) -> None:
    north = site(hub, "north", hub.invite("north"))
    with hub.running() as running:
        north.join()
        hub.change("north", access="Revoked")
        running.until(lambda engine: engine.state.members.get("north") is MemberState.REVOKED)
        refused = north.http.get(f"{hub.url}/v1/job")
        assert (refused.status_code, refused.json()["error"]["reason"]) == (401, "SessionSuperseded")
        assert north.session().json()["error"]["reason"] == "Revoked"

        hub.change("north", access="Granted")
        running.until(lambda engine: engine.state.members.get("north") is MemberState.ACTIVE)
        assert north.session().status_code == 200


def test_membership_survives_a_new_aggregator(hub: Hub) -> None:
    north = site(hub, "north", hub.invite("north"))
    with hub.running():
        north.join()
    with hub.running() as again:
        again.until(lambda engine: engine.state.members.get("north") is MemberState.ACTIVE)
        assert north.http.get(f"{hub.url}/v1/job").json()["error"]["reason"] == "SessionExpired"
        assert north.session().status_code == 200
        # It was said when it enrolled, and is no news after a restart; what the administrator changed meanwhile is.
        assert changes(again) == []
    hub.change("north", access="Revoked")
    with hub.running() as third:
        third.until(lambda engine: engine.state.members.get("north") is MemberState.REVOKED)
        assert changes(third) == [("north", "Revoked")]


def test_manual_approval_waits_for_the_key_to_be_confirmed(hub: Hub) -> None:
    north = site(hub, "north", hub.invite("north", approval="Manual"))
    with hub.running() as running:
        north.enroll()
        assert north.session().json()["error"]["reason"] == "AwaitingApproval"

        hub.change("north", key=north.identity.key.text)
        running.until(lambda engine: engine.state.members.get("north") is MemberState.ACTIVE)
        assert north.session().status_code == 200


def test_a_known_key_needs_no_token(hub: Hub) -> None:
    north = site(hub, "north")
    hub.change("north", key=north.identity.key.text)
    with hub.running():
        assert north.join().state is MemberState.ACTIVE


def test_a_key_is_rotated_without_a_restart_and_what_was_under_way_counts(hub: Hub) -> None:
    north, south = (site(hub, name, hub.invite(name)) for name in hub.remote)
    with hub.running() as running:
        for one in (north, south):
            one.join()
            one.learning = one.job().learning
            one.job_digest = digest(one.learning)
        task = north.next_task(None)
        assert isinstance(task, TrainTask)
        prepared = north.prepare(task)
        north.upload(task, prepared)

        old, new = north.identity, Identity.new()
        assert north.rotated(new, new, old).status_code == 403
        assert north.rotated(new, south.identity, new).status_code == 403
        assert north.rotated(new).status_code == 200
        assert running.engine.state.member_keys["north"] == new.key.fingerprint

        # Signed by the key before: the round is not lost.
        assert north.submit(task.round, prepared.manifest).state == "accepted"
        north.identity = new
        assert north.session().status_code == 200
        north.identity = old
        assert north.session().status_code == 403
    with hub.running() as again:
        again.until(lambda engine: engine.state.member_keys.get("north") == new.key.fingerprint)


def test_one_that_leaves_is_not_awaited(hub: Hub) -> None:
    sites = [site(hub, name, hub.invite(name)) for name in hub.remote]
    with hub.running() as running:
        for one in sites:
            one.join()
        sites[0].learning = sites[0].job().learning
        sites[0].job_digest = digest(sites[0].learning)
        running.until(lambda engine: engine.state.open is not None)
        assert sites[0].left().status_code == 200
        with working(FakeWorker("home", [running.url]), sites[1]):
            running.wait()
    assert running.code == 0
    assert [update.participant for update in chain(hub.store)[-1].accepted] == ["home", "south"]


def test_outside_its_routes_the_door_says_nothing(hub: Hub) -> None:
    north = site(hub, "north", hub.invite("north"))
    with hub.running():
        north.join()
        for path in ("/", "/v1/status", "/metrics", "/openapi.json", "/healthz", "/jobs/default/other/v1/hello"):
            assert north.http.get(f"{hub.origin}{path}").status_code == 404, path
        for path in ("status", "metrics", "history", "live", "job/", "rounds/1/merge"):
            assert north.http.get(f"{hub.url}/v1/{path}").status_code == 404, path
