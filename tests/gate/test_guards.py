"""Every guard of the gate around tasks, updates and reports, with a hub that lies, on real sockets."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from photon.api.status import JoinReason
from photon.protocol.messages import FinishTask, PartsRequest, Progress, UpdateSubmission
from photon.protocol.records import Evaluation, HeldOutResult, HeldOutSums, Part, UpdateManifest, UpdateMetrics
from photon.telemetry.metric_names import gate_metrics
from photon.trust import statements
from photon_gate.hub.errors import Declined
from photon_gate.program import Gate
from tests.gate.hub import BYTES, SHA, STORE, ScriptedHub, bent, ends
from tests.gate.site import HEADERS, Institution

# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_is_passed_on_with_urls_of_the_relay(hub: ScriptedHub, site: Institution, gate: Gate) -> None:
    hub.task = hub.train()
    task = httpx.get(f"{site.address}/v1/task", headers=HEADERS, trust_env=False).json()["task"]
    [file] = task["model"]["files"]
    assert file["url"].startswith(f"http://127.0.0.1:{site.relay}/o/")
    assert STORE not in str(task)
    assert (task["plan"], task["localSteps"]) == (SHA["plan"], 4)
    [entry] = [entry for entry in site.entries() if entry.kind == "Task"]
    assert entry.envelope is not None
    said = statements.verify(entry.envelope.encode(), statements.Task, hub.identity.key)
    assert said.files[0].sha256 == SHA["file"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round", 2),
        ("plan", SHA["other"]),
        ("base", SHA["other"]),
        ("local_steps", 1),
        ("participant", "south"),
        ("job", SHA["other"]),
        ("files", [statements.TaskFile(name="model.safetensors", size_bytes=1, sha256=SHA["file"])]),
        ("id", "train-9"),
    ],
)
def test_a_task_other_than_the_signed_one_ends_the_gate(hub: ScriptedHub, gate: Gate, field: str, value: Any) -> None:
    hub.task = task = hub.train()
    hub.bend["v1/task"] = lambda status, body: (status, bent(body, envelope=hub.said_of(task, **{field: value})))
    ends(lambda: gate.border.task(0, None), JoinReason.HUB_NOT_TRUSTED, "of its task is")


@pytest.mark.parametrize(
    "url", ["https://elsewhere.example/x", "http://169.254.169.254/latest", "http://127.0.0.1:22/"]
)
def test_bytes_go_nowhere_but_to_the_origins_of_the_invitation(hub: ScriptedHub, gate: Gate, url: str) -> None:
    task = hub.train()
    file = task.model.files[0].model_copy(update={"url": url})
    hub.task = task.model_copy(update={"model": task.model.model_copy(update={"files": [file]})})
    ends(lambda: gate.border.task(0, None), JoinReason.HUB_NOT_TRUSTED, "it sends bytes elsewhere: url: ")
    assert gate.standing.refusals["GrantRefused"] == 1


def test_a_cohort_that_is_too_small_is_declined_and_the_next_task_is_taken(
    hub: ScriptedHub, site: Institution, gate: Gate
) -> None:
    gate.border.common.policy = gate.border.common.policy.model_copy(update={"min_cohort": 3})
    hub.task, hub.cohort = hub.train(), 2
    # It is there before anything was refused, or Prometheus would not see the first one.
    before = httpx.get(f"{site.address}/metrics", trust_env=False).text
    assert 'photon_gate_refusals_total{job="radiology",reason="PolicyRefused"} 0.0' in before
    served = set(re.findall(r"^# TYPE (photon_gate_\w+)", before, re.MULTILINE))
    assert served == {str(metric) for metric in gate_metrics()}
    assert gate.border.task(0, None) is None
    assert hub.bodies("v1/state")[-1] == {"state": "Declined", "reason": "PolicyRefused"}
    metrics = httpx.get(f"{site.address}/metrics", trust_env=False).text
    assert 'photon_gate_policy_refused{job="radiology"} 1.0' in metrics
    assert 'photon_gate_refusals_total{job="radiology",reason="PolicyRefused"} 1.0' in metrics
    assert "task.cohortSize is 2: the policy's minCohort is 3" in gate.status().conditions[1].message
    hub.cohort = 3
    assert gate.border.task(0, None) is not None
    assert hub.bodies("v1/state")[-1]["state"] == "Here"


def test_rounds_and_commits_never_go_back_also_after_a_restart(hub: ScriptedHub, site: Institution) -> None:
    with site.gate() as gate:
        gate.membership.step()
        hub.task = hub.train(2, SHA["one"])
        assert gate.border.task(0, None) is not None
    with site.gate() as gate:
        gate.membership.step()
        hub.task = hub.train(1, SHA["zero"])
        assert gate.border.task(0, None) is None
        assert "round 1 is offered after round 2" in gate.standing.message
        hub.task = hub.train(2, SHA["one"], SHA["other"])
        ends(lambda: gate.border.task(0, None), JoinReason.HUB_NOT_TRUSTED, "the plan of round 2")
        hub.task = hub.train(3, SHA["two"])
        assert gate.border.task(0, None) is not None
        hub.task = hub.evaluate(2, SHA["other"])
        ends(lambda: gate.border.task(0, None), JoinReason.HUB_NOT_TRUSTED, "the commit of round 2 is")


def test_signed_commits_are_one_history(hub: ScriptedHub, site: Institution, gate: Gate) -> None:
    hub.commits = [hub.commit(0, SHA["zero"], None), hub.commit(1, SHA["one"], SHA["zero"])]
    gate.border.commits()
    assert [entry.round for entry in site.entries() if entry.kind == "Commit"] == [0, 1]
    hub.commits.append(hub.commit(2, SHA["two"], SHA["other"]))
    ends(gate.border.commits, JoinReason.HUB_NOT_TRUSTED, "does not follow that of round 1")


# --- updates ----------------------------------------------------------------------------------------------------------


def part(index: int = 0, sha: str = "a1" * 32, size: int = 1000) -> Part:
    return Part(index=index, start=0, stop=250, size_bytes=size, sha256=sha)


def submission(hub: ScriptedHub, *parts: Part, **changes: Any) -> UpdateSubmission:
    manifest: dict[str, Any] = {
        "job": hub.job,
        "round": 1,
        "plan": SHA["plan"],
        "participant": "north",
        "codec": "DenseFP32",
        "elements": BYTES // 4,
        "tokens": 128,
        "local_steps": 4,
        "parts": list(parts),
        "metrics": UpdateMetrics(loss_mean=1, loss_last=1, grad_norm_mean=1, grad_norm_max=1, clipped_fraction=0),
        **changes,
    }
    said = Progress(task_id="train-00001", phase="push", loss=3.0, tokens_per_second=9.0, seconds={"train": 1.0})
    return UpdateSubmission(manifest=UpdateManifest(**manifest), progress=said)


@pytest.fixture
def training(hub: ScriptedHub, gate: Gate) -> Gate:
    hub.task = hub.train()
    assert gate.border.task(0, None) is not None
    return gate


def test_an_update_is_signed_once_a_round_and_only_of_parts_that_left(
    hub: ScriptedHub, site: Institution, training: Gate
) -> None:
    border = training.border
    first = border.update(1, submission(hub, part()), 0)
    assert (first.state, first.reason) == ("refused", "MissingPart")
    border.sent.add((1, part().sha256, 1000))
    border.sent.add((1, "b2" * 32, 1000))
    assert border.update(1, submission(hub, part()), 0).state == "accepted"
    assert border.update(1, submission(hub, part()), 0).state == "accepted"
    other = border.update(1, submission(hub, part(sha="b2" * 32)), 0)
    assert (other.state, other.reason) == ("refused", "AlreadySubmitted")
    sent = hub.bodies("v1/rounds/1/update")
    assert len(sent) == 2
    said = statements.verify(sent[0]["envelope"].encode(), statements.Update, site.identity.key)
    assert (said.audience, said.round, said.plan, said.tokens) == (hub.identity.key.id, 1, SHA["plan"], 128)
    assert sent[0]["submission"]["progress"]["loss"] is None
    assert sent[0]["submission"]["progress"]["tokensPerSecond"] is None
    signed = [entry for entry in site.entries() if (entry.kind, entry.decision) == ("Update", "Signed")]
    assert [entry.sha256 for entry in signed] == [said.manifest]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"participant": "south"}, "WrongParticipant"),
        ({"job": SHA["other"]}, "WrongJob"),
        ({"round": 2}, "WrongRound"),
        ({"tokens": 7}, "WrongTokens"),
    ],
)
def test_a_manifest_that_is_not_of_the_task_is_not_signed(
    hub: ScriptedHub, training: Gate, change: dict[str, Any], reason: str
) -> None:
    training.border.sent.add((1, part().sha256, 1000))
    training.border.common.policy = training.border.common.policy.model_copy(update={"min_tokens_per_update": 100})
    reply = training.border.update(1, submission(hub, part(), **change), 0)
    assert (reply.state, reply.reason) == ("refused", reason)
    assert hub.bodies("v1/rounds/1/update") == []
    assert training.standing.refusals[reason] == 1


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([part(size=1000 + 2**17)], "has more bytes than its elements take"),
        ([part(), part()], "an index is given twice"),
        ([Part(index=0, start=0, stop=BYTES, size_bytes=10, sha256="a1" * 32)], "ends after the model"),
    ],
)
def test_parts_outside_of_the_model_are_not_asked_for(
    hub: ScriptedHub, training: Gate, parts: list[Part], said: str
) -> None:
    with pytest.raises(Declined, match=said):
        training.border.parts(1, PartsRequest(plan=SHA["plan"], parts=parts))
    assert hub.bodies("v1/rounds/1/parts") == []


def test_parts_of_a_round_have_an_end(hub: ScriptedHub, training: Gate) -> None:
    hub.bend["v1/rounds/1/parts"] = lambda *_: (200, {"uploads": []})
    size = 60_000
    requests = [PartsRequest(plan=SHA["plan"], parts=[part(sha=f"{n:064x}", size=size)]) for n in range(8)]
    for request in requests[:7]:
        training.border.parts(1, request)
    with pytest.raises(Declined, match="exceed 4 times the model"):
        training.border.parts(1, requests[7])
    training.border.parts(1, requests[0])  # The same again is nothing more.
    assert len(hub.bodies("v1/rounds/1/parts")) == 8


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        ({"index": 5, "url": f"{STORE}/x", "headers": {}}, "answers for part 5"),
        ({"index": 0, "url": f"{STORE}/x", "headers": {"Host": "elsewhere"}}, "headers: "),
        ({"index": 0, "url": "https://elsewhere.example/x", "headers": {}}, "not one of the allowed origins"),
    ],
)
def test_an_upload_goes_only_where_and_as_it_may(
    hub: ScriptedHub, training: Gate, upload: dict[str, Any], said: str
) -> None:
    hub.bend["v1/rounds/1/parts"] = lambda *_: (200, {"uploads": [upload]})
    request = PartsRequest(plan=SHA["plan"], parts=[part()])
    ends(lambda: training.border.parts(1, request), JoinReason.HUB_NOT_TRUSTED, said)


def test_another_round_than_the_one_under_way_is_refused(hub: ScriptedHub, training: Gate) -> None:
    for plan, number in ((SHA["other"], 1), (SHA["plan"], 2)):
        with pytest.raises(Declined, match="is not under way here") as met:
            training.border.parts(number, PartsRequest(plan=plan, parts=[part()]))
        assert (met.value.status, met.value.reason) == (404, "UnknownRound")


# --- evaluations and reports ------------------------------------------------------------------------------------------


def test_an_evaluation_is_signed_and_names_no_data_folder(hub: ScriptedHub, site: Institution, gate: Gate) -> None:
    hub.task = hub.evaluate()
    found = gate.border.task(0, None)
    assert found is not None
    assert found[0].model_dump().get("by_source", False) is False
    sums = {"loss_sum": 10.0, "tokens": 5, "bytes": 9}
    result = HeldOutResult(**sums, sources={"oncology": HeldOutSums(**sums)})
    said = Evaluation(job=hub.job, round=1, commit=SHA["one"], participant="north", result=result)
    gate.border.evaluation(1, said)
    [sent] = hub.bodies("v1/rounds/1/evaluation")
    assert "oncology" not in str(sent)
    signed = statements.verify(sent["envelope"].encode(), statements.Evaluation, site.identity.key)
    assert (signed.commit, signed.round) == (SHA["one"], 1)
    with pytest.raises(Declined, match="commit is"):
        gate.border.evaluation(1, said.model_copy(update={"commit": SHA["other"]}))


def test_the_hub_sees_of_reports_what_the_policy_reveals(hub: ScriptedHub, training: Gate) -> None:
    said = Progress(
        task_id="train-00001", phase="train", step=3, loss=2.5, learning_rate=0.1, tokens_per_second=100.0,
        memory_bytes=5, mfu=0.5, seconds={"train": 1.0}, retries={"push": 2},
    )  # fmt: skip
    training.border.progress(said)
    [seen] = hub.bodies("v1/progress")
    assert {name for name, value in seen.items() if value} == {"taskId", "phase", "step"}
    training.border.progress(said)
    assert len(hub.bodies("v1/progress")) == 1
    everything = {"tokens_per_second": True, "memory": True, "mfu": True, "retries": True}
    revealed = training.border.common.policy.reveal.model_copy(update=everything)
    training.border.common.policy = training.border.common.policy.model_copy(update={"reveal": revealed})
    training.border.progress(said.model_copy(update={"phase": "push"}))
    seen = hub.bodies("v1/progress")[-1]
    assert (seen["tokensPerSecond"], seen["memoryBytes"], seen["mfu"], seen["retries"]) == (100.0, 5, 0.5, {"push": 2})
    assert seen["loss"] is None


def test_outside_the_hours_the_round_is_finished_and_nothing_more_asked_for(
    hub: ScriptedHub, site: Institution
) -> None:
    saturday, sunday = 1_795_852_800.0, 1_795_939_200.0
    site.policy["hours"] = [{"days": ["Sat"], "from": "00:00", "to": "24:00"}]

    def state(gate: Gate) -> tuple[str, str]:
        gate.membership.step()
        [true] = [c for c in gate.status().conditions if c.status == "True"]
        return true.type, true.reason

    with site.gate() as gate:
        gate.standing.now = lambda: saturday
        assert state(gate)[0] == "Running"
        hub.task = hub.train()
        assert gate.border.task(0, None) is not None
        gate.border.progress(Progress(task_id="train-00001", phase="train"))
        gate.standing.now = lambda: sunday
        assert state(gate)[0] == "Running"
        gate.border.sent.add((1, part().sha256, 1000))
        assert gate.border.update(1, submission(hub, part()), 0).state == "accepted"
        assert state(gate) == ("Suspended", "OutsideHours")
        assert hub.bodies("v1/state")[-1] == {"state": "Away", "reason": "OutsideHours"}
        asked = len(hub.bodies("v1/task"))
        assert gate.border.task(0, None) is None
        assert len(hub.bodies("v1/task")) == asked
        gate.standing.now = lambda: saturday + 7 * 86400
        assert state(gate) == ("Running", "Training")
        assert gate.border.task(0, None) is not None
        assert hub.bodies("v1/state")[-1]["state"] == "Here"


# --- the worker's side, and the end -----------------------------------------------------------------------------------


def test_the_worker_needs_its_token_and_small_bodies(site: Institution, gate: Gate) -> None:
    with httpx.Client(base_url=site.address, trust_env=False) as client:
        assert client.get("/v1/task").status_code == 401
        assert client.get("/v1/task", headers={"Authorization": "Bearer wrong"}).status_code == 401
        large = client.post("/v1/progress", content=b" " * 300_000, headers=HEADERS)
        assert (large.status_code, large.json()["error"]["reason"]) == (413, "InvalidRequest")
        assert client.post("/v1/progress", json={"phase": "?"}, headers=HEADERS).status_code == 422
        assert client.get("/nothing", headers=HEADERS).status_code == 404
        assert client.get("/healthz").json() == {"status": "ok"}
        assert 'photon_gate_hub_up{job="radiology"} 1.0' in client.get("/metrics").text


def test_a_hub_that_is_away_is_not_asked_by_the_worker(hub: ScriptedHub, site: Institution, gate: Gate) -> None:
    hub.refuse("v1/participant", 503, "NotReady")
    gate.membership.step()
    before = len(hub.asked)
    reply = httpx.get(f"{site.address}/v1/task", headers=HEADERS, trust_env=False)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (503, "NotReady")
    assert len(hub.asked) == before
    assert gate.status().conditions[0].reason == "HubUnreachable"


def test_the_end_is_believed_only_signed_and_told_to_the_worker(hub: ScriptedHub, gate: Gate) -> None:
    hub.finished = "Complete"
    gate.membership.step()
    assert gate.standing.finish is None
    hub.task = FinishTask(reason="RoundsDone")
    task = hub.task
    hub.bend["v1/task"] = lambda status, body: (status, bent(body, envelope=hub.said_of(task, reason="QuorumLost")))
    ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "reason of its task")
    hub.bend.clear()
    gate.membership.step()
    assert not gate.standing.finish_read
    found = gate.border.task(0, None)
    assert found is not None
    assert (found[0], gate.standing.finish_read) == (task, True)
