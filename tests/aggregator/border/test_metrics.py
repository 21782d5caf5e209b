"""What an administrator sees of the door in Prometheus: who is a member, what is asked, why it is refused."""

from __future__ import annotations

import json
import logging

import httpx
import pytest

from photon.telemetry import metric_names as names
from photon_aggregator.http.border.counts import LOG_SECONDS, Counts
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.running import Aggregator, HandClock
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
        *("evaluation", "commits", "log", "cosign", "leave", "keys", "state", "none"),
    }
    assert all(set(dict(labels)) <= {"job", "route", "reason", "state"} for labels in ours)


def test_the_log_names_both_keys_when_an_invitation_was_used_by_another(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    token = hub.invite("north")
    thief, honest = (Site("north", [hub.url], hub=hub.identity.key, invitation=token) for _ in range(2))
    with hub.running(), caplog.at_level(logging.WARNING):
        assert thief.enroll().status_code == 200
        assert honest.enroll().status_code == 409
    (line,) = [text for text in caplog.messages if "InvitationUsed" in text]
    assert thief.identity.key.fingerprint in line
    assert honest.identity.key.fingerprint in line


def test_a_flood_of_refusals_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    counts = Counts(clock=clock)
    body = json.dumps({"error": {"reason": "BadSignature", "message": "by another key"}}).encode()
    for _ in range(100):
        counts.refused(body)
    clock.now += LOG_SECONDS
    counts.refused(body)
    assert [text.partition("key")[2] for text in caplog.messages] == ["", " (and 99 times before)"]
    assert counts.refusals["BadSignature"] == 101
