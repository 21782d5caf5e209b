"""A tiny model, tiny data and one thread: everything of the worker's tests runs on real torch in seconds."""

from __future__ import annotations

import os

# Before torch is imported: its pools read this once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve
from photon.api.participation import EvaluationSpec
from photon.protocol.canonical import digest, sha256_hex
from photon.protocol.messages import (
    ACCEPTS,
    TRAINING_NOTES,
    EvaluateTask,
    FinishTask,
    GlobalModel,
    JobForWorkers,
    ObjectGet,
    PartsReply,
    PartsRequest,
    PartUpload,
    Progress,
    ProgressReply,
    TaskReply,
    TrainTask,
    UpdateReply,
    UpdateSubmission,
)
from photon.protocol.records import Evaluation, Part, UpdateManifest
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.source import FileSource
from photon.telemetry.trackers import Trackers
from photon_worker.commands.initialize import initialise
from photon_worker.data import Mixture
from photon_worker.data.batches import JobBatches
from photon_worker.data.index import INDEX, Index, PreparationSettings, Shard, Split
from photon_worker.data.tokenizer import BYTE_VOCABULARY, EOS, byte_tokenizer_files
from photon_worker.distributed.control import SingleProcess
from photon_worker.lifecycle.signals import Interrupts
from photon_worker.round.client import AggregatorClient
from photon_worker.round.journal import Journal
from photon_worker.round.trainer import RoundTrainer, WorkerContext
from photon_worker.training import model as models
from photon_worker.training.strategy import Single, Vector

VOCABULARY = 264
SEQUENCE = 16
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def write_data(folder: Path, *, tokens: int = 4000, held_out: int = 500, seed: int = 0) -> Path:
    """A prepared folder of the byte tokenizer: text with some structure, so that a model can learn it."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    digest = hashlib.sha256(byte_tokenizer_files()["tokenizer.json"]).hexdigest()
    splits: dict[str, Split] = {}
    for name, count in (("train", tokens), ("heldout", held_out)):
        words = generator.integers(97, 123, size=(8, 5))
        values = np.concatenate([np.append(words[i], 32) for i in generator.integers(0, 8, size=count // 6 + 1)])
        values = values[:count].astype("<u2")
        values[-1] = EOS
        path = folder / f"{name}-00000.bin"
        path.write_bytes(values.tobytes())
        shard = Shard(name=path.name, tokens=count, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        splits[name] = Split(documents=1, tokens=count, bytes=count - 1, shards=[shard])
    train = splits["train"]
    index = Index(
        dtype="uint16",
        vocabulary_size=BYTE_VOCABULARY,
        end_of_text=EOS,
        tokenizer="byte",
        tokenizer_digest=digest,
        documents=train.documents,
        tokens=train.tokens,
        bytes=train.bytes,
        shards=train.shards,
        held_out=splits["heldout"],
        sources=["test"],
        settings=PreparationSettings(),
    )
    (folder / INDEX).write_text(index.model_dump_json())
    return folder


class Tiny:
    """The tests' model and job; a fixture, because test modules cannot import each other."""

    config = CONFIG
    vocabulary = VOCABULARY
    sequence = SEQUENCE

    @staticmethod
    def job(storage: dict[str, Any] | None = None, **local: Any) -> FederatedTrainingJob:
        """A job of two participants with the tiny model; ``local`` overrides spec.local."""
        settings: dict[str, Any] = {
            "steps": 4,
            "batchSize": 4,
            "sequenceLength": SEQUENCE,
            "precision": "fp32",
            "learningRate": {"max": 0.01, "warmupSteps": 2},
        }
        participant = {"worker": {"data": {"uri": "/nowhere"}}}
        return FederatedTrainingJob.model_validate(
            {
                "apiVersion": "photon.dev/v1alpha1",
                "kind": "FederatedTrainingJob",
                "metadata": {"name": "tiny"},
                "spec": {
                    "model": {"config": CONFIG, "seed": 7},
                    "storage": storage or {},
                    "rounds": 3,
                    "local": settings | local,
                    "exchange": {"partBytes": 65536},
                    "participants": [{"name": "a", **participant}, {"name": "b", **participant}],
                },
            }
        )

    def learning(self, **local: Any) -> LearningJob:
        return resolve(self.job(**local))

    @staticmethod
    def model() -> Any:
        """The job's initial model."""
        return models.build(models.config_from(CONFIG), seed=7)

    def strategy(self, learning: LearningJob) -> Single:
        """The job's strategy with the job's initial weights."""
        strategy = Single(models.config_from(CONFIG), learning.local.optimizer, device=torch.device("cpu"))
        strategy.write("weights", 0, self.flat(self.model()))
        return strategy

    @staticmethod
    def flat(model: Any) -> np.ndarray:
        """The flat vector of a model's weights."""
        return torch.cat([p.detach().reshape(-1) for p in models.parameters(model).values()]).numpy()

    @staticmethod
    def vector(strategy: Single, name: Vector = "weights") -> np.ndarray:
        """A copy of a flat vector of a strategy."""
        out = np.empty(strategy.header.elements, dtype=np.float32)
        strategy.read(name, 0, out)
        return out

    @staticmethod
    def batches(data: Mixture, learning: LearningJob) -> Any:
        return JobBatches(data, learning)

    write_data = staticmethod(write_data)


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data-a")


@pytest.fixture
def data(data_folder: Path) -> Mixture:
    return Mixture.open({"a": str(data_folder)})


