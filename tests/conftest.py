"""Fixtures that several parts' tests share: a real object store, started once a session."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.store.objects import ObjectStore
from tests.cluster.fixtures import (  # noqa: F401 - fixtures are found by their names here
    cluster,
    cluster_namespace,
    control_plane,
    control_plane_processes,
    namespace,
    with_crd,
)
from tests.opened import OpenStore


def pytest_configure() -> None:
    """Ctrl-C reaches the programs that tests start, also where a shell started the tests in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A running SeaweedFS, one per pytest process."""
    folder = tmp_path_factory.mktemp("s3")
    with EmbeddedStore(folder / "data", log_path=folder / "weed.log") as running:
        yield running


@pytest.fixture
def storage(s3: EmbeddedStore) -> StorageSpec:
    """A job's ``spec.storage`` in that SeaweedFS, with a prefix of its own."""
    return StorageSpec(endpoint=s3.endpoint, bucket="photon", prefix=f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def _bucket(s3: EmbeddedStore) -> Iterator[ObjectStore]:
    spec = StorageSpec(endpoint=s3.endpoint, bucket="photon")
    with ObjectStore.open(spec, access_key=s3.access_key, secret_key=s3.secret_key) as bucket:
        bucket.check(create_bucket=True)
        yield bucket


@pytest.fixture
def store(_bucket: ObjectStore, storage: StorageSpec) -> ObjectStore:
    """The bucket below ``storage.prefix``, empty."""
    return _bucket.at(storage.prefix)


@pytest.fixture
def open_store(s3: EmbeddedStore) -> Iterator[OpenStore]:
    """Opens that SeaweedFS by any other spec, such as one that leads through a proxy; closed with the test."""
    with ExitStack() as opened:
        yield lambda spec: opened.enter_context(
            ObjectStore.open(spec, access_key=s3.access_key, secret_key=s3.secret_key)
        )
