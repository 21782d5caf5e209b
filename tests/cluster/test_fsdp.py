"""A participant of two pods with two processes each: it learns as one process does, and survives the loss of a pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.release import Job, Release
from tests.end_to_end.whole_runs import prepare_data, step_of, write_job
from tools.cluster.kube import Object

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ROUNDS = 2
STEPS = 50


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, photon: Release) -> Object:
    """A job of one participant, whose data is in the store."""
    folder = tmp_path_factory.mktemp("fsdp")
    data = {"alone": prepare_data(folder)["north"]}
    local = {
        "steps": STEPS,
        "batchSize": 4,
        "sequenceLength": 64,
        "precision": "fp32",
        "learningRate": {"max": 3e-3, "warmupSteps": 10},
    }
    photon.upload(data)
    return yaml.safe_load(write_job(folder / "job.yaml", data, rounds=ROUNDS, local=local).read_text())  # type: ignore[no-any-return]


def spread(document: Object) -> Object:
    """The same job on two pods of two processes."""
    document = yaml.safe_load(yaml.safe_dump(document))
    document["spec"]["local"]["strategy"] = "FSDP"
    worker = document["spec"]["participants"][0]["worker"]
    worker |= {"nodes": 2, "processesPerNode": 2, "checkpointEverySteps": 5}
    return document


def figures(status: Object) -> tuple[Any, Any]:
    """Loss of the last round's training, and of the final model on held-out text."""
    return status["trainLoss"], status["validationLoss"]


def test_two_pods_learn_as_one_process_and_the_loss_of_a_pod_changes_nothing(
    photon: Release, document: Object, tmp_path: Path
) -> None:
    alone = Job(photon, photon.for_cluster(document, name="one-process"))
    alone.apply(tmp_path)
    expected = alone.complete()
    together = Job(photon, photon.for_cluster(spread(document), name="two-pods"))
    together.apply(tmp_path)
    status = together.complete()
    assert status["tokens"] == expected["tokens"] == ROUNDS * STEPS * 4 * 64
    assert figures(status) == pytest.approx(figures(expected), abs=1e-3)

    disturbed = Job(photon, photon.for_cluster(spread(document), name="two-pods-less-one"))
    disturbed.apply(tmp_path)
    disturbed.wait(lambda s: s.get("round") == 2 and step_of(s, "alone") >= 10, "in the second round")
    first, second = disturbed.pods("worker", "alone")
    disturbed.kube.kubectl("delete", second, "--grace-period=0", "--force")
    again = disturbed.complete()
    assert again["lastCommit"] == status["lastCommit"]
    nodes = [name.rsplit("-", 2)[-2] for name in set(disturbed.pods("worker", "alone")) - {first, second}]
    assert sorted(nodes) == ["0", "1"], "the pod that was left ended too, and both came again"
