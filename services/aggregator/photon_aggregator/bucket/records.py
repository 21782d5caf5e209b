"""Records in the bucket: read, checked, and created if absent. Every record of the protocol passes through here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from photon.protocol.canonical import canonical_json, sha256_hex
from photon.store.errors import Contradiction, NotFound, StoreError
from photon.store.objects import ObjectStore
from photon_aggregator.errors import ShuttingDown

Record = TypeVar("Record", bound=BaseModel)
Result = TypeVar("Result")

# What is repeated when the store fails; the label of the metric.
Work = Literal["admit", "merge", "commit", "other"]
WORK: Final[tuple[Work, ...]] = get_args(Work)
# The last one is repeated without end; it is short, so that a job goes on soon after its store does.
RETRY_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


class RecordError(Contradiction):
    """An object is not the record that it must be."""


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


def written_at(store: ObjectStore, key: str) -> datetime | None:
    """When an object was written, by the store's clock; None when it is not there."""
    info = store.head(key)
    return info.last_modified if info is not None else None


OnTrouble = Callable[[object, StoreError | None], None]


def _unheard(_work: object, _error: StoreError | None) -> None:
    pass


class Retries:
    """Repeats work that the store did not do, with growing pauses, until it does: no fault of a store ends a job.

    Only a Contradiction is final: what the bucket holds is not what it must hold, and waiting does not change that.
    ``on_trouble`` hears of each failure, and with None of the end of the trouble; from any thread.
    """

    def __init__(self, *, pauses: tuple[float, ...] = RETRY_PAUSES_SECONDS, on_trouble: OnTrouble = _unheard) -> None:
        self._pauses = pauses
        self._stop = threading.Event()
        self.on_trouble = on_trouble
        self.counts: Counter[Work] = Counter()

    def stop(self) -> None:
        """End all pauses, now and from now on, with ShuttingDown."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the failed ``attempt``, from 0."""
        return self._pauses[min(attempt, len(self._pauses) - 1)]

    def __call__(self, work: Callable[[], Result], of: Work = "other") -> Result:
        """The result of ``work``, which must be safe to repeat. Blocking; raises Contradiction, or ShuttingDown."""
        key, attempt = object(), 0
        try:
            while True:
                try:
                    return work()
                except Contradiction:
                    raise
                except StoreError as error:
                    self.counts[of] += 1
                    self.on_trouble(key, error)
                    if self._stop.wait(self.pause(attempt)):
                        raise ShuttingDown from None
                    attempt += 1
        finally:
            if attempt:
                self.on_trouble(key, None)
