"""The bucket, as the aggregator sees it: objects below one prefix, conditional writes, presigned URLs.

Everything that the commit protocol rests on is here: ``create`` (If-None-Match: *) lets exactly one writer win, and
``presign_put`` binds an upload to one key, size and sha256 and to the object's absence, so the store refuses all else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError, ResponseStreamingError

from photon.api.placement import StorageSpec
from photon.store.errors import (
    BucketMissing,
    NotFound,
    PreconditionFailed,
    StorageFull,
    StoreError,
    Unreachable,
    translate,
)
from photon.store.http import Connection, TryAgain
from photon.store.multipart import MultipartUpload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_CONNECTIONS: Final = 16
# Three attempts with 2 s to connect and botocore's pauses (under 1 s, then 2 s): a dead endpoint is named within 10 s.
CONNECT_TIMEOUT_SECONDS: Final = 2
ATTEMPTS: Final = 3
# An answer may wait for a busy disk, or for the assembly of a large object.
READ_TIMEOUT_SECONDS: Final = 30
CHECK_TIMEOUT_SECONDS: Final = 5.0
# The longest that signature version 4 allows.
MAX_PRESIGN_SECONDS: Final = 7 * 24 * 3600
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """An object without its bytes. ``key`` is relative to the store's prefix; ``etag`` has its quotes."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignedPut:
    """A URL and exactly those headers that the client must send with it."""

    url: str
    headers: dict[str, str]


