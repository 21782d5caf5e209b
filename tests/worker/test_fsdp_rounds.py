"""Rounds of a participant of several processes: the update, resume after any of them dies, how all end together."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from photon.protocol.records import UpdateManifest
from photon.store.objects import ObjectStore
from photon_worker.training.loop import Totals, Training, train
from tests.worker.conftest import FakeAggregator, Tiny, write_data
from tests.worker.together import DEADLINE_SECONDS, Node, Served, finish, served, unused_port

pytestmark = [pytest.mark.s3, pytest.mark.processes, pytest.mark.timeout(900)]

STEPS = 60
Start = Callable[..., Node]


def new_served(bucket: ObjectStore, folder: Path) -> Served:
    """A job of two rounds with an evaluation between them; the same for every test, down to its data."""
    store = bucket.at(f"test-{uuid.uuid4().hex[:12]}")
    aggregator = FakeAggregator(store, Tiny.job(strategy="FSDP", steps=STEPS), folder)
    aggregator.tasks = [aggregator.train_task(1), aggregator.evaluate_task(), aggregator.train_task(2)]
    write_data(folder / "data")
    return Served(aggregator)


@pytest.fixture(scope="module")
def undisturbed(_bucket: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> FakeAggregator:
    """What two processes sent in which nothing went wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with served(new_served(_bucket, folder)) as serving:
        node = Node(serving, folder / "data", folder / "work")
        assert node.finish() == 0, node.log
        aggregator: FakeAggregator = serving.aggregator
        return aggregator


@pytest.fixture
def serving(_bucket: ObjectStore, tmp_path: Path) -> Iterator[Served]:
    with served(new_served(_bucket, tmp_path)) as serving:
        yield serving


@pytest.fixture
def start(serving: Served, tmp_path: Path) -> Iterator[Start]:
    """Starts nodes, each in its own work directory; whatever a test leaves is ended."""
    started: list[Node] = []

    def begin(*rendezvous: str, work: str = "work") -> Node:
        started.append(Node(serving, tmp_path / "data", tmp_path / work, *rendezvous))
        return started[-1]

    yield begin
    for node in started:
        node.stop()


def update(aggregator: FakeAggregator, manifest: UpdateManifest) -> Any:
    """The whole update of a round."""
    parts = [load(aggregator.part(manifest.round, part)) for part in manifest.parts]
    return np.concatenate([values.reshape(-1) for part in parts for values in part.values()])


def distance(found: Any, expected: Any) -> float:
    """Relative to the size of ``expected``."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def wait_for_checkpoint(work: Path, node: Node, round_number: int = 2) -> None:
    """Until ``node`` has written a checkpoint within the round, further than any that lies there now."""

    def last() -> str:
        found = (work / "checkpoints").glob(f"round-{round_number:05d}-step-*")
        return max((path.name for path in found), default="")

    before = last()
    end = time.monotonic() + DEADLINE_SECONDS
    while last() <= before:
        assert time.monotonic() < end, node.log
        assert node.process.poll() is None, node.log
        time.sleep(0.005)


def test_the_update_of_two_processes_is_that_of_one(undisturbed: FakeAggregator, tiny: Any, data: Any) -> None:
    learning = undisturbed.learning
    strategy = tiny.strategy(learning)
    totals = Totals(strategy.device)
    train(
        strategy,
        Training(
            batches=tiny.batches(data, learning),
            local=learning.local,
            seed=7,
            participant="a",
            first_step=0,
            until=STEPS,
        ),
        totals,
        after_step=lambda _: None,
    )
    first, second = undisturbed.manifests
    assert distance(update(undisturbed, first), tiny.flat(tiny.model()) - tiny.vector(strategy)) < 1e-3
    assert first.metrics.loss_last == pytest.approx(totals.metrics().loss_last, abs=1e-3)
    assert first.metrics.grad_norm_mean == pytest.approx(totals.metrics().grad_norm_mean, rel=1e-3)
    assert (first.tokens, first.local_steps) == (STEPS * 4 * tiny.sequence, STEPS)
    assert second.round == 2
    (evaluation,) = undisturbed.evaluations
    assert evaluation.result.tokens == 499


def test_whoever_dies_the_restarted_processes_send_the_same_bytes(
    undisturbed: FakeAggregator, serving: Served, start: Start, tmp_path: Path
) -> None:
    node = start()
    wait_for_checkpoint(tmp_path / "work", node)
    node.kill(1)
    assert node.finish() == 1, node.log
    assert "error: process 1 was killed by SIGKILL" in node.log
    assert "Traceback" not in node.log

    node = start()
    wait_for_checkpoint(tmp_path / "work", node)
    node.process.send_signal(signal.SIGTERM)
    # torchrun may be so young that it has no handler yet: then the signal ends it, which is the same to its launcher.
    assert node.finish() in (128 + signal.SIGTERM, -signal.SIGTERM), node.log
    assert "Traceback" not in node.log

    node = start()
    assert node.finish() == 0, node.log
    assert node.log.count("round 2: resumed at local step") >= 1
    assert serving.aggregator.manifests == undisturbed.manifests
    assert serving.aggregator.evaluations[0].result == undisturbed.evaluations[0].result


def test_two_nodes_of_two_processes_end_together_and_resume(
    undisturbed: FakeAggregator, serving: Served, start: Start, tmp_path: Path
) -> None:
    def start_both() -> list[Node]:
        meeting = ("--rdzv-backend=c10d", "--rdzv-id=a", f"--rdzv-endpoint=127.0.0.1:{unused_port()}", "--nnodes=2")
        return [
            start(*meeting, f"--local-addr=127.0.0.{n}", f"--rdzv-conf=is_host={n == 1}", work=f"node-{n}")
            for n in (1, 2)
        ]

    first, second = start_both()
    wait_for_checkpoint(tmp_path / "node-1", first)
    second.process.kill()
    assert second.finish() != 0
    assert first.finish() == 1, first.log
    assert "another process of this participant was killed or cannot be reached" in first.log
    assert "Traceback" not in first.log

    assert finish(start_both()) == [0, 0]
    assert not (tmp_path / "node-2/models").exists(), "one node fetches the model"
    for found, expected in zip(serving.aggregator.manifests, undisturbed.manifests, strict=True):
        assert distance(update(serving.aggregator, found), update(undisturbed, expected)) < 1e-2
        assert found.metrics.loss_last == pytest.approx(expected.metrics.loss_last, abs=1e-3)
