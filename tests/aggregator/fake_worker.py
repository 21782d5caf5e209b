"""A participant in numpy over the real HTTP protocol, and round 0 as ``photon-worker init`` would write it.

Its update is a pure function of the participant, the round and the global model, so that any two runs can be compared
bit for bit. ``tamper`` lets a test spoil one thing of an update.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from photon.api.job import FederatedTrainingJob
from photon.api.learning import resolve
from photon.codec import codec_for, part_ranges
from photon.protocol.canonical import canonical_json, digest, sha256_hex
from photon.protocol.messages import (
    EvaluateTask,
    FinishTask,
    JobForWorkers,
    PartsReply,
    PartsRequest,
    Progress,
    ProgressReply,
    TaskReply,
    TrainTask,
    UpdateReply,
    UpdateSubmission,
)
from photon.protocol.records import Commit, Evaluation, FileRecord, HeldOutResult, Part, UpdateManifest, UpdateMetrics
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.tensors import Header

SHAPES = {"model.embed.weight": (64, 32), "model.layers.0.w": (96, 96), "model.layers.1.w": (100, 100), "norm": (77,)}


def token_of(participant: str) -> str:
    return f"token-of-{participant}"


def token_digests(participants: list[str]) -> dict[str, str]:
    return {name: sha256_hex(token_of(name).encode()) for name in participants}


def job_document(storage: Any, participants: list[str], **spec: Any) -> FederatedTrainingJob:
    """A job of ``participants``; ``spec`` in the words of the YAML replaces fields of the default."""
    default: dict[str, Any] = {
        "model": {"config": {"model_type": "llama"}, "seed": 7},
        "storage": storage.model_dump(mode="json", by_alias=True),
        "rounds": 3,
        "local": {"steps": 4, "batchSize": 2, "sequenceLength": 16},
        "outer": {"type": "Nesterov", "learningRate": 0.7, "momentum": 0.9},
        "exchange": {"partBytes": 65536},
        "participants": [{"name": name, "remote": {}} for name in participants],
    }
    return FederatedTrainingJob.model_validate(
        {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": "test"},
            "spec": {**default, **spec},
        }
    )


def write_round_zero(job: FederatedTrainingJob, store: ObjectStore) -> Commit:
    """job.json and an initial model of fixed random weights."""
    learning = resolve(job)
    job_digest = digest(learning)
    header = Header.for_model(SHAPES)
    values = np.random.default_rng(0).standard_normal(header.elements, np.float32)
    files = {
        keys.WEIGHTS: header.to_bytes() + values.tobytes(),
        "config.json": b'{"model_type": "llama"}\n',
        "tokenizer.json": b"{}\n",
    }
    folder = keys.global_folder(0, job_digest)
    for name, data in files.items():
        store.put(f"{folder}/{name}", data)
    commit = Commit(
        job=job_digest,
        round=0,
        previous=None,
        plan=None,
        folder=folder,
        files=[
            FileRecord(name=name, size_bytes=len(data), sha256=sha256_hex(data)) for name, data in sorted(files.items())
        ],
        outer_steps=0,
        tokens=0,
        sequential_steps=0,
    )
    store.create(keys.JOB, canonical_json(learning))
    store.create(keys.commit(0), canonical_json(commit))
    return commit


@dataclass
class Prepared:
    """An update before it is sent. A test may change anything."""

    parts: list[bytes]
    records: list[Part]
    manifest: UpdateManifest


Tamper = Callable[["FakeWorker", TrainTask, Prepared], None]


@dataclass
class FakeWorker:
    """One participant. ``urls``: aggregators, asked in turn."""

    name: str
    urls: list[str]
    tamper: Tamper | None = None
    token: str = ""
    evaluates: bool = True
    replies: list[tuple[int, UpdateReply]] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    finish: FinishTask | None = None
    patience: int = 400
    stop: threading.Event = field(default_factory=threading.Event)
    _turn: int = 0

    def __post_init__(self) -> None:
        self.http = httpx.Client(
            headers={"Authorization": f"Bearer {self.token or token_of(self.name)}"}, timeout=30.0, trust_env=False
        )
        # A test that asks for a thing or two need not close it.
        weakref.finalize(self, self.http.close)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A request that outlives restarts of aggregators, within bounds."""
        for _ in range(self.patience):
            self._turn += 1
            url = self.urls[self._turn % len(self.urls)]
            try:
                response = self.http.request(method, f"{url}{path}", **arguments)
                if response.status_code < 500 and response.status_code != 429:
                    return response
            except httpx.TransportError:
                pass
            if self.stop.wait(0.05):
                raise RuntimeError("stopped")
        raise RuntimeError(f"{method} {path}: no answer")

    def post(self, path: str, body: Any, **arguments: Any) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return self.request("POST", path, content=body.model_dump_json(by_alias=True), headers=headers, **arguments)

    def job(self) -> JobForWorkers:
        return JobForWorkers.model_validate_json(self.request("GET", "/v1/job").content)

    def next_task(self, done: str | None, wait_seconds: float = 5) -> TrainTask | EvaluateTask | FinishTask | None:
        parameters = {"wait_seconds": wait_seconds} | ({"done": done} if done else {})
        response = self.request("GET", "/v1/task", params=parameters)
        if response.status_code == 204:
            return None
        assert response.status_code == 200, response.text
        return TaskReply.model_validate_json(response.content).task

    def run(self) -> None:
        """Work until the job has ended."""
        self.learning = self.job().learning
        self.job_digest = digest(self.learning)
        done: str | None = None
        while not self.stop.is_set():
            task = self.next_task(done)
            if task is None:
                continue
            if isinstance(task, FinishTask):
                self.finish = task
                return
            if isinstance(task, EvaluateTask):
                self.evaluate(task)
            else:
                self.train(task)
            done = task.id

    def pull(self, task: TrainTask | EvaluateTask) -> np.ndarray:
        """The flat vector of the task's model, every file compared with its record."""
        values: np.ndarray | None = None
        for wanted in task.model.files:
            for _ in range(50):
                response = self.http.get(wanted.url)
                if response.status_code == 200:
                    break
            data = response.content
            assert sha256_hex(data) == wanted.file.sha256, wanted.file.name
            if wanted.file.name == keys.WEIGHTS:
                values = np.frombuffer(data, np.float32, offset=Header.parse(data).data_offset)
        assert values is not None
        return values

    def prepare(self, task: TrainTask) -> Prepared:
        """The update of this participant for ``task``."""
        theta = self.pull(task)
        seed = int(hashlib.sha256(f"{self.name}/{task.round}".encode()).hexdigest()[:8], 16)
        noise = np.random.default_rng(seed).standard_normal(theta.size, np.float32)
        update = (theta * np.float32(0.1) + noise * np.float32(0.01)).astype(np.float32)
        exchange, local = self.learning.exchange, self.learning.local
        codec = codec_for(exchange.codec)
        parts: list[bytes] = []
        records: list[Part] = []
        for index, (start, stop) in enumerate(part_ranges(theta.size, exchange.part_bytes)):
            data = bytes(codec.encode(update[start:stop]))
            parts.append(data)
            records.append(Part(index=index, start=start, stop=stop, size_bytes=len(data), sha256=sha256_hex(data)))
        manifest = UpdateManifest(
            job=self.job_digest,
            round=task.round,
            plan=task.plan,
            participant=self.name,
            codec=exchange.codec,
            elements=theta.size,
            tokens=task.local_steps * local.batch_size * local.sequence_length,
            local_steps=task.local_steps,
            parts=records,
            metrics=UpdateMetrics(
                loss_mean=1.0 + 1 / task.round,
                loss_last=1 / task.round,
                grad_norm_mean=1.0,
                grad_norm_max=2.0,
                clipped_fraction=0.0,
            ),
        )
        return Prepared(parts=parts, records=records, manifest=manifest)

    def upload(self, task: TrainTask, prepared: Prepared) -> list[int]:
        """Send the parts; returns the status of each PUT (0: it was there)."""
        response = self.post(f"/v1/rounds/{task.round}/parts", PartsRequest(plan=task.plan, parts=prepared.records))
        if response.status_code != 200:
            return [response.status_code]
        statuses: list[int] = []
        for upload in PartsReply.model_validate_json(response.content).uploads:
            if upload.present:
                statuses.append(0)
                continue
            data = prepared.parts[upload.index]
            statuses.append(self.http.put(upload.url, headers=upload.headers, content=data).status_code)
        return statuses

    def submit(self, round_number: int, manifest: UpdateManifest) -> UpdateReply:
        progress = Progress(
            task_id=f"train-{round_number:05d}",
            phase="push",
            loss=1.5,
            tokens_per_second=1000.0,
            bytes_up=sum(part.size_bytes for part in manifest.parts),
            seconds={"train": 0.5, "push": 0.1},
        )
        while True:
            response = self.post(
                f"/v1/rounds/{round_number}/update", UpdateSubmission(manifest=manifest, progress=progress)
            )
            assert response.status_code == 200, response.text
            reply = UpdateReply.model_validate_json(response.content)
            if reply.state != "checking":
                self.replies.append((round_number, reply))
                return reply

    def report(self, task_id: str, phase: Any, **figures: Any) -> ProgressReply:
        response = self.post("/v1/progress", Progress(task_id=task_id, phase=phase, **figures))
        assert response.status_code == 200, response.text
        return ProgressReply.model_validate_json(response.content)

    def train(self, task: TrainTask) -> None:
        self.report(task.id, "train", step=1, loss=2.0)
        prepared = self.prepare(task)
        if self.tamper is not None:
            self.tamper(self, task, prepared)
            return
        self.train_honestly(task, prepared)

    def train_honestly(self, task: TrainTask, prepared: Prepared) -> None:
        self.upload(task, prepared)
        if self.submit(task.round, prepared.manifest).state == "accepted":
            self.trained.append(task.round)

    def evaluate(self, task: EvaluateTask) -> None:
        if not self.evaluates:
            return
        theta = self.pull(task)
        result = HeldOutResult(loss_sum=float(np.abs(theta).mean()) * 1000, tokens=1000, bytes=4000)
        evaluation = Evaluation(
            job=self.job_digest, round=task.round, commit=task.model.commit, participant=self.name, result=result
        )
        response = self.post(f"/v1/rounds/{task.round}/evaluation", evaluation)
        assert response.status_code == 204, response.text
        self.evaluated.append(task.round)
