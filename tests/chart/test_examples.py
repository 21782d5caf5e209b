"""manifests/examples: valid for `photon validate`, and of the shape that their comments promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from photon.api.job import FederatedTrainingJob
from photon.api.training import ParallelStrategy
from photon.api.validate import load_job
from tests.chart.rendering import EXAMPLES, ROOT


def example(name: str) -> FederatedTrainingJob:
    return load_job(ROOT / "manifests" / "examples" / f"{name}.yaml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_valid(path: Path) -> None:
    job = load_job(path)
    assert job.metadata.namespace is None, "the reader chooses the namespace"
    assert job.spec.storage.prefix, "jobs share a bucket, never a prefix"
    assert job.spec.storage.credentials_secret_ref is not None


def test_prefixes_differ() -> None:
    prefixes = [(job.spec.storage.bucket, job.spec.storage.prefix) for job in map(load_job, EXAMPLES)]
    assert len(prefixes) == len(set(prefixes))


def test_the_first_job_is_short() -> None:
    text = (ROOT / "manifests" / "examples" / "first-job.yaml").read_text()
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 25


def test_several_gpus_are_shared_by_fsdp() -> None:
    job = example("several-gpus")
    assert job.spec.local.strategy is ParallelStrategy.FSDP
    workers = [p.worker for p in job.spec.participants if p.worker is not None]
    assert max(worker.nodes for worker in workers) > 1
    for worker in workers:
        assert worker.processes_per_node == worker.resources.gpus, "a process for each GPU"
        processes = worker.nodes * worker.processes_per_node
        assert job.spec.local.batch_size % processes == 0


def test_spot_nodes_name_a_queue_and_can_do_without_one_participant() -> None:
    job = example("spot-nodes-kueue")
    assert job.metadata.labels["kueue.x-k8s.io/queue-name"]
    assert job.spec.quorum < len(job.spec.participants)


def test_a_warm_start_names_a_checkpoint() -> None:
    assert example("warm-start").spec.model.init_from is not None
