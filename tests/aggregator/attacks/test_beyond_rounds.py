"""Attacks with valid keys and signatures: false figures, noise in every message, and what the end of a job tells."""

from __future__ import annotations

import itertools
import json
import random
from contextlib import closing
from pathlib import Path
from typing import Any

from photon.api.placement import StorageSpec
from photon.api.status import MemberState
from photon.protocol.canonical import digest
from photon.protocol.messages import EvaluateTask, TrainTask
from photon.protocol.records import HeldOutResult
from photon.store.objects import ObjectStore
from photon.telemetry import metric_names as names
from photon.trust import statements
from photon.trust.keys import Identity
from tests.aggregator.attacks.test_attacks import site
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import working
from tests.aggregator.test_metrics import series
from tests.fuzz import mutations


class Liar(Site):
    """Signs evaluations that cannot be, and then one that can: a perfect model on more text than all others have."""

    def evaluate(self, task: EvaluateTask) -> None:
        for result, field in (
            ({"lossSum": 1e19, "tokens": 10, "bytes": 1}, "lossSum"),
            ({"lossSum": 0.0, "tokens": 2**62, "bytes": 1}, "tokens"),
            ({"lossSum": -1.0, "tokens": 10, "bytes": 1}, "lossSum"),
            ({"lossSum": 1.0, "tokens": 10, "bytes": 1, "heldOut": 1}, "heldOut"),
        ):
            refused = self._post(task, result)
            assert refused[0] == 422, result
            assert field in refused[1]
        assert self._post(task, {"lossSum": 0.0, "tokens": 10**15, "bytes": 1})[0] == 204
        self.evaluated.append(task.round)

    def _post(self, task: EvaluateTask, result: dict[str, Any]) -> tuple[int, str]:
        said = {"job": self.job_digest, "round": task.round, "commit": task.model.commit, "participant": self.name}
        body = {"evaluation": {**said, "result": result}, "envelope": self._statement(task, result)}
        answer = FakeWorker.request(self, "POST", f"/v1/rounds/{task.round}/evaluation", content=json.dumps(body))
        return answer.status_code, answer.text

    def _statement(self, task: EvaluateTask, result: dict[str, Any]) -> str:
        assert self.hub is not None
        said = statements.Evaluation(
            audience=self.hub.id,
            job=self.job_digest,
            participant=self.name,
            round=task.round,
            commit=task.model.commit,
            result=_digest_of(result),
        )
        return said.seal(self.identity).decode()


def _digest_of(result: dict[str, Any]) -> str:
    try:
        return digest(HeldOutResult.model_validate(result))
    except ValueError:
        return "f" * 64


def test_one_liar_does_not_end_the_job(store: ObjectStore, storage: StorageSpec, tmp_path: Path) -> None:
    job = job_document(
        storage,
        ["home", "north", "south"],
        rounds=2,
        evaluation={"everyRounds": 1},
        stop={"targetPerplexity": 1.5},
    )
    write_round_zero(job, store)
    hub = Hub(tmp_path, job, store, ["north", "south"])
    north = Liar("north", [hub.url], hub=hub.identity.key, invitation=hub.invite("north"))
    south = site(hub, "south", hub.invite("south"))
    with closing(hub), hub.running() as running:
        for one in (north, south):
            one.join()
        with working(FakeWorker("home", [running.url]), north, south):
            running.wait()
    assert north.evaluated == [1, 2]
    assert south.finish is not None
    assert south.finish.reason == "RoundsDone"


