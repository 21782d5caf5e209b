"""What an administrator sees of the door in Prometheus: who is a member, what is asked, why it is refused."""

from __future__ import annotations

import httpx

from photon.telemetry import metric_names as names
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.running import Aggregator
from tests.aggregator.test_metrics import Series, series

JOB = ("job", "test")


def read(running: Aggregator) -> Series:
    return series(running.text("/metrics"))


def test_requests_refusals_sessions_and_members_are_counted(hub: Hub) -> None:
    token = hub.invite("north")
    with hub.running() as running:
        north = Site("north", [hub.url], hub=hub.identity.key, invitation=token)
        north.hello()
        before = read(running)
        Site("north", [hub.url], hub=hub.identity.key, invitation=f"phi_{token[4:12]}.{'A' * 43}").enroll()
        north.join()
        httpx.get(f"{hub.origin}/openapi.json", trust_env=False)
        httpx.get(f"{hub.url}/v1/job", trust_env=False)
        httpx.get(f"{hub.url}/v1/hello?nonce=wrong", trust_env=False)
        found = read(running)

    def grew(name: str, label: str, value: str) -> float:
        return found[name, (JOB, (label, value))] - before[name, (JOB, (label, value))]

    assert grew(names.DOOR_REQUESTS, "route", "enrolment") == 2
    assert grew(names.DOOR_REQUESTS, "route", "session") == 1
    assert grew(names.DOOR_REQUESTS, "route", "job") == 1
    assert grew(names.DOOR_REQUESTS, "route", "none") == 1
    assert grew(names.DOOR_REFUSALS, "reason", "InvitationUnknown") == 1
    assert grew(names.DOOR_REFUSALS, "reason", "Unauthenticated") == 1
    assert grew(names.DOOR_REFUSALS, "reason", "InvalidRequest") == 2
    assert (before[names.DOOR_SESSIONS, (JOB,)], found[names.DOOR_SESSIONS, (JOB,)]) == (0, 1)
    states = {dict(labels)["state"]: value for (name, labels), value in found.items() if name == names.DOOR_MEMBERS}
    assert {state: value for state, value in states.items() if value} == {"Active": 1, "Invited": 1}


def test_a_series_names_no_institution_and_no_key(hub: Hub) -> None:
    """And no value that a stranger chose: labels are bounded whatever is asked."""
    with hub.running() as running:
        Site("north", [hub.url], hub=hub.identity.key).hello()
        for path in ("rounds/9999999/update", "rounds/x/update", "%0a", "made-up", "hello/hello"):
            httpx.get(f"{hub.url}/v1/{path}", trust_env=False)
        found = read(running)
    ours = [labels for name, labels in found if name.startswith("photon_door_")]
    routes = {dict(labels)["route"] for labels in ours if "route" in dict(labels)}
    assert routes == {
        *("hello", "enrolment", "session", "job", "task", "participant", "progress", "parts", "update"),
        *("evaluation", "commits", "leave", "keys", "state", "none"),
    }
    assert all(set(dict(labels)) <= {"job", "route", "reason", "state"} for labels in ours)
