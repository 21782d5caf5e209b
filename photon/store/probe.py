"""What a store must be able to do for a job, tried on the bucket itself before a job relies on it.

A store may accept a condition and ignore it: then two writers both believe that they were the first, and nothing ever
says so. Some twenty small requests below the job's prefix, in a folder that is removed afterwards.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from photon.store import keys
from photon.store.errors import (
    AccessDenied,
    BucketMissing,
    PreconditionFailed,
    StorageFull,
    StoreError,
    Unreachable,
    Unusable,
)
from photon.store.objects import ObjectStore
from photon.store.retry import RetryPolicy
from photon.store.source import UrlSource
from photon.store.transfer import UploadOutcome, upload

log = logging.getLogger(__name__)

RETRY: Final = RetryPolicy(attempts=3)
WRITERS: Final = 4
URL_SECONDS: Final = 600
# A probe takes seconds: what is older was left by one that died.
LEFT_AFTER: Final = timedelta(hours=1)
TEXT: Final = b"photon tries what this store can do"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One feature of a store. ``problem``: what the store did instead, None when the feature is there."""

    feature: str
    needed: bool
    problem: str | None

    @property
    def holds(self) -> bool:
        return self.problem is None


CONDITIONAL_CREATE: Final = "conditional create (PUT with If-None-Match: *)"
UPLOAD_URLS: Final = "uploads to presigned URLs"
UPLOAD_ONCE: Final = "presigned uploads only where there is no object (signed If-None-Match: *)"
CHECKSUMS: Final = "verification of an upload's x-amz-checksum-sha256"
LISTING: Final = "listing of what was just written"
PINNED_READS: Final = "ranged reads of one version (GET with Range and If-Match)"
MULTIPART: Final = "multipart uploads"
UNFINISHED: Final = "listing of unfinished multipart uploads"
DELETION: Final = "deletion of several objects at once"
NOT_NEEDED: Final = frozenset({CHECKSUMS, UNFINISHED})


def require(store: ObjectStore) -> None:
    """Probe ``store``, and refuse one that cannot hold a job.

    Raises:
        Unusable: A feature that is needed is missing; named, with the store.
        StoreError: The store does not answer, or does not let us.
    """
    try:
        findings = probe(store)
    except StorageFull as error:
        log.warning("the store could not be probed: %s", error)
        return
    for finding in findings:
        if finding.holds:
            continue
        if finding.needed:
            raise Unusable(
                f"the object store at {store.endpoint} cannot hold a job, it lacks {finding.feature}: "
                f"{finding.problem}; docs/guides/storage.md lists stores that can"
            )
        log.info("%s lacks %s (%s), and can be used without", store.endpoint, finding.feature, finding.problem)


def probe(store: ObjectStore) -> list[Finding]:
    """Try each feature. Raises StoreError when the store does not answer, is full, or does not let us."""
    folder = f"{keys.PROBE}{secrets.token_hex(8)}/"
    try:
        return list(_Probe(store, folder).findings())
    finally:
        _remove(store, folder)


