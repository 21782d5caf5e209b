"""A synthetic job of any size behind the real application, to test the page under load: no bucket, no training.

The state machine of the engine receives the events (plans, reports, commits) that a real job would send; only the
bucket operations that it requests are skipped. All values are a function of the seed.

    python -m tools.histories.page --participants 64 --rounds 1000 --listen 127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import uvicorn

from photon.api.job import FederatedTrainingJob
from photon.protocol.canonical import digest, sha256_hex
from photon.protocol.messages import Progress
from photon.protocol.records import (
    AcceptedUpdate,
    Commit,
    FileRecord,
    HeldOutResult,
    LearningMetrics,
    ParticipantLog,
    Phase,
    RoundLog,
)
from photon.store.objects import ObjectStore
from photon_aggregator.bucket.totals import Totals
from photon_aggregator.engine import Engine
from photon_aggregator.http.app import create_app
from photon_aggregator.http.auth import ReadToken, Tokens
from photon_aggregator.http.server import listen
from photon_aggregator.options import EngineOptions
from photon_aggregator.reporting.books import iso
from photon_aggregator.rounds.events import Committed, Evaluated, Head, Heartbeat, PlanReady, Recovered
from photon_aggregator.rounds.opening import make_plan
from photon_aggregator.rounds.state import RoundSettings

STEPS = 128
BATCH = 32
SEQUENCE = 2048
PARAMETERS = 124_000_000


def job_of(participants: int, rounds: int) -> FederatedTrainingJob:
    """The job file: ``participants`` sites, ``rounds`` completed rounds, and half as many remaining."""
    return FederatedTrainingJob.model_validate(
        {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": "made-up"},
            "spec": {
                "model": {"config": {"model_type": "llama"}, "seed": 7},
                "storage": {"endpoint": "http://127.0.0.1:9", "bucket": "photon"},
                "rounds": rounds + max(10, rounds // 2),
                "local": {"steps": STEPS, "batchSize": BATCH, "sequenceLength": SEQUENCE},
                "outer": {"type": "Nesterov", "learningRate": 0.7, "momentum": 0.9},
                "participants": [{"name": f"site-{i:02d}", "remote": {}} for i in range(participants)],
            },
        }
    )


class _Server(uvicorn.Server):
    """Signals are the caller's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(slots=True, kw_only=True)
class MadeUp:
    """The history so far, and how it goes on."""

    names: list[str]
    round_seconds: float
    started_at: float
    chance: random.Random
    tokens: int = 0

    def loss(self, number: int) -> float:
        """A curve such as they are: a power law with some noise."""
        return 2.6 + 7.5 * float((number + 2) ** -0.45) + self.chance.gauss(0, 0.01)

    def commit(self, number: int, previous: str | None) -> Head:
        """The record of round ``number``."""
        base = self.loss(number)
        spread = [base + self.chance.gauss(0, 0.12) for _ in self.names]
        per_update = STEPS * BATCH * SEQUENCE
        accepted = [
            AcceptedUpdate(
                participant=name,
                manifest=sha256_hex(f"{name}/{number}".encode()),
                weight=1 / len(self.names),
                tokens=per_update,
                norm=0.4 + 2 * math.exp(-number / 200) + self.chance.random() * 0.05,
                cosine_to_mean=0.55 + 0.1 * self.chance.random(),
                loss_mean=loss,
            )
            for name, loss in zip(self.names, spread, strict=True)
        ]
        if number:
            self.tokens += per_update * len(self.names)
        metrics = LearningMetrics(
            pseudo_gradient_norm=0.3 + 1.5 * math.exp(-number / 200) + self.chance.random() * 0.03,
            model_norm=180 + number / 20,
            momentum_norm=2 + 8 * math.exp(-number / 250),
            consensus=0.58 + 0.05 * self.chance.random(),
            mean_pairwise_cosine=0.3 + 0.05 * self.chance.random(),
            gradient_noise_scale=1e5 * (1 + number / 80) * (1 + 0.2 * self.chance.random()),
            train_loss=base,
        )
        commit = Commit(
            job=sha256_hex(b"job"),
            round=number,
            previous=previous,
            plan=sha256_hex(f"plan {number}".encode()) if number else None,
            folder=f"rounds/{number:05d}/global/{sha256_hex(str(number).encode())[:16]}",
            files=[
                FileRecord(
                    name="model.safetensors", size_bytes=4 * PARAMETERS, sha256=sha256_hex(f"m{number}".encode())
                )
            ],
            outer_steps=number,
            accepted=accepted if number else [],
            tokens=self.tokens,
            sequential_steps=number * STEPS,
            metrics=metrics if number else None,
        )
        return Head(commit=commit, digest=digest(commit))

    def log(self, head: Head) -> RoundLog:
        """Times and bytes of a round."""
        began = self.started_at + (head.round - 1) * self.round_seconds
        seconds: dict[Phase, float] = {
            "pull": 6 + self.chance.random(),
            "train": 0.8 * self.round_seconds + self.chance.random() * 5,
            "encode": 2.0,
            "push": 9 + 3 * self.chance.random(),
            "admit": 2.5,
            "merge": 7 + self.chance.random(),
            "commit": 0.2,
            "evaluate": 12.0,
        }
        size = 4 * PARAMETERS
        return RoundLog(
            round=head.round,
            started_at=iso(began),
            committed_at=iso(began + self.round_seconds),
            seconds=seconds,
            participants={
                name: ParticipantLog(
                    outcome="Accepted", tokens=STEPS * BATCH * SEQUENCE, bytes_up=size, bytes_down=size
                )
                for name in self.names
            },
            bytes_up=size * len(self.names),
            bytes_down=size * len(self.names),
        )

    def results(self, number: int) -> dict[str, HeldOutResult]:
        """Held-out sums of all participants."""
        base = self.loss(number)
        return {
            name: HeldOutResult(loss_sum=(base + 0.15 * math.sin(i)) * 1e6, tokens=1_000_000, bytes=4_000_000)
            for i, name in enumerate(self.names)
        }


