"""Attacks on a hub from outside, by somebody who has valid keys and the source: one function a row of the threat model.

Rows A3, A11 and A14 are the institution's side (tests/gate), A12 is the audit's (tests/audit), A13 needs a cluster.
A8, signed false evaluations, is in test_beyond_rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from photon.api.status import MemberState
from photon.protocol.border import BorderUpdate
from photon.protocol.canonical import digest, sha256_hex
from photon.protocol.messages import PartsReply, PartsRequest, TrainTask, UpdateSubmission
from photon.store import keys
from photon.trust.keys import Identity
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker, Prepared
from tests.aggregator.running import Aggregator


def site(hub: Hub, name: str, token: str | None = None, identity: Identity | None = None) -> Site:
    return Site(
        name, [hub.url], hub=hub.identity.key, invitation=token, identity=identity or Identity.new(), patience=60
    )


def reason(reply: httpx.Response) -> str:
    return str(reply.json()["error"]["reason"])


@contextmanager
def open_round(hub: Hub) -> Iterator[tuple[Aggregator, Site, Site, TrainTask]]:
    """North (the attacker) and south are members, and the first round is open."""
    north, south = (site(hub, name, hub.invite(name)) for name in ("north", "south"))
    with hub.running() as running:
        for one in (north, south):
            one.join()
            one.learning = one.job().learning
            one.job_digest = digest(one.learning)
        task = north.next_task(None)
        assert isinstance(task, TrainTask)
        yield running, north, south, task


def handed_in(one: Site, task: TrainTask, prepared: Prepared, envelope: str | None = None) -> httpx.Response:
    """An update as the attacker likes it; ``envelope``: what it says that it signed."""
    body = {
        "submission": UpdateSubmission(manifest=prepared.manifest).model_dump(mode="json", by_alias=True),
        "envelope": envelope or one.update_statement(prepared.manifest),
    }
    return FakeWorker.request(
        one, "POST", f"/v1/rounds/{task.round}/update", content=json.dumps(body), params={"wait_seconds": 5}
    )


def test_a1_a_stranger_finds_nothing_but_the_door(hub: Hub) -> None:
    with hub.running(), httpx.Client(trust_env=False) as stranger:
        site(hub, "north").hello()
        for path in ("/", "/v1/status", "/v1/live", "/metrics", "/openapi.json", "/docs", "/healthz", "/page.js"):
            assert stranger.get(f"{hub.origin}{path}").status_code == 404, path
        for path in ("/v1/job", "/v1/task", "/v1/participant", "/v1/commits"):
            answer = stranger.get(f"{hub.url}{path}")
            assert (answer.status_code, reason(answer)) == (401, "Unauthenticated"), path
        assert stranger.request("OPTIONS", f"{hub.url}/v1/hello").status_code in (404, 405)


def test_a2_an_invitation_is_neither_guessed_nor_used_twice(hub: Hub) -> None:
    token = hub.invite("north")
    honest, thief = site(hub, "north", token), site(hub, "north", token)
    with hub.running():
        guess = site(hub, "north", f"phi_{token[4:12]}.{'A' * 43}")
        assert reason(guess.enroll()) == "InvitationUnknown"
        elsewhere = site(hub, "south", token)
        assert reason(elsewhere.enroll()) == "InvitationUnknown"
        assert reason(site(hub, "north", token).enroll(audience=thief.identity.key.id)) == "BadSignature"
        assert reason(site(hub, "north", token).enroll(job_name="default/other")) == "BadSignature"

        assert thief.enroll().status_code == 200
        late = honest.enroll()
        assert (late.status_code, reason(late)) == (409, "InvitationUsed")
        # The institution sees whose key took its place, and calls the hub.
        for key in (thief.identity.key, honest.identity.key):
            assert key.fingerprint in late.json()["error"]["message"]

        hub.invite("south", valid=-1)
        expired = site(hub, "south", hub.invite("south", valid=-1))
        assert reason(_soon(expired)) == "InvitationExpired"


def _soon(one: Site) -> httpx.Response:
    """The answer to an enrollment once the door has read what was changed last."""
    for _ in range(100):
        reply = one.enroll()
        if reason(reply) != "InvitationUnknown":
            break
        one.stop.wait(0.1)
    return reply


def test_a2_guessing_ends(hub: Hub) -> None:
    token, now = hub.invite("north"), [100.0]
    hub.clock = lambda: now[0]
    with hub.running():
        site(hub, "north").hello()
        for number in range(21):
            wrong = site(hub, "north", f"phi_{token[4:12]}.{'A' * 43}")
            body = wrong.enrolment().model_dump(mode="json", by_alias=True)
            answer = wrong.http.post(f"{hub.url}/v1/enrolment", json=body)
            # Five at once, then one each twelve seconds.
            assert (answer.status_code, "Retry-After" in answer.headers) == (
                (429, True) if number == 5 else (401, False)
            )
            if number >= 4:
                now[0] += 12.0 if number != 4 else 0.0
        locked = site(hub, "north", token).enroll()
        assert reason(locked) == "InvitationUnknown"
        assert "renew" in locked.json()["error"]["message"]


def test_a4_a_stolen_session_cannot_sign(hub: Hub) -> None:
    with open_round(hub) as (running, _north, south, task):
        # A proxy that reads TLS has south's session, and no key of it.
        thief = site(hub, "south")
        thief.http.headers["Authorization"] = south.http.headers["Authorization"]
        thief.learning, thief.job_digest = south.learning, south.job_digest
        prepared = thief.prepare(task)
        thief.upload(task, prepared)
        assert reason(handed_in(thief, task, prepared)) == "BadSignature"
        assert reason(thief.left()) == "BadSignature"
        assert running.engine.state.members["south"] is MemberState.ACTIVE

        # The institution opens another session: the stolen one is void.
        assert south.session().status_code == 200
        assert reason(thief.http.get(f"{hub.url}/v1/job")) == "SessionSuperseded"


def test_a4_a_challenge_is_used_once(hub: Hub) -> None:
    with open_round(hub) as (_, north, _south, _task):
        hello = north.hello()
        assert north.session(hello).status_code == 200
        assert reason(north.session(hello)) == "SessionExpired"
        assert reason(north.session(challenge="0" * 32)) == "SessionExpired"
        other = Identity.new()
        assert reason(north.session(audience=other.key.id)) == "BadSignature"


def test_a5_nobody_reaches_the_objects_of_others(hub: Hub) -> None:
    with open_round(hub) as (_, north, _south, task):
        prepared = north.prepare(task)
        asked = north.post(f"/v1/rounds/{task.round}/parts", PartsRequest(plan=task.plan, parts=prepared.records[:1]))
        upload = PartsReply.model_validate_json(asked.content).uploads[0]
        data = prepared.parts[0]
        altered = upload.url.replace("/updates/north/", "/updates/south/")
        assert altered != upload.url
        assert north.http.put(altered, headers=upload.headers, content=data).status_code == 403
        assert north.http.put(upload.url, headers=upload.headers, content=b"x" * len(data)).status_code == 400
        assert north.http.get(upload.url).status_code == 403
        listing = upload.url.partition("?")[0].rpartition("/updates/")[0]
        assert north.http.get(listing).status_code in (403, 404)
        for path in ("rounds/../participant/parts", "rounds/1%2f..%2fx/parts", "rounds/-1/parts"):
            assert north.http.post(f"{hub.url}/v1/{path}", content="{}").status_code == 404, path

        forged = prepared.manifest.model_copy(update={"participant": "south"})
        said = north.update_statement(forged, participant="south")
        answer = handed_in(north, task, Prepared(parts=prepared.parts, records=prepared.records, manifest=forged), said)
        assert reason(answer) == "BadSignature"
        assert hub.store.head(keys.manifest(task.round, "south")) is None


def test_a6_nothing_that_was_signed_for_something_else_counts(hub: Hub) -> None:
    with open_round(hub) as (_, north, south, task):
        mine, theirs = north.prepare(task), south.prepare(task)
        changes: list[dict[str, Any]] = [
            {"round": task.round + 1},
            {"plan": "f" * 64},
            {"manifest": digest(theirs.manifest)},
            {"tokens": 1},
            {"participant": "south"},
            {"audience": north.identity.key.id},
            {"job": "f" * 64},
        ]
        for change in changes:
            answer = handed_in(north, task, mine, north.update_statement(mine.manifest, **change))
            assert (answer.status_code, reason(answer)) == (403, "BadSignature"), change
        replayed = handed_in(north, task, mine, south.update_statement(theirs.manifest))
        assert reason(replayed) == "BadSignature"
        flipped = north.update_statement(mine.manifest)
        middle = len(flipped) // 2
        flipped = flipped[:middle] + ("A" if flipped[middle] != "A" else "B") + flipped[middle + 1 :]
        assert reason(handed_in(north, task, mine, flipped)) == "BadSignature"
        assert list(hub.store.list(f"{keys.round_folder(task.round)}/signatures/")) == []

        north.upload(task, mine)
        assert handed_in(north, task, mine).json()["state"] == "accepted"
        again = mine.manifest.model_copy(
            update={"metrics": mine.manifest.metrics.model_copy(update={"loss_last": 0.5})}
        )
        second = handed_in(north, task, Prepared(parts=mine.parts, records=mine.records, manifest=again))
        assert (second.json()["state"], second.json()["reason"]) == ("refused", "AlreadySubmitted")


def test_a7_a_poisoned_update_is_refused_and_says_why(hub: Hub) -> None:
    with open_round(hub) as (_, north, _south, task):
        wrong = north.prepare(task)
        wrong.manifest = wrong.manifest.model_copy(update={"tokens": 10**12})
        assert handed_in(north, task, wrong).json()["reason"] == "WrongTokens"

        shape = north.prepare(task)
        shape.manifest = shape.manifest.model_copy(update={"elements": shape.manifest.elements + 1})
        assert handed_in(north, task, shape).json()["reason"] == "WrongShape"

        infinite = _with_nan(north, task)
        north.upload(task, infinite)
        assert handed_in(north, task, infinite).json()["reason"] == "NotFinite"
        assert hub.store.head(keys.manifest(task.round, "north")) is None


def _with_nan(one: Site, task: TrainTask) -> Prepared:
    prepared = one.prepare(task)
    spoiled = bytearray(prepared.parts[0])
    spoiled[-4:] = np.array([np.nan], np.float32).tobytes()
    data = bytes(spoiled)
    record = prepared.records[0].model_copy(update={"sha256": sha256_hex(data)})
    prepared.parts[0], prepared.records[0] = data, record
    prepared.manifest = prepared.manifest.model_copy(update={"parts": prepared.records})
    return prepared


def _announced(hub: Hub, one: Site, path: str, size: int) -> int:
    """The answer to a request whose body never comes."""
    where = urlsplit(hub.url)
    with closing(HTTPConnection(where.netloc, timeout=10)) as line:
        line.putrequest("POST", f"{where.path}/v1/{path}")
        line.putheader("Authorization", one.http.headers["Authorization"])
        line.putheader("Content-Length", str(size))
        line.endheaders()
        return line.getresponse().status


def test_a9_floods_and_large_bodies_end_at_the_door(hub: Hub) -> None:
    with open_round(hub) as (running, north, south, _task):
        assert _announced(hub, north, "leave", 200_000) == 413
        assert _announced(hub, north, "rounds/1/update", 4_000_000) == 413
        packed = north.http.post(f"{hub.url}/v1/state", content=b"x", headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415
        with ThreadPoolExecutor(24) as many:
            held = [
                many.submit(
                    httpx.get,
                    f"{hub.url}/v1/task",
                    params={"wait_seconds": 3, "done": "train-00001"},
                    headers=dict(north.http.headers),
                    timeout=20,
                    trust_env=False,
                )
                for _ in range(24)
            ]
            statuses = {one.result().status_code for one in held}
        assert 429 in statuses
        # One that asks too much takes nothing from the others, and nothing from the inside.
        assert south.http.get(f"{hub.url}/v1/participant").status_code == 200
        assert running.get("/v1/status")["rounds"] == 3


def test_a9_an_institution_and_a_stranger_have_rates(hub: Hub) -> None:
    now = [100.0]
    hub.clock = lambda: now[0]

    def answers(count: int, ask: Callable[[], httpx.Response]) -> list[int]:
        return [ask().status_code for _ in range(count)]

    with open_round(hub) as (running, north, south, _task), httpx.Client(trust_env=False) as stranger:
        now[0] += 60.0

        def look() -> httpx.Response:
            return north.http.get(f"{hub.url}/v1/participant")

        assert answers(41, look) == [200] * 40 + [429]
        assert look().headers["Retry-After"] == "1"
        now[0] += 1.0
        assert answers(11, look) == [200] * 10 + [429]
        assert south.http.get(f"{hub.url}/v1/participant").status_code == 200

        def hello() -> httpx.Response:
            return stranger.get(f"{hub.url}/v1/hello", params={"nonce": "0" * 32})

        now[0] += 60.0
        assert answers(41, hello) == [200] * 40 + [429]
        now[0] += 1.0
        assert answers(6, hello) == [200] * 5 + [429]
        # Sessions: of those that signed. A stranger who names north uses up nothing of it.
        now[0] += 60.0
        thief = site(hub, "north")
        challenge = north.hello()
        assert answers(8, lambda: thief.session(challenge)) == [403] * 8
        signed = [north.session() for _ in range(5)]
        assert {one.status_code for one in signed} == {200}
        refused = running.text("/metrics")
        assert 'photon_door_refusals_total{job="test",reason="TooManyRequests"} 5.0' in refused


def test_a10_a_participant_learns_nothing_of_others(hub: Hub) -> None:
    with open_round(hub) as (_, north, _south, _task):
        for path in ("participant", "job", "commits"):
            text = north.http.get(f"{hub.url}/v1/{path}").text
            assert not {"south", "home"} & set(text.replace('"', " ").split()), path


def test_a15_a_stolen_key_is_revoked_and_replaced(hub: Hub) -> None:
    with open_round(hub) as (running, north, _south, _task):
        stolen = north.identity
        hub.change("north", access="Revoked")
        running.until(lambda engine: engine.state.members["north"] is MemberState.REVOKED)
        assert reason(north.session()) == "Revoked"

        token = hub.invite("north", access="Granted", serial=2)
        renewed = site(hub, "north", token)
        for _ in range(100):
            if renewed.enroll().status_code == 200:
                break
            renewed.stop.wait(0.1)
        assert renewed.session().status_code == 200
        old = site(hub, "north", identity=stolen)
        assert reason(old.session()) == "BadSignature"


def test_the_statement_of_an_update_must_be_there(hub: Hub) -> None:
    with open_round(hub) as (_, north, _south, task):
        prepared = north.prepare(task)
        submission = UpdateSubmission(manifest=prepared.manifest).model_dump(mode="json", by_alias=True)
        bare = FakeWorker.request(
            north, "POST", f"/v1/rounds/{task.round}/update", content=json.dumps({"submission": submission})
        )
        assert bare.status_code == 422
        assert "envelope" in bare.json()["error"]["message"]
        assert BorderUpdate.model_fields["envelope"].is_required()
