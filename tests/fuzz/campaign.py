"""A job of which most participants send mutations, against the program over real HTTP and a real store.

Honest participants wait at a gate in each round until all inputs of the round were sent; then everyone hands in a valid
update, and the round must be committed. In the end what was taken is judged (oracle), and a second aggregator is given
the accepted updates and nothing else: it must make the same models.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from photon.api.job import FederatedTrainingJob
from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.canonical import sha256_hex
from photon.protocol.messages import EvaluateTask, FinishTask, PartsReply, PartsRequest, TrainTask, UpdateSubmission
from photon.protocol.records import Commit, Evaluation, HeldOutResult, HeldOutSums, Part, UpdateManifest
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from tests.aggregator.fake_worker import (
    FakeWorker,
    Prepared,
    job_document,
    token_digests,
    token_of,
    write_round_zero,
)
from tests.aggregator.running import chain, working
from tests.fuzz import mutations, oracle
from tests.fuzz.wire import Answer, Line, post
from tools.cluster.processes import free_ports

HONEST = ("north", "south")
HOSTILE = tuple(f"hostile-{index}" for index in range(6))
PATIENCE_SECONDS = 300.0
# Of a hostile participant in a round: what it does beyond this is refused unread, its valid update too.
CHECKED_UPDATES = 8
UPLOADED_PARTS = 3


@dataclass(kw_only=True)
class Result:
    """``not_ready``: answers of 503 to who speaks of a round that another aggregator may have reached, by the protocol.
    ``problems``: a sentence for each thing that must not be."""

    seed: int
    inputs: int = 0
    server_errors: int = 0
    deaths: int = 0
    wrongly_accepted: int = 0
    rss_growth_mib: float = 0.0
    rounds: int = 0
    accepted_updates: int = 0
    accepted_mutations: int = 0
    not_ready: int = 0
    unanswered: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Program:
    """``photon-aggregator`` as a process of its own."""

    def __init__(self, folder: Path, s3: EmbeddedStore, job: FederatedTrainingJob) -> None:
        folder.mkdir(parents=True)
        names = [participant.name for participant in job.spec.participants]
        document = job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        (folder / "job.yaml").write_text(yaml.safe_dump({**document, "apiVersion": job.api_version, "kind": job.kind}))
        (folder / "tokens.json").write_text(json.dumps(token_digests(names)))
        (port,) = free_ports(1)
        self.address = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "aggregator.log"
        keys_of_store = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        command = [sys.executable, "-c", "from photon_aggregator.main import main; main()"]
        command += ["--job", str(folder / "job.yaml"), "--tokens", str(folder / "tokens.json")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{port}"],
                env={**os.environ, **keys_of_store, "OMP_NUM_THREADS": "1"},
                stderr=log,
            )

    @property
    def dead(self) -> bool:
        return self.process.poll() is not None

    def rss_mib(self) -> float:
        """Resident memory now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise ValueError("no VmRSS")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Hostile:
    """A participant with a valid token, its valid update of this round, and what it did so far in it."""

    worker: FakeWorker
    line: Line
    task: TrainTask
    prepared: Prepared
    checked: int = 0
    uploaded: int = 0
    accepted: bool = False

    @property
    def submission(self) -> dict[str, Any]:
        document: dict[str, Any] = UpdateSubmission(manifest=self.prepared.manifest).model_dump(
            mode="json", by_alias=True
        )
        document["progress"] = progress_of(self.task.id)
        return document


def progress_of(task_id: str) -> dict[str, Any]:
    return {
        "taskId": task_id, "phase": "train", "step": 3, "loss": 2.5, "learningRate": 1e-3, "tokensPerSecond": 1e3,
        "memoryBytes": 2**30, "mfu": 0.4, "bytesUp": 100, "bytesDown": 200, "seconds": {"train": 1.5, "pull": 0.2},
        "retries": {"push": 1},
    }  # fmt: skip