class ObjectStore:
    """The objects of one bucket below one prefix. Thread-safe; keys are relative to the prefix.

    Every method raises a StoreError when the store refuses, fails, or stays silent; retries are bounded (botocore's
    standard mode, three attempts).
    """

    def __init__(self, client: S3Client, *, endpoint: str, bucket: str, prefix: str = "") -> None:
        self._client = client
        self._endpoint = endpoint
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def open(cls, spec: StorageSpec, *, access_key: str | None, secret_key: str | None) -> Self:
        """The store that a job names; sends nothing yet (see ``check``).

        Without keys botocore's own chain is asked (environment, profile, the cloud's workload identity).
        """
        loopback = spec.endpoint is not None and urlsplit(spec.endpoint).hostname in LOOPBACK
        config = Config(
            signature_version="s3v4",
            # Stores of one's own seldom have DNS names per bucket.
            s3={"addressing_style": "path" if spec.endpoint else "auto"},
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=MAX_CONNECTIONS,
            tcp_keepalive=True,
            # The default since boto3 1.36 breaks stores that do not know CRC trailers; we bind sha256 where it counts.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # A proxy of the environment cannot reach this machine's loopback.
            proxies={} if loopback else None,
        )
        # A session of its own: boto3's default session is shared state, and not thread-safe to make clients from.
        session = boto3.session.Session(
            aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=spec.region
        )
        client = session.client("s3", endpoint_url=spec.endpoint, config=config)
        return cls(client, endpoint=client.meta.endpoint_url, bucket=spec.bucket, prefix=spec.prefix)

    @property
    def endpoint(self) -> str:
        """The URL in use."""
        return self._endpoint

    def uri(self, key: str) -> str:
        """``s3://bucket/prefix/key``."""
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def at(self, prefix: str) -> ObjectStore:
        """The same bucket over the same connections, with another prefix."""
        return ObjectStore(self._client, endpoint=self._endpoint, bucket=self._bucket, prefix=prefix)

    def check(self, *, create_bucket: bool = False) -> None:
        """Raise a StoreError that says what to do unless the bucket answers and its objects may be listed.

        With ``create_bucket`` a missing bucket is created first. An endpoint that is silent is named within seconds.
        """
        self._check_that_somebody_answers()
        try:
            self._probe()
        except BucketMissing:
            if not create_bucket:
                raise
            self._create_bucket()
            self._probe()

    def get(self, key: str) -> bytes:
        """The bytes of a small object; raises NotFound."""
        return self.fetch(key)[0]

    def fetch(self, key: str) -> tuple[bytes, ObjectInfo]:
        """The bytes of a small object and what they are a version of (``etag`` for ``replace``); raises NotFound."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._errors(self._prefix + key):
                    answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                    # Not `with body`: that hands out the stream below it, whose errors are not botocore's.
                    with closing(answer["Body"]) as body:
                        data = body.read()
                break
            except Unreachable as error:
                # botocore repeats a request, but not the reading of an answer that breaks off.
                broke_off = isinstance(error.__cause__, ResponseStreamingError | ReadTimeoutError)
                if attempt == ATTEMPTS or not broke_off:
                    raise
        info = ObjectInfo(key=key, size_bytes=len(data), etag=answer["ETag"], last_modified=answer["LastModified"])
        return data, info

    def head(self, key: str) -> ObjectInfo | None:
        """The object without its bytes; None when there is none."""
        try:
            with self._errors(self._prefix + key):
                answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except NotFound:
            return None
        return ObjectInfo(
            key=key, size_bytes=answer["ContentLength"], etag=answer["ETag"], last_modified=answer["LastModified"]
        )

    def list(self, prefix: str = "", *, page_size: int = 1000) -> Iterator[ObjectInfo]:
        """All objects whose key begins with ``prefix``, in the order of their keys; one request a page."""
        with self._errors(self._prefix + prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": page_size}
            )
            for page in pages:
                for found in page.get("Contents", []):
                    yield ObjectInfo(
                        key=found["Key"].removeprefix(self._prefix),
                        size_bytes=found["Size"],
                        etag=found["ETag"],
                        last_modified=found["LastModified"],
                    )

    def put(self, key: str, data: bytes) -> str:
        """Write an object, whatever was there; returns its ETag."""
        with self._writing(self._prefix + key):
            return self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)["ETag"]

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none: True for the one writer that did, False for all others.

        When the answer to the first attempt was lost, the repeated one meets its own object: equal bytes are then ours.
        """
        try:
            with self._writing(self._prefix + key):
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")
        except PreconditionFailed as error:
            return _was_repeated(error) and self.get(key) == data
        return True

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        """Write over the version that ``etag`` names and no other; returns the new ETag, raises PreconditionFailed."""
        with self._writing(self._prefix + key):
            answer = self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfMatch=etag)
        return answer["ETag"]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are no error."""
        names = [self._prefix + key for key in keys]
        for start in range(0, len(names), 1000):
            batch = names[start : start + 1000]
            with self._errors(batch[0]):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": name} for name in batch], "Quiet": True}
                )
            for failed in answer.get("Errors", []):
                raise StoreError(
                    f"s3://{self._bucket}/{failed.get('Key', '')} could not be deleted: {failed.get('Message', '')}"
                )

    def multipart(self, key: str) -> MultipartUpload:
        """Begin one large object; use it in a ``with`` block."""
        return MultipartUpload(self._client, bucket=self._bucket, key=self._prefix + key, errors=self._writing)

    def presign_get(self, key: str, *, valid_seconds: int) -> str:
        """A URL that reads this object, whole or in ranges (HEAD needs another)."""
        return self._client.generate_presigned_url(
            "get_object",
            Params={"Bucket": self._bucket, "Key": self._prefix + key},
            ExpiresIn=_valid(valid_seconds),
        )

    def presign_put(self, key: str, *, size_bytes: int, sha256: str, valid_seconds: int) -> PresignedPut:
        """A URL that writes this object once: with exactly this size and sha256 (hex), and only if there is none.

        The store answers 412 when the object exists, 400 to other bytes, 403 to any other request.
        """
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        url = self._client.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self._bucket,
                "Key": self._prefix + key,
                "ContentLength": size_bytes,
                "ChecksumSHA256": digest,
                "IfNoneMatch": "*",
            },
            ExpiresIn=_valid(valid_seconds),
        )
        headers = {"Content-Length": str(size_bytes), "If-None-Match": "*", "x-amz-checksum-sha256": digest}
        return PresignedPut(url=url, headers=headers)

    @contextmanager
    def _errors(self, key: str | None) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise translate(error, endpoint=self._endpoint, bucket=self._bucket, key=key) from error

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """Like ``_errors``, and find out whether the store is full.

        SeaweedFS says of a full disk only "500 InternalError" (its log knows more). Failing again and again to store
        bytes, while it still answers, is what distinguishes it.
        """
        try:
            with self._errors(key):
                yield
        except Unreachable as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or cause.response["Error"].get("Code") != "InternalError":
                raise
            try:
                self._probe()
            except StoreError:
                raise error from cause
            raise StorageFull(
                f"storage is full, most likely: {self._endpoint} answers, but failed again and again to store "
                f"s3://{self._bucket}/{key} ({cause}); free or add space"
            ) from cause

    def _check_that_somebody_answers(self) -> None:
        """botocore has one timeout for all requests, long enough for slow ones: three of those are too long to wait."""
        try:
            with Connection(self._endpoint, timeout_seconds=CHECK_TIMEOUT_SECONDS) as connection:
                connection.send("GET", {})
        except TryAgain as failed:
            # All else (TLS with a CA that only botocore was told of, say) is for the real request to tell.
            if isinstance(failed.__cause__, TimeoutError):
                raise failed.error from failed.__cause__

    def _probe(self) -> None:
        # Listing, not HeadBucket: an answer to HEAD has no body, so it cannot say which of key, secret, right is wrong.
        with self._errors(None):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def _create_bucket(self) -> None:
        region = self._client.meta.region_name
        try:
            if region == "us-east-1":
                self._client.create_bucket(Bucket=self._bucket)
            else:
                self._client.create_bucket(
                    Bucket=self._bucket,
                    CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item]
                )
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"].get("Code") == "BucketAlreadyOwnedByYou":
                return
            raise translate(error, endpoint=self._endpoint, bucket=self._bucket) from error


def _was_repeated(error: PreconditionFailed) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["ResponseMetadata"].get("RetryAttempts", 0) > 0


def _valid(seconds: int) -> int:
    if not 1 <= seconds <= MAX_PRESIGN_SECONDS:
        raise ValueError(f"valid_seconds must be within 1 .. {MAX_PRESIGN_SECONDS}, not {seconds}")
    return seconds
