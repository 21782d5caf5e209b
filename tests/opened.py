"""The type of the fixture ``open_store``."""

from __future__ import annotations

from collections.abc import Callable

from photon.api.placement import StorageSpec
from photon.store.objects import ObjectStore

OpenStore = Callable[[StorageSpec], ObjectStore]
