"""Fixtures of the aggregator's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from photon.api.placement import StorageSpec
from photon.store.objects import ObjectStore
from tests.opened import OpenStore


@pytest.fixture
def other_store(open_store: OpenStore, storage: StorageSpec) -> Callable[[str], ObjectStore]:
    """Another, empty prefix in the same bucket."""

    def other(suffix: str) -> ObjectStore:
        return open_store(storage.model_copy(update={"prefix": f"{storage.prefix}-{suffix}"}))

    return other
