"""A short form of `make soak`: a few jobs, edited and deleted beside killed operators and a node without power."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.fixtures import RunningCluster
from tests.cluster.release import Release
from tests.soak.documents import kinds
from tests.soak.soak import Soak

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def test_jobs_end_as_their_documents_say_and_leave_nothing(
    photon: Release, cluster: RunningCluster, tmp_path: Path
) -> None:
    if cluster.local is None:
        pytest.skip("this cluster's nodes are not ours to stop")
    soak = Soak(
        release=photon,
        cluster=cluster.local,
        kinds=kinds(photon, tmp_path),
        jobs=4,
        width=2,
        spread=20,
        patience=400,
        seed=49,
        # An operator acts some 20 s after one that was killed: its Lease runs out first.
        between=(15, 30),
    )
    found = soak.run(print)
    assert found["problems"] == []
    assert found["left_over"] == []
    assert set(found["disturbances"]) >= {"kill operator", "power cut"}
