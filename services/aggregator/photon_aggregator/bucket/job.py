"""What is known of a job once its bucket was read, and stays the same for all its rounds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from photon.api.learning import LearningJob
from photon.api.training import ExchangeSpec
from photon.protocol.canonical import sha256_hex
from photon.protocol.ranges import MAX_NORM
from photon.protocol.records import Commit, FileRecord
from photon.store import keys
from photon.store.errors import DigestMismatch
from photon.store.objects import ObjectStore
from photon.store.source import Connections, UrlSource
from photon.store.tensors import HeaderError, read_header, require_flat
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.bucket.update_layout import UpdateLayout

# The aggregator's own reads end well within this; a URL is made for each merge and each check.
READ_SECONDS = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """The job, its store, the shape of an update, and the small files that every model's folder repeats.

    ``max_update_norm`` and ``clip_to_median`` are those of the job file: they may change while the job runs.
    """

    learning: LearningJob
    digest: str
    store: ObjectStore
    layout: UpdateLayout
    small_files: Mapping[str, bytes]
    connections: Connections
    max_update_norm: float
    clip_to_median: float | None

    def source(self, key: str, size_bytes: int, *, etag: str | None = None) -> UrlSource:
        """An object to read by ranges; with ``etag`` exactly that version of it."""

        def url() -> str:
            return self.store.presign_get(key, valid_seconds=READ_SECONDS)

        return UrlSource(url(), size_bytes, etag=etag, refresh=url, connections=self.connections)


def weights_record(commit: Commit) -> FileRecord:
    """The record of the commit's model.safetensors."""
    for file in commit.files:
        if file.name == keys.WEIGHTS:
            return file
    raise RecordError(f"the commit of round {commit.round} has no {keys.WEIGHTS}")


def open_context(
    learning: LearningJob, digest: str, store: ObjectStore, commit: Commit, *, exchange: ExchangeSpec
) -> JobContext:
    """Read what a model of this job consists of from that of ``commit``.

    Raises:
        RecordError: The weights are not one flat fp32 vector.
        StoreError: The store does not answer, or a file is not what the commit says.
    """
    weights = weights_record(commit)
    key = f"{commit.folder}/{weights.name}"
    with closing(UrlSource(store.presign_get(key, valid_seconds=READ_SECONDS), weights.size_bytes)) as source:
        try:
            header = require_flat(read_header(source))
        except HeaderError as error:
            raise RecordError(f"{store.uri(key)}: {error}") from error
    small: dict[str, bytes] = {}
    for file in commit.files:
        if file.name == keys.WEIGHTS:
            continue
        data = store.get(f"{commit.folder}/{file.name}")
        if sha256_hex(data) != file.sha256:
            raise DigestMismatch(f"{store.uri(f'{commit.folder}/{file.name}')} is not the file that was committed")
        small[file.name] = data
    return JobContext(
        learning=learning,
        digest=digest,
        store=store,
        layout=UpdateLayout.of(learning.exchange, header.elements),
        small_files=small,
        connections=Connections(),
        max_update_norm=MAX_NORM if exchange.max_update_norm is None else exchange.max_update_norm,
        clip_to_median=exchange.clip_to_median,
    )
