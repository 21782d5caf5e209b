"""Who the hub is, and whether this institution may take part: with a hub that lies, on real sockets."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from photon.api.status import JoinReason
from photon.protocol.messages import FinishTask, Progress
from photon.trust import statements
from photon.trust.keys import Identity
from photon_gate.clocks import Clocks
from photon_gate.hub.errors import Declined
from photon_gate.program import Gate
from tests.gate.hub import SHA, ScriptedHub, bent, ends
from tests.gate.site import HEADERS, Institution


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        ({"nonce": "0" * 32}, JoinReason.HUB_NOT_TRUSTED, "nonce of its hello"),
        ({"job_name": "default/other"}, JoinReason.HUB_NOT_TRUSTED, "jobName"),
        ({"protocols": [3, 4]}, JoinReason.VERSION_SKEW, r"speaks protocols 3, 4, this gate \(.*\) 1, 2"),
        ({"object_origins": ["https://elsewhere.example"]}, JoinReason.HUB_NOT_TRUSTED, "https://elsewhere.example"),
    ],
)
def test_a_hello_that_does_not_fit_ends_the_gate(
    hub: ScriptedHub, site: Institution, change: dict[str, Any], reason: JoinReason, said: str
) -> None:
    def bend(status: int, body: Any) -> tuple[int, Any]:
        honest = statements.verify(body["envelope"].encode(), statements.Hello, hub.identity.key)
        return status, bent(body, envelope=hub.seal(honest.model_copy(update=change)))

    hub.bend["v1/hello"] = bend
    with site.gate() as gate:
        ends(gate.membership.step, reason, said)


def test_another_key_than_the_pinned_one_is_shown_with_both_fingerprints(hub: ScriptedHub, site: Institution) -> None:
    pinned = hub.identity.key.fingerprint
    hub.identity = Identity.new()
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, f"{hub.identity.key.fingerprint}.*pins {pinned}")


def test_a_signature_of_someone_else_ends_the_gate(hub: ScriptedHub, site: Institution) -> None:
    hub.bend["v1/hello"] = lambda status, body: (status, bent(body, publicKey=site_key))
    site_key, hub.identity = hub.identity.key.text, Identity.new()
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "is not signed by")


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "InvitationUnknown"), (401, "InvitationExpired"), (409, "InvitationUsed"), (403, "Revoked"), (403, "Left"),
     (426, "VersionSkew")],
)  # fmt: skip
def test_what_the_hub_refuses_for_good_ends_the_gate(
    hub: ScriptedHub, site: Institution, status: int, reason: str
) -> None:
    hub.refuse("v1/enrolment", status, reason)
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason(reason), "because")


def test_approval_is_awaited_without_a_gpu(hub: ScriptedHub, site: Institution) -> None:
    from photon.api.status import MemberState

    hub.state = MemberState.AWAITING_APPROVAL
    with site.gate() as gate:
        gate.membership.step()
        status = httpx.get(f"{site.address}/v1/status", trust_env=False).json()
        assert [c["type"] for c in status["conditions"] if c["status"] == "True"] == ["Pending"]
        assert status["conditions"][0]["reason"] == "AwaitingApproval"
        assert status["participants"][0]["access"] == "AwaitingApproval"
        job = httpx.get(f"{site.address}/v1/job", headers=HEADERS, trust_env=False)
        assert (job.status_code, job.json()["error"]["reason"]) == (503, "NotReady")
        hub.state = MemberState.ACTIVE
        gate.membership.step()
        assert httpx.get(f"{site.address}/v1/job", headers=HEADERS, trust_env=False).status_code == 200


def test_pauses_grow_to_five_minutes_and_what_the_hub_asks_for_counts(hub: ScriptedHub, site: Institution) -> None:
    hub.refuse("v1/hello", 503, "StorageUnavailable")
    with site.gate() as gate:
        gate.membership.jitter = lambda: 1.0
        pauses = [gate.membership.step() for _ in range(17)]
        assert pauses[:3] == [1, 1.5, 2.25]
        assert pauses[-2:] == [300, 300]
        assert gate.standing.reason == "HubUnreachable"
        hub.refuse("v1/hello", 503, "NotReady")
        assert gate.membership.step() == 5
        hub.refuse("v1/hello", 503, "NotReady", Retry_After="1000")
        assert gate.membership.step() == 1000
        hub.bend.clear()
        gate.membership.step()
        assert gate.standing.ready


def test_a_policy_refuses_the_job_before_a_worker_is_served(hub: ScriptedHub, site: Institution) -> None:
    site.policy = {"minTokensPerUpdate": 10**6}
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.POLICY_REFUSED, "the policy's minTokensPerUpdate is 1,000,000")
        assert not gate.standing.ready
    assert hub.bodies("v1/state")[-1] == {"state": "Declined", "reason": "PolicyRefused"}
    assert [entry.decision for entry in site.entries()] == ["PolicyRefused"]


def test_a_job_other_than_the_signed_one_ends_the_gate(hub: ScriptedHub, site: Institution) -> None:
    def bend(status: int, body: Any) -> tuple[int, Any]:
        return status, bent(body, learning={**body["learning"], "hfConfig": {**body["learning"]["hfConfig"], "x": 1}})

    hub.bend["v1/job"] = bend
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "digest of its job")


def test_a_setting_of_a_later_release_is_named(hub: ScriptedHub, site: Institution) -> None:
    hub.bend["v1/job"] = lambda status, body: (status, bent(body, learning={**body["learning"], "later": 1}))
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.VERSION_SKEW, "does not know: later")


def test_another_job_under_the_same_name_ends_the_gate_also_after_a_restart(
    hub: ScriptedHub, site: Institution
) -> None:
    with site.gate() as gate:
        gate.membership.step()
    hub.job = "77" * 32
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "job of its hello")


def test_a_session_that_ended_is_opened_again(hub: ScriptedHub, gate: Gate) -> None:
    gate.border.client._clock = lambda: gate.border.client._opened + 10
    hub.session = "gone"
    gate.membership.step()
    assert (hub.sessions, gate.standing.up) == (2, True)


def test_who_has_left_hears_so_and_not_of_another_gate(hub: ScriptedHub, gate: Gate) -> None:
    """photon leave opens a session, too: the gate's own ends, and the next one ends when the hub records the leave."""
    said = iter([(200, {"session": "9" * 43, "validSeconds": 900})])
    left = (403, {"error": {"reason": "Left", "message": "this institution has left the job"}})
    gate.border.client._opened -= 60
    hub.session = "of photon leave"
    hub.bend["v1/session"] = lambda *_: next(said, left)
    ends(gate.membership.step, JoinReason.LEFT, "has left the job")
    assert gate.standing.reason != JoinReason.HUB_UNREACHABLE


