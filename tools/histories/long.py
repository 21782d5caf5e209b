"""A synthetic bucket of a long job, with records that follow from each other as in a real job.

Contains everything that an aggregator reads at startup: the job, a chain of commits, logs, evaluations, the summary,
the first plan and that of the current round, and the files of the last model. Updates and models of past rounds are
omitted, as if deleted by retention.
"""

from __future__ import annotations

import hmac
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve
from photon.api.placement import StorageSpec
from photon.protocol.canonical import canonical_json, digest, sha256_hex
from photon.protocol.records import Commit, Evaluation, FileRecord, Plan
from photon.store import keys
from photon.store.http import Connection
from photon.store.retry import RetryPolicy
from photon.store.tensors import Header
from photon_aggregator.bucket.summary import summary_of
from photon_aggregator.bucket.totals import Totals
from photon_aggregator.rounds.events import Head
from photon_aggregator.rounds.state import JobState, RoundSettings
from tools.histories.page import MadeUp

SHAPES: Final = {"model.embed.weight": (64, 32), "model.layers.0.w": (96, 96), "norm": (77,)}
EVALUATE_EVERY: Final = 10
ROUND_SECONDS: Final = 600.0
_WRITERS: Final = 2
_THREADS: Final = 6
_BATCH: Final = 256
RETRY: Final = RetryPolicy(attempts=6)

Record = tuple[str, bytes]


def job_of(storage: StorageSpec, participants: int, rounds: int) -> FederatedTrainingJob:
    """The job file: ``rounds`` rounds are over and ten are to come."""
    return FederatedTrainingJob.model_validate(
        {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": "long"},
            "spec": {
                "model": {"config": {"model_type": "llama"}, "seed": 7},
                "storage": {
                    **storage.model_dump(mode="json", by_alias=True),
                    "retention": {"keepLastRounds": 1},
                },
                "rounds": rounds + 10,
                "local": {
                    "steps": 128,
                    "batchSize": 32,
                    "sequenceLength": 2048,
                    # Fixed, so that a longer job is the same job: its schedule does not follow from spec.rounds.
                    "learningRate": {"totalSteps": 10_000_000},
                },
                "outer": {"type": "FedAvg"},
                "evaluation": {"everyRounds": EVALUATE_EVERY},
                "participants": [{"name": f"site-{i:02d}", "remote": {}} for i in range(participants)],
            },
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The files of a model folder, the same after every round: nothing is trained."""

    files: dict[str, bytes]

    @classmethod
    def tiny(cls) -> Model:
        header = Header.for_model(SHAPES)
        values = np.random.default_rng(0).standard_normal(header.elements, np.float32)
        return cls(
            files={
                keys.WEIGHTS: header.to_bytes() + values.tobytes(),
                "config.json": b'{"model_type": "llama"}\n',
                "tokenizer.json": b"{}\n",
            }
        )

    @property
    def records(self) -> list[FileRecord]:
        return [
            FileRecord(name=name, size_bytes=len(data), sha256=sha256_hex(data))
            for name, data in sorted(self.files.items())
        ]


def records(job: FederatedTrainingJob, rounds: int) -> Iterator[Record]:
    """Keys and bytes of all that is in the bucket after ``rounds`` committed rounds."""
    learning: LearningJob = resolve(job)
    name, model, names = digest(learning), Model.tiny(), sorted(p.name for p in job.spec.participants)
    made_up = MadeUp(
        names=names,
        round_seconds=ROUND_SECONDS,
        started_at=time.time() - rounds * ROUND_SECONDS,
        chance=random.Random(len(names) * 100_000 + rounds),
    )
    yield keys.JOB, canonical_json(learning)
    previous: str | None = None
    totals = Totals()
    for number in range(rounds + 1):
        head = made_up.commit(number, previous)
        folder = keys.global_folder(number, name)
        more = {"job": name, "files": model.records, "folder": folder, "outer_steps": number}
        commit = Commit.model_validate({**head.commit.model_dump(), **more})
        data = canonical_json(commit)
        yield keys.commit(number), data
        previous = sha256_hex(data)
        if number:
            log = made_up.log(head)
            yield keys.round_log(number), canonical_json(log)
        if number == rounds:
            # As the aggregator writes it with each commit: of the rounds before.
            sums = summary_of(
                totals, JobState(settings=RoundSettings.of(job), started_at=0), round_number=number, commit=previous
            )
            assert sums is not None
            yield keys.SUMMARY, sums.model_dump_json(by_alias=True).encode()
        elif number:
            totals.count(Head(commit=commit, digest=previous))
            totals.keep(log)
        if number and number % EVALUATE_EVERY == 0:
            for participant, result in made_up.results(number).items():
                evaluation = Evaluation(job=name, round=number, commit=previous, participant=participant, result=result)
                yield keys.evaluation(number, participant), canonical_json(evaluation)
        if number in {0, rounds}:
            plan = Plan(
                job=name,
                round=number + 1,
                base=previous,
                participants=names,
                cohort=names,
                first_step=commit.sequential_steps,
                local_steps=job.spec.local.steps,
            )
            yield keys.plan(number + 1), canonical_json(plan)
    for file, content in model.files.items():
        yield f"{keys.global_folder(rounds, name)}/{file}", content


class _Writer:
    """Puts small objects, with a signature of version 4 and nothing else: a tenth of what boto3 takes for each."""

    def __init__(self, storage: StorageSpec, access_key: str, secret_key: str) -> None:
        assert storage.endpoint is not None
        self._endpoint, self._host = storage.endpoint, urlsplit(storage.endpoint).netloc
        self._folder = f"/{storage.bucket}/{storage.prefix}/" if storage.prefix else f"/{storage.bucket}/"
        self._region, self._access_key, self._secret_key = storage.region, access_key, secret_key
        self._mine = threading.local()

    def put(self, record: Record) -> None:
        key, data = record
        connection = self._mine.__dict__.setdefault("connection", Connection(self._endpoint))
        path = f"{self._folder}{key}"
        RETRY.run(lambda: connection.put(f"{self._endpoint}{path}", self._headers(path, len(data)), memoryview(data)))

    def _headers(self, path: str, size: int) -> dict[str, str]:
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        sent = {"host": self._host, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": at}
        names = ";".join(sent)
        lines = "".join(f"{name}:{value}\n" for name, value in sent.items())
        request = sha256_hex(f"PUT\n{path}\n\n{lines}\n{names}\nUNSIGNED-PAYLOAD".encode())
        scope = f"{at[:8]}/{self._region}/s3/aws4_request"
        signed = f"AWS4{self._secret_key}".encode()
        for word in [*scope.split("/"), f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{request}"]:
            signed = hmac.digest(signed, word.encode(), "sha256")
        del sent["host"]
        who = f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}"
        return sent | {
            "Authorization": f"{who}, SignedHeaders={names}, Signature={signed.hex()}",
            "Content-Length": str(size),
        }


_writer: _Writer
_threads: ThreadPoolExecutor


def _open(storage: StorageSpec, access_key: str, secret_key: str) -> None:
    global _writer, _threads
    _writer = _Writer(storage, access_key, secret_key)
    _threads = ThreadPoolExecutor(_THREADS)


def _put(batch: list[Record]) -> int:
    return len(list(_threads.map(_writer.put, batch)))


def write(storage: StorageSpec, found: Iterator[Record], *, access_key: str, secret_key: str) -> int:
    """Put all records into the bucket, by processes of their own; how many they were."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(_WRITERS, _open, (storage, access_key, secret_key)) as writers:
        return sum(writers.imap_unordered(_put, iter(lambda: list(islice(found, _BATCH)), [])))