def made_up_engine(participants: int, rounds: int, *, round_seconds: float = 600.0) -> tuple[Engine, MadeUp]:
    """An engine whose state is that of a job with ``rounds`` committed rounds, in the middle of the next."""
    job = job_of(participants, rounds)
    store = ObjectStore.open(job.spec.storage, access_key="-", secret_key="-")
    settings = replace(RoundSettings.of(job), job=sha256_hex(b"job"), absent_seconds=3600.0)
    engine = Engine(job=job, store=store, settings=settings, options=EngineOptions(clock=time.time))
    names = list(settings.participants)
    now = engine.clock()
    history = MadeUp(
        names=names,
        round_seconds=round_seconds,
        started_at=now - rounds * round_seconds,
        chance=random.Random(participants * 1000 + rounds),
    )
    heads: list[Head] = []
    for number in range(rounds + 1):
        heads.append(history.commit(number, heads[-1].digest if heads else None))
    logs = {head.round: history.log(head) for head in heads[1:]}
    engine.books.restored(heads, logs, totals=Totals(), counted_before=0)
    evaluations = {number: history.results(number) for number in range(1, rounds + 1)}
    for number, results in evaluations.items():
        engine.books.curves.evaluated(number, results)
    engine.send(
        Recovered(at=now, job=settings.job, head=heads[-1], planned=True, first_planned_at=now, evaluations=evaluations)
    )
    for name in names:
        engine.send(Heartbeat(at=now, participant=name))
    _open(engine)
    return engine, history


def _open(engine: Engine) -> None:
    plan = make_plan(engine.state)
    now = engine.clock()
    engine.send(PlanReady(at=now, plan=plan, digest=digest(plan), planned_at=now))


def commit_next(engine: Engine, history: MadeUp) -> None:
    """The running round ends, is evaluated, and the next is planned."""
    head = engine.state.head
    assert head is not None
    ended = history.commit(head.round + 1, head.digest)
    engine.send(Committed(at=engine.clock(), commit=ended.commit, digest=ended.digest, seconds={"merge": 7.0}))
    for name, result in history.results(ended.round).items():
        engine.send(Evaluated(at=engine.clock(), round=ended.round, participant=name, result=result))
    _open(engine)


def report(engine: Engine, history: MadeUp, share: float) -> None:
    """Everyone reports that it is so far with the running round (0 to 1)."""
    open_round = engine.state.open
    assert open_round is not None
    now = engine.clock()
    loss = history.loss(open_round.round)
    for i, name in enumerate(history.names):
        mine = min(1.0, share * (1 + 0.2 * math.sin(i)))
        progress = Progress(
            task_id=f"train-{open_round.round:05d}",
            phase="train" if mine < 1 else "push",
            step=int(mine * STEPS),
            loss=loss + 0.1 * math.sin(i),
            learning_rate=3e-4,
            tokens_per_second=110_000 + 9000 * math.sin(i),
            memory_bytes=61 * 2**30,
            mfu=0.41 + 0.02 * math.sin(i),
            bytes_up=int(max(0.0, mine - 0.9) * 4 * PARAMETERS),
            bytes_down=4 * PARAMETERS,
            seconds={"pull": 6.0 + math.sin(i), "train": mine * 0.8 * history.round_seconds},
        )
        engine.books.reported(name, progress)
        engine.send(Heartbeat(at=now, participant=name))


async def go_on(engine: Engine, history: MadeUp, *, every_seconds: float) -> None:
    """Report each second, and commit a round each ``every_seconds``, until the job has ended."""
    began = time.monotonic()
    while engine.state.outcome is None:
        passed = time.monotonic() - began
        if passed >= every_seconds:
            commit_next(engine, history)
            began, passed = time.monotonic(), 0.0
        report(engine, history, passed / every_seconds)
        await asyncio.sleep(1.0)


async def serve_made_up(
    engine: Engine,
    history: MadeUp,
    bound: socket.socket,
    *,
    every_seconds: float,
    read_token: str | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """The application with this engine on a socket, until ``stop`` is set or the task is cancelled."""
    app = create_app(
        engine=engine,
        tokens=Tokens({name: sha256_hex(name.encode()) for name in history.names}),
        read_token=ReadToken(read_token),
    )
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    driver = asyncio.create_task(go_on(engine, history, every_seconds=every_seconds))
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        await (stop or asyncio.Event()).wait()
    finally:
        server.should_exit = True
        driver.cancel()
        await asyncio.gather(driver, serving, return_exceptions=True)


def main() -> None:
    """Serve it until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--every-seconds", type=float, default=5.0)
    parser.add_argument("--listen", default="127.0.0.1:8080")
    arguments = parser.parse_args()
    engine, history = made_up_engine(arguments.participants, arguments.rounds)
    bound = listen(arguments.listen)
    print(f"http://{bound.getsockname()[0]}:{bound.getsockname()[1]}/", flush=True)
    asyncio.run(serve_made_up(engine, history, bound, every_seconds=arguments.every_seconds))


if __name__ == "__main__":
    main()
