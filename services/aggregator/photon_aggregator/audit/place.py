"""The bucket as an audit reads it: records with their digests, ranges of objects, whole objects through a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from pydantic import BaseModel

from photon.protocol.canonical import sha256_hex
from photon.protocol.records import Commit
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectInfo, ObjectStore
from photon.store.source import Connections, UrlSource
from photon_aggregator.bucket.records import RecordError, parse
from photon_aggregator.rounds.events import Head

Model = TypeVar("Model", bound=BaseModel)

READ_SECONDS: Final = 6 * 3600
# At a time, of a file that is hashed.
CHUNK_BYTES: Final = 8 * 2**20
# No record is as large: a manifest of 100,000 parts has 13 MiB.
LARGEST_RECORD_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(Generic[Model]):
    """A record, and the key and the sha256 of the object that it is."""

    key: str
    value: Model
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A job's bucket, only read."""

    store: ObjectStore
    connections: Connections = field(default_factory=Connections)

    def read(self, info: ObjectInfo, model: type[Model]) -> Stored[Model]:
        """A record. Raises NotFound; RecordError: it is none, or larger than any."""
        data = self.store.get(info.key) if info.size_bytes <= LARGEST_RECORD_BYTES else b""
        return Stored(key=info.key, value=parse(model, data, info.key), digest=sha256_hex(data))

    def commit(self, round_number: int) -> Head | None:
        """The commit of a round; None when there is none, or what is there is none."""
        info = self.store.head(keys.commit(round_number))
        if info is None:
            return None
        try:
            stored = self.read(info, Commit)
        except (NotFound, RecordError):
            return None
        return Head(commit=stored.value, digest=stored.digest)

    def source(self, key: str, size_bytes: int, *, etag: str | None = None) -> UrlSource:
        """An object to read by ranges; with ``etag`` exactly that version of it."""

        def url() -> str:
            return self.store.presign_get(key, valid_seconds=READ_SECONDS)

        return UrlSource(url(), size_bytes, etag=etag, refresh=url, connections=self.connections)

    def sha256(self, info: ObjectInfo) -> str:
        """Of a whole object, CHUNK_BYTES at a time."""
        hashing = hashlib.sha256()
        if info.size_bytes:
            source = self.source(info.key, info.size_bytes, etag=info.etag)
            buffer = memoryview(bytearray(min(CHUNK_BYTES, info.size_bytes)))
            for offset in range(0, info.size_bytes, len(buffer)):
                piece = buffer[: min(len(buffer), info.size_bytes - offset)]
                source.read_into(offset, piece)
                hashing.update(piece)
        return hashing.hexdigest()

    def folder(self, prefix: str) -> dict[str, ObjectInfo]:
        """All objects of a folder, by key."""
        return {info.key: info for info in self.store.list(f"{prefix}/")}

    def rounds(self) -> Iterator[tuple[str, dict[str, ObjectInfo]]]:
        """Folders below ``rounds/``, in order, each with its objects by key; one pass over the bucket."""
        name: str | None = None
        found: dict[str, ObjectInfo] = {}
        for info in self.store.list(keys.ROUNDS):
            folder = info.key.removeprefix(keys.ROUNDS).partition("/")[0]
            if name is not None and folder != name:
                yield name, found
                found = {}
            name = folder
            found[info.key] = info
        if name is not None:
            yield name, found


@contextmanager
def opened(store: ObjectStore) -> Iterator[Place]:
    """``store`` as a place; its connections end with the block."""
    place = Place(store=store)
    try:
        yield place
    finally:
        place.connections.close()