class Campaign:
    """``inputs`` mutations in ``rounds`` rounds of one job; ``seed`` decides all of them."""

    def __init__(self, s3: EmbeddedStore, folder: Path, *, inputs: int, rounds: int, seed: int) -> None:
        self._s3 = s3
        self._folder = folder
        self._inputs = inputs
        self._rounds = rounds
        self._rng = random.Random(seed)
        self.result = Result(seed=seed, rounds=rounds)
        self._gates = [threading.Event() for _ in range(rounds + 1)]
        self._valid: dict[tuple[int, str], UpdateManifest] = {}
        bucket = ObjectStore.open(
            StorageSpec(endpoint=s3.endpoint, bucket="photon"), access_key=s3.access_key, secret_key=s3.secret_key
        )
        bucket.check(create_bucket=True)
        self._prefixes = (f"fuzz-{seed}-first", f"fuzz-{seed}-second")
        self._stores = tuple(bucket.at(prefix) for prefix in self._prefixes)
        self._jobs = tuple(self._job(prefix) for prefix in self._prefixes)
        for job, store in zip(self._jobs, self._stores, strict=True):
            write_round_zero(job, store)

    def _job(self, prefix: str) -> FederatedTrainingJob:
        everyone = [*HONEST, *HOSTILE]
        storage = StorageSpec(endpoint=self._s3.endpoint, bucket="photon", prefix=prefix)
        # More than the hostile ones can reach by themselves: a round ends after the gate was opened.
        participation = {"quorum": len(HOSTILE) + 1, "graceSeconds": 2}
        return job_document(storage, everyone, rounds=self._rounds, participation=participation)

    def run(self) -> Result:
        store = self._stores[0]
        self._program = Program(self._folder / "first", self._s3, self._jobs[0])
        self._stranger = Line(self._program.address)
        honest = [FakeWorker(name, [self._program.url], tamper=self._wait_at_the_gate) for name in HONEST]
        hostile = [FakeWorker(name, [self._program.url]) for name in HOSTILE]
        try:
            for worker in hostile:
                worker.learning = worker.job().learning
                worker.job_digest = self._commit(store, 0).job
            with working(*honest) as self._failed:
                for number in range(1, self._rounds + 1):
                    self._round(number, hostile)
        finally:
            for gate in self._gates:
                gate.set()
            for one in (*honest, *hostile):
                one.http.close()
            self._stranger.close()
            self._program.stop()
        self._judge(store)
        self._replay()
        return self.result

    # --- one round ----------------------------------------------------------------------------------------------------

    def _wait_at_the_gate(self, worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        while not self._gates[task.round].wait(2.0):
            worker.report(task.id, "train", step=1)  # it is alive
            if worker.stop.is_set():
                return
        self._valid[task.round, worker.name] = prepared.manifest
        worker.train_honestly(task, prepared)

    def _round(self, number: int, workers: list[FakeWorker]) -> None:
        people = [self._prepare(worker, number) for worker in workers]
        share = self._inputs // self._rounds + (1 if number <= self._inputs % self._rounds else 0)
        for _ in range(share):
            self._input(number, people)
            self.result.inputs += 1
            if self._program.dead:
                self.result.deaths += 1
                raise RuntimeError(f"the aggregator died:\n{self._program.log.read_text()[-3000:]}")
        # One that was started has caches to fill; what it takes from then on is growth.
        if number == max(1, self._rounds // 4):
            self._first_rss = self._program.rss_mib()
        if number == self._rounds:
            self.result.rss_growth_mib = round(self._program.rss_mib() - self._first_rss, 1)
        for person in people:
            if not person.accepted:
                person.worker.upload(person.task, person.prepared)
                reply = person.worker.submit(number, person.prepared.manifest)
                if reply.state != "accepted":
                    self._problem(f"round {number}: a valid update of {person.worker.name} was refused: {reply}")
            person.line.close()
        self._gates[number].set()
        self._until(lambda: self._commit(self._stores[0], number) is not None, f"round {number} is not committed")

    def _prepare(self, worker: FakeWorker, number: int) -> Hostile:
        done: str | None = None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            task = worker.next_task(done, wait_seconds=1)
            if isinstance(task, EvaluateTask):
                self._evaluate(worker, task)
                done = task.id
            elif isinstance(task, TrainTask) and task.round == number:
                prepared = worker.prepare(task)
                self._valid[number, worker.name] = prepared.manifest
                return Hostile(worker, Line(self._program.address), task, prepared)
            elif isinstance(task, FinishTask):
                break
        raise RuntimeError(f"{worker.name} gets no task of round {number}:\n{self._program.log.read_text()[-3000:]}")

    def _evaluate(self, worker: FakeWorker, task: EvaluateTask) -> None:
        """Mutations of an evaluation, each of which may be the one that counts."""
        half = HeldOutSums(loss_sum=500.0, tokens=500, bytes=2000, held_out=9000)
        sums = {"loss_sum": 1000.0, "tokens": 1000, "bytes": 4000, "held_out": 18000}
        result = HeldOutResult(**sums, sources={"a": half, "b": half})
        valid = Evaluation(
            job=worker.job_digest, round=task.round, commit=task.model.commit, participant=worker.name, result=result
        ).model_dump(mode="json", by_alias=True)
        line = Line(self._program.address)
        for _ in range(3):
            data = mutations.document(self._rng, valid)
            self._post(line, f"/v1/rounds/{task.round}/evaluation", data, token_of(worker.name))
            self.result.inputs += 1
        line.close()

    def _until(self, holds: Any, problem: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            ended = "JobEnded" in self._program.log.read_text() and not holds()
            if time.monotonic() > deadline or self._program.dead or self._failed or ended:
                self.result.deaths += self._program.dead or ended
                raise RuntimeError(f"{problem}:\n{self._program.log.read_text()[-3000:]}")
            time.sleep(0.05)

    # --- one input ----------------------------------------------------------------------------------------------------

    def _input(self, number: int, people: list[Hostile]) -> None:
        rng = self._rng
        person = rng.choice(people)
        known = rng.random() < 0.75
        token = token_of(person.worker.name) if known else rng.choice((None, "wrong", token_of("stranger"), "x" * 5000))
        line = person.line if known else self._stranger
        round_path = f"/v1/rounds/{rng.choice((number,) * 8 + (0, number - 1, number + 1, 10**6))}"
        match rng.choice(("manifest", "manifest", "parts", "upload", "progress", "evaluation", "http", "http")):
            case "manifest" if not known or person.accepted or person.checked < CHECKED_UPDATES:
                data = mutations.document(rng, person.submission)
                answer = self._post(line, f"{round_path}/update?wait_seconds=20", data, token)
                self._note_verdict(person, answer, known)
            case "parts" | "manifest":
                wanted = PartsRequest(plan=person.task.plan, parts=person.prepared.records)
                data = mutations.document(rng, wanted.model_dump(mode="json", by_alias=True))
                self._post(line, f"{round_path}/parts", data, token)
            case "upload" if known and not person.accepted and person.uploaded < UPLOADED_PARTS:
                self._upload(person, number)
            case "evaluation":
                head = self._commit(self._stores[0], number - 1)
                result = {"lossSum": 1000.0, "tokens": 1000, "bytes": 4000}
                valid = {
                    "job": head.job, "round": number - 1, "commit": person.task.model.commit,
                    "participant": person.worker.name, "result": result,
                }  # fmt: skip
                self._post(line, f"/v1/rounds/{number - 1}/evaluation", mutations.document(rng, valid), token)
            case "http":
                method, data = mutations.request(rng, token, mutations.document(rng, progress_of(person.task.id)))
                self._count(line.odd(data, method), odd=True)
            case _:
                data = mutations.document(rng, progress_of(person.task.id))
                self._post(line, "/v1/progress", data, token)

    def _upload(self, person: Hostile, number: int) -> None:
        """One part is another: uploaded, and named in a manifest that agrees with it."""
        rng, token = self._rng, token_of(person.worker.name)
        index = rng.randrange(len(person.prepared.parts))
        data = mutations.part(rng, person.prepared.parts[index])
        old = person.prepared.records[index]
        record = Part(index=index, start=old.start, stop=old.stop, size_bytes=len(data), sha256=sha256_hex(data))
        records = [*person.prepared.records[:index], record, *person.prepared.records[index + 1 :]]
        wanted = PartsRequest(plan=person.task.plan, parts=records)
        answer = self._post(
            person.line, f"/v1/rounds/{number}/parts", wanted.model_dump_json(by_alias=True).encode(), token
        )
        person.uploaded += 1
        if answer is None or answer.status != 200:
            return
        for upload in PartsReply.model_validate_json(answer.body).uploads:
            if not upload.present:
                content = data if upload.index == index else person.prepared.parts[upload.index]
                person.worker.http.put(upload.url, headers=upload.headers, content=content)
        manifest = person.prepared.manifest.model_copy(update={"parts": records})
        body = UpdateSubmission(manifest=manifest).model_dump_json(by_alias=True).encode()
        self._note_verdict(
            person, self._post(person.line, f"/v1/rounds/{number}/update?wait_seconds=20", body, token), True
        )

    def _note_verdict(self, person: Hostile, answer: Answer | None, known: bool) -> None:
        if not known or answer is None or answer.status != 200:
            return
        state = json.loads(answer.body)["state"]
        person.checked += 1
        if state == "accepted" and not person.accepted:
            person.accepted = True
            self.result.accepted_mutations += 1

    def _post(self, line: Line, path: str, body: bytes, token: str | None) -> Answer | None:
        while True:
            answer = line.ask(post(path, body, token), "POST")
            if answer is None or answer.status != 429:
                break
            time.sleep(0.1)  # an input is one only when it was looked at
        known = token is not None and token in {token_of(name) for name in HOSTILE}
        self._count(answer)
        if answer is not None and not known and answer.status < 400:
            self.result.wrongly_accepted += 1
            self._problem(f"{path} answers {answer.status} to a stranger")
        return answer

    def _count(self, answer: Answer | None, *, odd: bool = False) -> None:
        if answer is None:
            self.result.unanswered += 1
            if not odd:
                self._problem("a request of HTTP was not answered")
            return
        self.result.statuses[str(answer.status)] += 1
        if answer.status == 503 and b'"NotReady"' in answer.body:
            self.result.not_ready += 1
        elif answer.status >= 500:
            self.result.server_errors += 1
            self._problem(f"{answer.status}: {answer.body[:300]!r}")

    def _problem(self, text: str) -> None:
        if len(self.result.problems) < 50:
            self.result.problems.append(text)

    # --- afterwards ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _commit(store: ObjectStore, number: int) -> Commit | None:
        try:
            return Commit.model_validate_json(store.get(keys.commit(number)))
        except NotFound:
            return None

    def _judge(self, store: ObjectStore) -> None:
        for commit in chain(store)[1:]:
            for update in commit.accepted:
                self.result.accepted_updates += 1
                valid = self._valid[commit.round, update.participant]
                wrong = oracle.update_problem(store, valid, update.manifest)
                if wrong is not None:
                    self.result.wrongly_accepted += 1
                    self._problem(f"round {commit.round}: an update of {update.participant} was accepted: {wrong}")
            for name in HOSTILE:
                key = keys.evaluation(commit.round, name)
                if store.head(key) is None:
                    continue
                wrong = oracle.evaluation_problem(store.get(key), name, commit.round)
                if wrong is not None:
                    self.result.wrongly_accepted += 1
                    self._problem(f"round {commit.round}: an evaluation of {name} was kept: {wrong}")

    def _replay(self) -> None:
        """The accepted updates, and nothing else, make the same models."""
        first, second = self._stores
        program = Program(self._folder / "second", self._s3, self._jobs[1])
        accepted = {(c.round, u.participant) for c in chain(first) for u in c.accepted}

        def again(worker: FakeWorker, task: TrainTask, _: Prepared) -> None:
            if (task.round, worker.name) not in accepted:
                return
            manifest = UpdateManifest.model_validate_json(first.get(keys.manifest(task.round, worker.name)))
            parts = [first.get(keys.part(task.round, worker.name, p.index, p.sha256)) for p in manifest.parts]
            worker.train_honestly(task, Prepared(parts=parts, records=manifest.parts, manifest=manifest))

        try:
            with working(*(FakeWorker(name, [program.url], tamper=again) for name in (*HONEST, *HOSTILE))):
                pass
        finally:
            program.stop()
        for one, other in zip(chain(first), chain(second), strict=True):
            if one != other:
                self.result.wrongly_accepted += 1
                self._problem(f"round {one.round}: the accepted updates alone make another commit")