@pytest.fixture
def initial_file(tmp_path: Path) -> Iterator[FileSource]:
    """The initial model.safetensors."""
    path = tmp_path / "model.safetensors"
    models.write_weights(Tiny.model(), path)
    source = FileSource(path)
    yield source
    source.close()


class FakeAggregator:
    """Answers like an aggregator, in this process, with presigned URLs of the real store; for the worker's own faults.

    ``tasks`` are handed out in order; then the job has ended. ``handle`` is an httpx transport's handler.
    """

    def __init__(self, store: ObjectStore, job: FederatedTrainingJob, folder: Path) -> None:
        self.store = store
        self.learning = resolve(job)
        self.result = initialise(job, store, folder=folder)
        self.tasks: list[TrainTask | EvaluateTask] = []
        self.done: list[str | None] = []
        self.manifests: list[UpdateManifest] = []
        self.evaluations: list[Evaluation] = []
        self.progress: list[Progress] = []
        self.requested_parts: list[Part] = []
        self.checking = 0
        self.cancel = False
        self.verdict = UpdateReply(state="accepted")
        self.headers = {ACCEPTS: TRAINING_NOTES}

    def model(self) -> GlobalModel:
        commit = self.result.commit
        return GlobalModel(
            round=0,
            commit=digest(commit),
            files=[
                ObjectGet(file=file, url=self.store.presign_get(f"{commit.folder}/{file.name}", valid_seconds=600))
                for file in commit.files
            ],
            valid_seconds=600,
        )

    def train_task(self, round_number: int = 1) -> TrainTask:
        steps = self.learning.local.steps
        return TrainTask(
            id=f"train-{round_number:05d}",
            round=round_number,
            plan=sha256_hex(f"plan {round_number}".encode()),
            model=self.model(),
            first_step=(round_number - 1) * steps,
            local_steps=steps,
        )

    def evaluate_task(self) -> EvaluateTask:
        return EvaluateTask(id="evaluate-00000", round=0, model=self.model(), by_source=True)

    def client(self) -> AggregatorClient:
        return AggregatorClient(
            "http://aggregator.test", "token", patience_seconds=1, transport=httpx.MockTransport(self.handle)
        )

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/v1/job":
            return self._json(
                JobForWorkers(
                    name="tiny", participant="a", learning=self.learning, evaluation=EvaluationSpec(max_tokens=10**6)
                )
            )
        if path == "/v1/task":
            self.done.append(request.url.params.get("done"))
            task = self.tasks.pop(0) if self.tasks else FinishTask(reason="RoundsDone")
            response = self._json(TaskReply(task=task))
            response.headers.update(self.headers)
            return response
        if path == "/v1/progress":
            self.progress.append(Progress.model_validate_json(request.content))
            return self._json(ProgressReply(cancel=self.cancel))
        if path.endswith("/parts"):
            return self._json(self._parts(int(path.split("/")[3]), PartsRequest.model_validate_json(request.content)))
        if path.endswith("/update"):
            if self.checking:
                self.checking -= 1
                return self._json(UpdateReply(state="checking"))
            self.manifests.append(UpdateSubmission.model_validate_json(request.content).manifest)
            return self._json(self.verdict)
        if path.endswith("/evaluation"):
            self.evaluations.append(Evaluation.model_validate_json(request.content))
            return httpx.Response(204)
        return httpx.Response(404)

    def _parts(self, round_number: int, request: PartsRequest) -> PartsReply:
        uploads = []
        for part in request.parts:
            self.requested_parts.append(part)
            key = keys.part(round_number, "a", part.index, part.sha256)
            if self.store.head(key) is not None:
                uploads.append(PartUpload(index=part.index, present=True))
                continue
            put = self.store.presign_put(key, size_bytes=part.size_bytes, sha256=part.sha256, valid_seconds=600)
            uploads.append(PartUpload(index=part.index, url=put.url, headers=put.headers))
        return PartsReply(uploads=uploads)

    def part(self, round_number: int, part: Part) -> bytes:
        """A part's bytes from the bucket."""
        return self.store.get(keys.part(round_number, "a", part.index, part.sha256))

    @staticmethod
    def _json(value: Any) -> httpx.Response:
        return httpx.Response(200, content=value.model_dump_json(by_alias=True))


@pytest.fixture
def aggregator(tiny: Tiny, store: ObjectStore, tmp_path: Path) -> FakeAggregator:
    return FakeAggregator(store, tiny.job(), tmp_path)


@pytest.fixture
def new_participant(aggregator: FakeAggregator, data: Mixture, tmp_path: Path) -> Iterator[Callable[..., RoundTrainer]]:
    """Makes participants in one work directory, as a restarted worker would."""
    clients = []
    journals: list[Journal] = []

    def new(*, work_dir: Path = tmp_path / "work", checkpoint_every: int = 50) -> RoundTrainer:
        client = aggregator.client()
        clients.append(client)
        client.takes_notes = TRAINING_NOTES in aggregator.headers.values()
        job = client.job()
        device = torch.device("cpu")
        journals.append(Journal(work_dir, Trackers.none(), local_steps=job.learning.local.steps))
        return RoundTrainer(
            WorkerContext(
                job=job,
                data=data,
                work_dir=work_dir,
                checkpoint_every=checkpoint_every,
                device=device,
                client=client,
                interrupts=Interrupts(),
                control=SingleProcess(lambda config: Single(config, job.learning.local.optimizer, device=device)),
                journal=journals[-1],
            )
        )

    yield new
    for client in clients:
        client.__exit__(None, None, None)
    for journal in journals:
        journal.__exit__(None, None, None)
