"""A long job's bucket, made up: its records follow from each other as those of a real job do.

All that an aggregator reads when it starts is there: the job, a chain of commits, logs, evaluations, the first plan and
the one of the running round, and the files of the last model. Updates and models of past rounds are what retention
deletes.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from benchmarks.page_history import MadeUp
from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve
from photon.api.placement import StorageSpec
from photon.protocol.canonical import canonical_json, digest, sha256_hex
from photon.protocol.records import Commit, Evaluation, FileRecord, Plan
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.tensors import Header

SHAPES: Final = {"model.embed.weight": (64, 32), "model.layers.0.w": (96, 96), "norm": (77,)}
EVALUATE_EVERY: Final = 10
ROUND_SECONDS: Final = 600.0
_WRITERS: Final = 2
_THREADS: Final = 6
_BATCH: Final = 256

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
    """The files of a model's folder, the same after every round: nobody trains here."""

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
    for number in range(rounds + 1):
        head = made_up.commit(number, previous)
        folder = keys.global_folder(number, name)
        more = {"job": name, "files": model.records, "folder": folder, "outer_steps": number}
        commit = Commit.model_validate({**head.commit.model_dump(), **more})
        data = canonical_json(commit)
        yield keys.commit(number), data
        if number:
            yield keys.round_log(number), canonical_json(made_up.log(head))
        previous = sha256_hex(data)
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


_store: ObjectStore
_threads: ThreadPoolExecutor


def _open(storage: StorageSpec, access_key: str, secret_key: str) -> None:
    global _store, _threads
    _store = ObjectStore.open(storage, access_key=access_key, secret_key=secret_key)
    _threads = ThreadPoolExecutor(_THREADS)


def _put(batch: list[Record]) -> int:
    return len(list(_threads.map(lambda record: _store.put(*record), batch)))


def write(storage: StorageSpec, found: Iterator[Record], *, access_key: str, secret_key: str) -> int:
    """Put all records into the bucket, by processes of their own; how many they were."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(_WRITERS, _open, (storage, access_key, secret_key)) as writers:
        return sum(writers.imap_unordered(_put, iter(lambda: list(islice(found, _BATCH)), [])))
