"""A hub with a door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from photon.api.placement import StorageSpec
from photon.store.objects import ObjectStore
from tests.aggregator.border.hub import Hub
from tests.aggregator.fake_worker import job_document, write_round_zero


@pytest.fixture
def hub(tmp_path: Path, store: ObjectStore, storage: StorageSpec) -> Iterator[Hub]:
    """``home`` trains at the hub; ``north`` and ``south`` join."""
    job = job_document(storage, ["home", "north", "south"])
    write_round_zero(job, store)
    made = Hub(tmp_path, job, store, ["north", "south"])
    yield made
    made.close()
