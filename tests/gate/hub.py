"""A hub that says what a test wants it to, on a real socket, signing with its own key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from photon.api.learning import resolve
from photon.api.placement import StorageSpec
from photon.api.status import JoinReason, MemberState
from photon.protocol.border import MAX_DIGESTS
from photon.protocol.canonical import digest
from photon.protocol.messages import EvaluateTask, FileRecord, FinishTask, GlobalModel, ObjectGet, Task, TrainTask
from photon.trust import statements
from photon.trust.keys import Identity, Key
from photon.trust.log import NOTHING
from photon_gate.hub.errors import Contradiction
from tests.aggregator.fake_worker import job_document
from tests.proxying import Handler, Proxy

MODEL: dict[str, Any] = {
    "config": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    },
    "seed": 7,
}
STORE = "http://127.0.0.1:9"
SHA = {name: f"{number:02x}" * 32 for number, name in enumerate(["zero", "plan", "one", "two", "file", "other"])}
BYTES = 40_000


class ScriptedHub(Proxy):
    """``bend``: by path, what a test makes of an answer: (status, body) -> (status, body). ``asked``: what arrived."""

    def __init__(self, tls: Any = None) -> None:
        self.identity = Identity.new()
        storage = StorageSpec(endpoint=STORE, bucket="photon", prefix="test")
        job = job_document(storage, ["home", "north", "south"], model=MODEL)
        self.learning = resolve(job)
        self.evaluation = job.spec.evaluation
        self.job = digest(self.learning)
        self.state = MemberState.ACTIVE
        self.sessions = 0
        self.session = ""
        self.origins = [STORE]
        self.task: Task | None = None
        self.cohort = 3
        self.protocols = [1]
        self.round = 1
        self.finished = "Running"
        self.commits: list[str] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.bend: dict[str, Callable[[int, Any], tuple[int, Any]]] = {}
        self.headers: dict[str, str] = {}
        self.site: Key | None = None
        # Of the door's log: digests of its entries, the head that hello shows, and from where on it was asked for.
        self.log: list[str] = []
        self.head = NOTHING
        self.asked_log: list[int] = []
        super().__init__(_handler(self), tls=tls)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jobs/default/test"

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in list(self.asked) if asked == path]

    def refuse(self, path: str, status: int, reason: str, **more: str) -> None:
        """Answer requests of ``path`` with an error of the protocol."""
        self.headers = more
        self.bend[path] = lambda *_: (status, {"error": {"reason": reason, "message": "because"}})

    def seal(self, said: statements.Statement) -> str:
        return said.seal(self.identity).decode()

    def model(self, round_number: int, commit: str, **changes: Any) -> GlobalModel:
        record = FileRecord(name="model.safetensors", size_bytes=BYTES, sha256=SHA["file"])
        file = ObjectGet(file=record, url=f"{STORE}/photon/model.safetensors?X-Amz-Signature=1")
        return GlobalModel(round=round_number, commit=commit, files=[file], valid_seconds=600).model_copy(
            update=changes
        )

    def train(self, round_number: int = 1, commit: str = SHA["zero"], plan: str = SHA["plan"]) -> TrainTask:
        return TrainTask(
            id=f"train-{round_number:05d}",
            round=round_number,
            plan=plan,
            model=self.model(round_number - 1, commit),
            first_step=0,
            local_steps=4,
        )

    def evaluate(self, round_number: int = 1, commit: str = SHA["one"]) -> EvaluateTask:
        model = self.model(round_number, commit)
        return EvaluateTask(id=f"evaluate-{round_number:05d}", round=round_number, model=model, by_source=True)

    def commit(self, round_number: int, commit: str, previous: str | None, **keys: str) -> str:
        return self.seal(
            statements.Commit(
                job=self.job,
                round=round_number,
                commit=commit,
                previous=previous,
                keys=keys,
                version="0.1.0",
                audit_size=0,
                audit_head="0" * 64,
            )
        )

    def said_of(self, task: Task, **changes: Any) -> str:
        """The hub's statement of a task."""
        training = isinstance(task, TrainTask)
        finish = isinstance(task, FinishTask)
        files = [] if isinstance(task, FinishTask) else [f.file for f in task.model.files]
        said: dict[str, Any] = {
            "job": self.job,
            "participant": "north",
            "id": task.id,
            "kind": task.kind,
            "round": self.round if isinstance(task, FinishTask) else task.round,
            "base": SHA["zero"] if isinstance(task, FinishTask) else task.model.commit,
            "cohort_size": 0 if finish else self.cohort,
            "files": [statements.TaskFile(name=f.name, size_bytes=f.size_bytes, sha256=f.sha256) for f in files],
        }
        if isinstance(task, TrainTask) and training:
            said |= {"plan": task.plan, "first_step": task.first_step, "local_steps": task.local_steps}
        if isinstance(task, FinishTask):
            said["reason"] = task.reason
        if max(self.protocols) < 2:
            return self.seal(statements.Task(**{**said, **changes}))
        if isinstance(task, FinishTask):
            said["failed"] = task.failed
        return self.seal(statements.Task2(**{**said, **changes}))

    def answer(self, path: str, query: dict[str, list[str]], body: dict[str, Any], session: str) -> tuple[int, Any]:
        if path == "v1/hello":
            hello = statements.Hello(
                nonce=query["nonce"][0],
                challenge="ab" * 16,
                job=self.job,
                job_name="default/test",
                protocols=self.protocols,
                version="0.1.0",
                object_origins=self.origins,
                audit_size=len(self.log),
                audit_head=self.head,
            )
            return 200, {"publicKey": self.identity.key.text, "envelope": self.seal(hello)}
        if path == "v1/enrolment":
            self.site = Key.parse(body["publicKey"])
            said = statements.verify_enrolment(body["envelope"].encode(), self.site)
            return 200, {"envelope": self.membership(said.nonce)}
        if path == "v1/session":
            self.sessions += 1
            self.session = f"{self.sessions:043d}"
            return 200, {"session": self.session, "validSeconds": 900}
        if session != f"Bearer {self.session}":
            return 401, {"error": {"reason": "SessionExpired", "message": "open a new one"}}
        if path == "v1/task":
            if self.task is None:
                return 204, None
            task = self.task.model_dump(mode="json", by_alias=True)
            return 200, {"task": task, "envelope": self.said_of(self.task)}
        if path == "v1/job":
            return 200, {
                "name": "test",
                "participant": "north",
                "learning": self.learning.model_dump(mode="json", by_alias=True),
                "evaluation": self.evaluation.model_dump(mode="json", by_alias=True),
            }
        if path == "v1/participant":
            return 200, {
                "participant": "north", "round": self.round, "rounds": 3, "participants": 3, "state": self.finished,
                "reason": "Training",
            }  # fmt: skip
        if path == "v1/commits":
            return 200, {"envelopes": self.commits[int(query["after"][0]) + 1 :]}
        if path == "v1/log":
            self.asked_log.append(int(query["after"][0]))
            return 200, {"digests": self.log[self.asked_log[-1] :][:MAX_DIGESTS]}
        if path == "v1/leave":
            self.state = MemberState.LEFT
            return 200, {"envelope": self.membership("0" * 32)}
        if path == "v1/progress":
            return 200, {"cancel": False}
        if path.endswith("/update"):
            return 200, {"state": "accepted"}
        return 204, None

    def membership(self, nonce: str) -> str:
        assert self.site is not None
        return self.seal(
            statements.Membership(job=self.job, participant="north", key=self.site.id, state=self.state, nonce=nonce)
        )


def _handler(hub: ScriptedHub) -> type[Handler]:
    class Answering(Handler):
        def do(self) -> None:
            parts = urlsplit(self.path)
            path = parts.path.removeprefix("/jobs/default/test/")
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(raw) if raw else {}
            hub.asked.append((path, body))
            status, said = hub.answer(path, parse_qs(parts.query), body, self.headers.get("Authorization", ""))
            if path in hub.bend:
                status, said = hub.bend[path](status, said)
            data = b"" if said is None else said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(said, bytes) else "application/json")
            for name, value in hub.headers.items():
                self.send_header(name.replace("_", "-"), value)
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do

    return Answering


def institution_of(hub: ScriptedHub, folder: Path, **changes: Any) -> Any:
    """North, invited by this hub."""
    from tests.gate.site import Institution

    given: dict[str, Any] = {"url": hub.url, "objects": [STORE], "hub_key": hub.identity.key.text, **changes}
    return Institution(folder, **given)


def ends(act: Callable[[], object], reason: JoinReason, said: str) -> None:
    with pytest.raises(Contradiction, match=said) as met:
        act()
    assert met.value.reason is reason


def bent(body: Any, **fields: Any) -> Any:
    return {**body, **fields}
