"""What tests on pods share: Photon installed once, by helm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.fixtures import RunningCluster
from tests.cluster.release import Release, installed


@pytest.fixture(scope="session")
def photon(cluster: RunningCluster) -> Iterator[Release]:
    """The chart of this tree in a restricted namespace, with images of this tree and the bundled store."""
    with installed(cluster) as release:
        yield release
