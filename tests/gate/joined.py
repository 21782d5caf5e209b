"""A job across institutions: its hub with a real door and a real store, who joins, and what it must come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from photon.api.placement import StorageSpec
from photon.protocol.canonical import digest
from photon.store.objects import ObjectStore
from tests.aggregator.border.hub import Hub
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import aggregator, chain, working
from tests.gate.hub import MODEL
from tests.gate.site import WORKER_TOKEN, Institution

NAMES = ["home", "north", "south"]


@pytest.fixture
def hub(tmp_path: Path, store: ObjectStore, storage: StorageSpec) -> Iterator[Hub]:
    """``home`` trains at the hub; ``north`` and ``south`` join."""
    job = job_document(storage, NAMES, model=MODEL)
    write_round_zero(job, store)
    (tmp_path / "hub").mkdir()
    made = Hub(tmp_path / "hub", job, store, ["north", "south"])
    yield made
    made.close()


_ALONE: list[str] = []


@pytest.fixture
def alone(hub: Hub, other_store: Callable[[str], ObjectStore]) -> str:
    """The last commit of the same job on one machine; run once, for it is the same wherever it is kept."""
    if not _ALONE:
        place = other_store("alone")
        write_round_zero(hub.job, place)
        with aggregator(hub.job, place) as local, working(*(FakeWorker(name, [local.url]) for name in NAMES)):
            local.wait()
        _ALONE.append(digest(chain(place)[-1]))
    return _ALONE[0]


def institution(hub: Hub, folder: Path, name: str) -> Institution:
    token = hub.invite(name)
    return Institution(folder / name, hub.url, [hub.store.endpoint], hub.identity.key.text, name=name, token=token)


def worker(site: Institution, **options: Any) -> FakeWorker:
    return FakeWorker(site.name, [site.address], token=WORKER_TOKEN, **options)
