"""Records in the bucket: read, checked, and created if absent. Every record of the protocol passes through here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from photon.protocol.canonical import canonical_json, sha256_hex
from photon.store.errors import Contradiction, NotFound, Unreachable
from photon.store.objects import ObjectStore

Record = TypeVar("Record", bound=BaseModel)
Result = TypeVar("Result")

# What is repeated when the store fails; the label of the metric.
Work = Literal["admit", "merge", "commit", "other"]
WORK: Final[tuple[Work, ...]] = get_args(Work)
# With the store's own attempts (about 10 s each) a store that is down for a minute or two is outlived.
RETRY_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class RecordError(Contradiction):
    """An object is not the record that it must be."""


class Stopped(Exception):
    """The aggregator is shutting down; what was under way is left for its next start."""


def parse(model: type[Record], data: bytes, where: str) -> Record:
    """A record from its bytes; raises RecordError when they are none."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{where} is not a {model.__name__}: {field}: {first['msg']}") from error


def read(store: ObjectStore, key: str, model: type[Record]) -> tuple[Record, str, datetime]:
    """The record at ``key``, its digest and its LastModified. Raises NotFound, RecordError."""
    data, info = store.fetch(key)
    return parse(model, data, store.uri(key)), sha256_hex(data), info.last_modified


def find(store: ObjectStore, key: str, model: type[Record]) -> tuple[Record, str, datetime] | None:
    """``read``, or None when there is no object."""
    try:
        return read(store, key, model)
    except NotFound:
        return None


def create(store: ObjectStore, key: str, record: Record) -> tuple[Record, str, datetime | None]:
    """Create the record unless there is one: what the bucket holds then, and its digest.

    The time is None when the record is ours (it is now), else the LastModified of what was there.
    """
    data = canonical_json(record)
    if store.create(key, data):
        return record, sha256_hex(data), None
    return read(store, key, type(record))


class Retries:
    """Repeats work that the store failed to do, with growing pauses, until the store answers or patience ends.

    Only silence and server errors are worth repeating: missing rights or a full disk are said at once.
    """

    def __init__(self, *, pauses: tuple[float, ...] = RETRY_PAUSES_SECONDS) -> None:
        self._pauses = pauses
        self._stop = threading.Event()
        self.counts: Counter[Work] = Counter()

    def stop(self) -> None:
        """End all pauses, now and from now on, with Stopped."""
        self._stop.set()

    def __call__(self, work: Callable[[], Result], of: Work = "other") -> Result:
        """The result of ``work``, which must be safe to repeat. Raises the last StoreError, or Stopped."""
        for pause in self._pauses:
            try:
                return work()
            except Unreachable:
                self.counts[of] += 1
                if self._stop.wait(pause):
                    raise Stopped from None
        return work()