class _Probe:
    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self._created = f"{folder}created"
        self._uploaded = f"{folder}uploaded"
        self._damaged = f"{folder}damaged"
        self._assembled = f"{folder}assembled"
        self._folder = folder
        self._takes_uploads = False
        self._etag = ""

    def findings(self) -> Iterator[Finding]:
        steps: list[tuple[str, Callable[[], str | None]]] = [
            (CONDITIONAL_CREATE, self._create),
            (UPLOAD_URLS, self._upload),
            (UPLOAD_ONCE, self._upload_again),
            (CHECKSUMS, self._other_bytes),
            (LISTING, self._list),
            (PINNED_READS, self._read),
            (MULTIPART, self._multipart),
            (UNFINISHED, self._unfinished),
            (DELETION, self._delete),
        ]
        for feature, step in steps:
            yield Finding(feature=feature, needed=feature not in NOT_NEEDED, problem=self._problem(step))

    def _problem(self, step: Callable[[], str | None]) -> str | None:
        try:
            return step()
        except (Unreachable, StorageFull, AccessDenied, BucketMissing):
            raise
        except StoreError as error:
            return f"it answered: {error}"

    def _create(self) -> str | None:
        """Of writers at once and one after the other exactly one may win."""
        with ThreadPoolExecutor(WRITERS) as pool:
            won = sum(pool.map(lambda _: self._store.create(self._created, secrets.token_bytes(8)), range(WRITERS)))
        won += self._store.create(self._created, secrets.token_bytes(8))
        return None if won == 1 else f"of {WRITERS + 1} writers of one object {won} were told that they created it"

    def _upload(self) -> str | None:
        self._takes_uploads = self._send(self._uploaded, TEXT) is UploadOutcome.CREATED
        return None if self._takes_uploads else "there was no object, and it said that there was"

    def _upload_again(self) -> str | None:
        return None if self._send(self._uploaded, TEXT) is UploadOutcome.ALREADY_THERE else "it wrote over an object"

    def _other_bytes(self) -> str | None:
        if not self._takes_uploads:
            return "it takes no upload at all"
        try:
            self._send(self._damaged, TEXT[::-1])
        except (Unreachable, StorageFull):
            raise
        except StoreError as error:
            # Stores differ in the code of this refusal.
            log.debug("other bytes than announced: %s", error)
            return None
        return "it took other bytes than the checksum was of"

    def _send(self, key: str, data: bytes) -> UploadOutcome:
        put = self._store.presign_put(
            key, size_bytes=len(TEXT), sha256=hashlib.sha256(TEXT).hexdigest(), valid_seconds=URL_SECONDS
        )
        return upload(put.url, put.headers, memoryview(data), retry=RETRY)

    def _list(self) -> str | None:
        found = {info.key: info for info in self._store.list(keys.PROBE)}
        missing = [key for key in (self._created, self._uploaded) if key not in found]
        if missing:
            return f"it does not list {', '.join(missing)}"
        ours = found[self._uploaded]
        self._etag = ours.etag
        self._store.delete([key for key, info in found.items() if info.last_modified < ours.last_modified - LEFT_AFTER])
        return None

    def _read(self) -> str | None:
        url = self._store.presign_get(self._uploaded, valid_seconds=URL_SECONDS)
        buffer = bytearray(5)
        source = UrlSource(url, len(TEXT), etag=self._etag, retry=RETRY)
        other = UrlSource(url, len(TEXT), etag=f'"{"0" * 32}"', retry=RETRY)
        try:
            source.read_into(7, memoryview(buffer))
            if buffer != TEXT[7:12]:
                return "it gave other bytes than were asked for"
            other.read_into(7, memoryview(buffer))
        except PreconditionFailed as error:
            return None if buffer == TEXT[7:12] else f"it answered: {error}"
        finally:
            source.close()
            other.close()
        return "it gave bytes of another version than If-Match named"

    def _multipart(self) -> str | None:
        with self._store.multipart(self._assembled) as whole:
            whole.upload_part(1, TEXT)
            whole.complete()
        return None

    def _unfinished(self) -> str | None:
        with self._store.multipart(self._assembled):
            listed = any(upload.key == self._assembled for upload in self._store.unfinished(self._folder))
        return None if listed else "what a crash leaves unfinished has to be removed by a lifecycle rule"

    def _delete(self) -> str | None:
        self._store.delete([self._created, self._uploaded, self._damaged, self._assembled])
        left = [info.key for info in self._store.list(self._folder)]
        return f"{', '.join(left)} is still there" if left else None


def _remove(store: ObjectStore, folder: str) -> None:
    try:
        left = [info.key for info in store.list(folder)]
        if left:
            store.delete(left)
    except StoreError as error:
        log.debug("the probe's objects stay: %s", error)