def test_another_gate_with_the_same_key_is_said(hub: ScriptedHub, gate: Gate) -> None:
    hub.session = "of the other"
    hub.bend["v1/session"] = lambda *_: (200, {"session": "9" * 43, "validSeconds": 900})
    gate.membership.step()
    assert (gate.standing.up, gate.standing.reason) == (False, JoinReason.HUB_UNREACHABLE)
    assert "does another gate use the same key?" in gate.standing.message


def test_at_the_end_the_status_shows_the_last_round(hub: ScriptedHub, gate: Gate) -> None:
    hub.round, hub.finished = 3, "Complete"
    digests = ["two", "one", "plan", "zero"]
    hub.commits = [
        hub.commit(number, SHA[name], SHA[digests[number - 1]] if number else None)
        for number, name in enumerate(digests)
    ]
    hub.task = FinishTask(id="finish", reason="RoundsDone", message="all rounds are done", failed=False)
    gate.membership.step()
    status = gate.status()
    assert (status.committed_rounds, status.last_commit) == (3, SHA["zero"])


def test_a_commit_that_was_not_signed_yet_is_asked_for_again(hub: ScriptedHub, gate: Gate) -> None:
    hub.round = 2
    gate.membership.step()
    hub.commits = [hub.commit(0, SHA["zero"], None), hub.commit(1, SHA["one"], SHA["zero"])]
    gate.membership.step()
    assert gate.standing.last_commit == SHA["one"]


def test_a_hub_that_asks_for_patience_is_not_asked_until_then(hub: ScriptedHub, site: Institution) -> None:
    now = [1000.0]
    with site.gate(Clocks(steady=lambda: now[0])) as gate:
        gate.membership.step()
        hub.refuse("v1/progress", 429, "TooManyRequests", Retry_After="30")
        said = Progress(task_id="train-00001", phase="train")
        with pytest.raises(Declined) as met:
            gate.border.progress(said)
        assert (met.value.status, met.value.retry_after) == (429, 30)
        now[0] += 20
        with pytest.raises(Declined) as met:
            gate.border.progress(said)
        assert met.value.retry_after == 10
        assert len(hub.bodies("v1/progress")) == 1
        hub.headers = {}
        assert gate.membership.step() == 5.0
        hub.bend.clear()
        now[0] += 10
        assert gate.border.progress(said).cancel is False


def test_a_failed_job_does_not_pass_for_a_complete_one(hub: ScriptedHub, site: Institution) -> None:
    """Whether it failed is signed: a proxy that reads TLS cannot turn it round, nor ask for the form of before."""
    hub.protocols, hub.round, hub.finished = [1, 2], 3, "Failed"
    hub.task = FinishTask(id="finish", reason="QuorumLost", message="too few updates", failed=True)
    commit = {"job": hub.job, "round": 0, "commit": SHA["zero"], "participant": "north", "version": "0.2.0"}
    hub.commits = [hub.seal(statements.Commit2(**commit, audit_size=0, audit_head="0" * 64))]

    def bend(status: int, body: Any) -> tuple[int, Any]:
        return status, bent(body, task=bent(body["task"], failed=False))

    hub.bend["v1/task"] = bend
    with site.gate() as gate:
        gate.membership.step()
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "failed of its task is 'False', not 'True'")

    plain = {"job": hub.job, "participant": "north", "id": "finish", "kind": "finish", "round": 3, "base": SHA["zero"]}
    before = statements.Task(**plain, cohort_size=0, reason="QuorumLost")
    hub.bend["v1/task"] = lambda status, body: bend(status, bent(body, envelope=hub.seal(before)))
    with site.gate() as gate:
        gate.membership.step()
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "the hub is not trusted: its task ")
    hub.bend.clear()
    with site.gate() as gate:
        gate.membership.step()
        gate.membership.step()
        assert gate.standing.finish is not None
        assert gate.standing.finish.failed


def test_a_commit_as_it_is_signed_for_another_ends_the_gate(hub: ScriptedHub, site: Institution) -> None:
    hub.protocols = [1, 2]
    commit = {"job": hub.job, "round": 0, "commit": SHA["zero"], "participant": "south", "version": "0.2.0"}
    hub.commits = [hub.seal(statements.Commit2(**commit, audit_size=0, audit_head="0" * 64))]
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "a commit as it is signed for south")