def test_how_a_job_failed_names_no_other_institution(store: ObjectStore, storage: StorageSpec, tmp_path: Path) -> None:
    job = job_document(
        storage,
        ["home", "north", "south"],
        participation={"roundDeadlineSeconds": 1, "quorum": 3, "whenQuorumLost": "Fail"},
    )
    write_round_zero(job, store)
    hub = Hub(tmp_path, job, store, ["north", "south"])
    north, south = (site(hub, name, hub.invite(name)) for name in ("north", "south"))
    with closing(hub), hub.running(stop_when_done=False) as running:
        for one in (north, south):
            one.join()
        running.until(lambda engine: engine.state.outcome is not None)
        told = north.http.get(f"{hub.url}/v1/task", params={"wait_seconds": 5}).json()["task"]
        assert (told["kind"], told["reason"], told["failed"]) == ("finish", "QuorumLost", True)
        assert not {"home", "south"} & set(told["message"].replace(",", " ").split())
        # Inside, the administrator is told which ones were missing.
        assert "south" in running.get("/v1/status")["conditions"][0]["message"]


def _messages(hub: Hub, north: Site, task: TrainTask) -> dict[str, Any]:
    """A valid body of each route, but for the keys of what would end the membership."""
    key, other = hub.identity.key, Identity.new()
    prepared = north.prepare(task)
    manifest = prepared.manifest.model_dump(mode="json", by_alias=True)
    leave = statements.Leave(audience=key.id, job=north.job_digest, participant="north", reason="Finished")
    rotate = statements.Rotate(audience=key.id, participant="north", new_key=other.key.text)
    result = {"lossSum": 1.0, "tokens": 10, "bytes": 40}
    about = {"job": north.job_digest, "round": 0, "commit": "f" * 64, "participant": "north", "result": result}
    return {
        "enrolment": north.enrolment().model_dump(mode="json", by_alias=True),
        "session": {"participant": "north", "envelope": leave.seal(north.identity).decode()},
        "progress": {"taskId": task.id, "phase": "train", "step": 1, "seconds": {"train": 1.0}},
        "rounds/1/parts": {"plan": task.plan, "parts": manifest["parts"][:2]},
        "rounds/1/update": {
            "submission": {"manifest": manifest},
            "envelope": north.update_statement(prepared.manifest),
        },
        "rounds/0/evaluation": {"evaluation": about, "envelope": leave.seal(north.identity).decode()},
        "leave": {"envelope": leave.seal(other).decode()},
        "keys": {"newKey": other.key.text, "envelope": rotate.seal(other, north.identity).decode()},
        "state": {"state": "Here", "reason": "Ready"},
    }


def test_noise_is_refused_and_never_fails_the_door(hub: Hub) -> None:
    rng, ticks = random.Random(1), itertools.count()
    # A clock on which no request comes too soon after another.
    hub.clock = lambda: next(ticks) / 10
    north, south = (site(hub, name, hub.invite(name)) for name in ("north", "south"))
    with hub.running() as running:
        for one in (north, south):
            one.join()
            one.learning = one.job().learning
            one.job_digest = digest(one.learning)
        task = north.next_task(None)
        assert isinstance(task, TrainTask)
        for path, valid in _messages(hub, north, task).items():
            for _ in range(12):
                body = mutations.document(rng, valid)
                answer = north.http.post(f"{hub.url}/v1/{path}", content=body, params={"wait_seconds": 0})
                said = answer.json()["error"]["reason"] if answer.status_code >= 400 else ""
                assert answer.status_code < 500 or said == "NotReady", (path, body[:300], answer.text)
        for query in ("nonce=", "nonce=" + "g" * 32, "nonce=%00", "nonce[]=1", "%ff=%ff"):
            assert north.http.get(f"{hub.url}/v1/hello?{query}").status_code == 422
        for query in ("after=-2", "after=1e9", "after=99999999999999999999", "after=nan"):
            assert north.http.get(f"{hub.url}/v1/commits?{query}").status_code == 422
        found = series(running.text("/metrics"))
        assert found[names.DOOR_REFUSALS, (("job", "test"), ("reason", "Internal"))] == 0
        assert found[names.DOOR_REFUSALS, (("job", "test"), ("reason", "InvalidRequest"))] > 20
        assert running.engine.state.members == {"north": MemberState.ACTIVE, "south": MemberState.ACTIVE}
        assert south.http.get(f"{hub.url}/v1/participant").status_code == 200
