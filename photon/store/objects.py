"""The bucket, as the aggregator sees it: objects below one prefix, conditional writes, presigned URLs.

Everything that the commit protocol rests on is here: ``create`` (If-None-Match: *) lets exactly one writer win, and
``presign_put`` binds an upload to one key, size and sha256 and to the object's absence, so the store refuses all else.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.exceptions import ClientError

from photon.api.placement import StorageSpec
from photon.store.errors import BucketMissing, NotFound, PreconditionFailed, redirected
from photon.store.http import Connection
from photon.store.multipart import MultipartUpload
from photon.store.retry import TryAgain
from photon.store.s3 import S3, md5, open_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListMultipartUploadsOutputTypeDef, ListObjectsV2OutputTypeDef

CHECK_TIMEOUT_SECONDS: Final = 5.0
# The longest that signature version 4 allows.
MAX_PRESIGN_SECONDS: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """An object without its bytes. ``key`` is relative to the store's prefix; ``etag`` has its quotes."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedUpload:
    """A multipart upload that was neither completed nor aborted. ``key`` is relative to the store's prefix."""

    key: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignedPut:
    """A URL and exactly those headers that the client must send with it."""

    url: str
    headers: dict[str, str]


class ObjectStore:
    """The objects of one bucket below one prefix. Thread-safe; keys are relative to the prefix.

    Every method raises a StoreError when the store refuses, fails, or stays silent, after a few attempts. Use it in a
    ``with`` block, or call ``close``: it keeps up to 16 connections.
    """

    def __init__(self, s3: S3, *, prefix: str = "") -> None:
        self._s3 = s3
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def open(
        cls, spec: StorageSpec, *, access_key: str | None, secret_key: str | None, session_token: str | None = None
    ) -> Self:
        """The store that a job names; sends nothing yet (see ``check``). ``session_token``: of temporary credentials.

        Without keys botocore's own chain is asked (environment, profile, the cloud's workload identity). Raises
        Unusable: A setting that cannot work.
        """
        client = open_client(spec, access_key=access_key, secret_key=secret_key, session_token=session_token)
        return cls(S3(client, bucket=spec.bucket), prefix=spec.prefix)

    @classmethod
    def from_environment(cls, spec: StorageSpec, environ: Mapping[str, str] = os.environ) -> Self:
        """``open`` with the keys of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."""
        return cls.open(
            spec,
            access_key=environ.get("AWS_ACCESS_KEY_ID"),
            secret_key=environ.get("AWS_SECRET_ACCESS_KEY"),
            session_token=environ.get("AWS_SESSION_TOKEN"),
        )

    def close(self) -> None:
        """Close idle connections, also those of stores made with ``at``. All of them may still be used."""
        self._s3.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The URL in use."""
        return self._s3.endpoint

    def uri(self, key: str) -> str:
        """``s3://bucket/prefix/key``."""
        return f"s3://{self._s3.bucket}/{self._prefix}{key}"

    def at(self, prefix: str) -> ObjectStore:
        """The same bucket over the same connections, with another prefix."""
        return ObjectStore(self._s3, prefix=prefix)

    def check(self, *, create_bucket: bool = False) -> None:
        """Raise a StoreError that says what to do unless the bucket answers and its objects may be listed.

        With ``create_bucket`` a missing bucket is created first. An endpoint that is silent is named within seconds.
        """
        self._check_that_somebody_answers()
        try:
            self._s3.list_one(self._prefix)
        except BucketMissing:
            if not create_bucket:
                raise
            self._create_bucket()
            self._s3.list_one(self._prefix)

    def get(self, key: str) -> bytes:
        """The bytes of a small object; raises NotFound."""
        return self.fetch(key)[0]

    def fetch(self, key: str) -> tuple[bytes, ObjectInfo]:
        """The bytes of a small object and what they are a version of; raises NotFound."""

        def read(client: S3Client) -> tuple[bytes, ObjectInfo]:
            answer = client.get_object(Bucket=self._s3.bucket, Key=self._prefix + key)
            # Not `with body`: that hands out the stream below it, whose errors are not botocore's.
            with closing(answer["Body"]) as body:
                data = body.read()
            return data, ObjectInfo(
                key=key, size_bytes=len(data), etag=answer["ETag"], last_modified=answer["LastModified"]
            )

        return self._s3.ask(self._prefix + key, read)

    def head(self, key: str) -> ObjectInfo | None:
        """The object without its bytes; None when there is none."""

        def look(client: S3Client) -> ObjectInfo:
            answer = client.head_object(Bucket=self._s3.bucket, Key=self._prefix + key)
            return ObjectInfo(
                key=key, size_bytes=answer["ContentLength"], etag=answer["ETag"], last_modified=answer["LastModified"]
            )

        try:
            return self._s3.ask(self._prefix + key, look)
        except NotFound:
            return None

    def list(self, prefix: str = "", *, after: str = "", page_size: int = 1000) -> Iterator[ObjectInfo]:
        """All objects whose key begins with ``prefix``, in the order of their keys; one request a page.

        ``after``: only keys that come after this one.
        """
        whole = self._prefix + prefix
        more: dict[str, str] = {"StartAfter": self._prefix + after} if after else {}

        def next_page(client: S3Client) -> ListObjectsV2OutputTypeDef:
            page = client.list_objects_v2(Bucket=self._s3.bucket, Prefix=whole, MaxKeys=page_size, **more)  # type: ignore[arg-type]
            assert page["Name"]
            return page

        while True:
            page = self._s3.ask(whole, next_page)
            for found in page.get("Contents", []):
                yield ObjectInfo(
                    key=found["Key"].removeprefix(self._prefix),
                    size_bytes=found["Size"],
                    etag=found["ETag"],
                    last_modified=found["LastModified"],
                )
            if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def put(self, key: str, data: bytes) -> str:
        """Write an object, whatever was there; returns its ETag."""
        return self._s3.write(
            self._prefix + key,
            lambda client: client.put_object(
                Bucket=self._s3.bucket, Key=self._prefix + key, Body=data, ContentMD5=md5(data)
            )["ETag"],
        )

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none: True for the one writer that did, False for all others.

        When the answer to the first attempt was lost, the repeated one meets its own object: equal bytes are then ours.
        """
        attempts = 0

        def put(client: S3Client) -> str:
            nonlocal attempts
            attempts += 1
            return client.put_object(
                Bucket=self._s3.bucket, Key=self._prefix + key, Body=data, ContentMD5=md5(data), IfNoneMatch="*"
            )["ETag"]

        try:
            self._s3.write(self._prefix + key, put)
        except PreconditionFailed:
            return attempts > 1 and self.get(key) == data
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are no error."""
        names = [self._prefix + key for key in keys]
        for start in range(0, len(names), 1000):
            self._s3.ask(names[start], partial(self._delete, names[start : start + 1000]))

    def _delete(self, names: Sequence[str], client: S3Client) -> None:
        answer = client.delete_objects(
            Bucket=self._s3.bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
        )
        for failed in answer.get("Errors", []):
            # As if it had been a request of its own: what it means is decided in one place.
            said = {"Code": failed.get("Code", ""), "Message": f"{failed.get('Key')}: {failed.get('Message')}"}
            raise ClientError({"Error": said}, "DeleteObject")  # type: ignore[typeddict-item]

    def multipart(self, key: str) -> MultipartUpload:
        """Begin one large object; use it in a ``with`` block."""
        return MultipartUpload(self._s3, self._prefix + key)

    def unfinished(self, prefix: str = "") -> Sequence[UnfinishedUpload]:
        """Multipart uploads to keys that begin with ``prefix`` that are under way, or were left by a crash."""
        whole = self._prefix + prefix
        found = []
        more: dict[str, str] = {}

        def next_page(client: S3Client) -> ListMultipartUploadsOutputTypeDef:
            page = client.list_multipart_uploads(Bucket=self._s3.bucket, Prefix=whole, **more)  # type: ignore[arg-type]
            return page

        while True:
            page = self._s3.ask(whole, next_page)
            for upload in page.get("Uploads", []):
                # Some stores know of no prefix here.
                if upload["Key"].startswith(whole):
                    key = upload["Key"].removeprefix(self._prefix)
                    found.append(UnfinishedUpload(key=key, id=upload["UploadId"]))
            if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
                return found
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    def abort(self, upload: UnfinishedUpload) -> None:
        """Free the parts of an unfinished upload; one that is gone is no error."""
        key = self._prefix + upload.key
        try:
            self._s3.ask(
                key,
                lambda client: client.abort_multipart_upload(Bucket=self._s3.bucket, Key=key, UploadId=upload.id),
            )
        except NotFound:
            return

    def keys_valid_seconds(self) -> float | None:
        """For how long the keys sign URLs that the store takes; None when they do not expire, or do not say when.

        A URL ends with the keys that signed it: those of a role or a web identity are good for an hour or so.
        """
        signer: Any = getattr(self._s3.client, "_request_signer", None)
        expires: datetime | None = getattr(getattr(signer, "_credentials", None), "_expiry_time", None)
        return (expires - datetime.now(UTC)).total_seconds() if expires is not None else None

    def presign_get(self, key: str, *, valid_seconds: int) -> str:
        """A URL that reads this object, whole or in ranges (HEAD needs another)."""
        return self._s3.client.generate_presigned_url(
            "get_object",
            Params={"Bucket": self._s3.bucket, "Key": self._prefix + key},
            ExpiresIn=_valid(valid_seconds),
        )

    def presign_put(self, key: str, *, size_bytes: int, sha256: str, valid_seconds: int) -> PresignedPut:
        """A URL that writes this object once: with exactly this size and sha256 (hex), and only if there is none.

        The store answers 412 when the object exists, 400 to other bytes, 403 to any other request.
        """
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        url = self._s3.client.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self._s3.bucket,
                "Key": self._prefix + key,
                "ContentLength": size_bytes,
                "ChecksumSHA256": digest,
                "IfNoneMatch": "*",
            },
            ExpiresIn=_valid(valid_seconds),
        )
        headers = {"Content-Length": str(size_bytes), "If-None-Match": "*", "x-amz-checksum-sha256": digest}
        return PresignedPut(url=url, headers=headers)

    def _check_that_somebody_answers(self) -> None:
        """boto3 has one timeout for all requests, long enough for slow ones: three of those are too long to wait."""
        try:
            with Connection(self.endpoint, timeout_seconds=CHECK_TIMEOUT_SECONDS) as connection:
                response = connection.send("GET", self.endpoint, {})
                # Amazon sends who asks for its root to its web page: only this endpoint with TLS is one to be named.
                target = response.headers.get("Location", "")
                if self.endpoint.startswith("http://") and target.startswith(f"https://{connection.host}"):
                    raise redirected(self.endpoint, target)
        except TryAgain as failed:
            # All else is for the real request to tell.
            if isinstance(failed.__cause__, TimeoutError):
                raise failed.error from failed.__cause__

    def _create_bucket(self) -> None:
        region = self._s3.client.meta.region_name

        def make(client: S3Client) -> None:
            try:
                if region == "us-east-1":
                    client.create_bucket(Bucket=self._s3.bucket)
                else:
                    client.create_bucket(
                        Bucket=self._s3.bucket,
                        CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item]
                    )
            except ClientError as error:
                if error.response["Error"].get("Code") != "BucketAlreadyOwnedByYou":
                    raise

        self._s3.ask(None, make)


def _valid(seconds: int) -> int:
    if not 1 <= seconds <= MAX_PRESIGN_SECONDS:
        raise ValueError(f"valid_seconds must be within 1 .. {MAX_PRESIGN_SECONDS}, not {seconds}")
    return seconds
