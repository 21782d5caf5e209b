"""One large object written in parts, by several threads, in any order."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from photon.store.errors import DigestMismatch, NotFound, Refused
from photon.store.s3 import S3, md5

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef


class MultipartUpload:
    """The object appears, whole, at ``complete()``; leaving the ``with`` block without it aborts and frees the parts.

    S3 asks that every part but the last has at least 5 MiB and that there are at most 10,000. ``upload_part`` may be
    called from many threads; a part sent again replaces the earlier one.
    """

    def __init__(self, s3: S3, key: str) -> None:
        """``key`` is the full key."""
        self._s3 = s3
        self._key = key
        self._etags: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._lock = Lock()
        self._wants_md5 = False
        self._id = s3.write(key, lambda client: client.create_multipart_upload(Bucket=s3.bucket, Key=key)["UploadId"])
        self._open = True

    def upload_part(self, number: int, data: memoryview | bytes) -> None:
        """Send part ``number`` (from 1); returns when the store has it."""
        # botocore takes no memoryview; one copy of a part costs far less than a reader that is asked for 16 KiB a time.
        body = data if isinstance(data, bytes) else bytes(data)
        try:
            etag = self._s3.write(self._key, lambda client: self._send(client, number, body))
        except Refused as error:
            # A bucket with object lock. MD5 is slow, so others are spared it: the signature covers the bytes, or TLS.
            if self._wants_md5 or "Content-MD5" not in str(error):
                raise
            self._wants_md5 = True
            etag = self._s3.write(self._key, lambda client: self._send(client, number, body))
        with self._lock:
            self._etags[number] = etag
            self._sizes[number] = len(body)

    def _send(self, client: S3Client, number: int, body: bytes) -> str:
        part = {"Bucket": self._s3.bucket, "Key": self._key, "UploadId": self._id}
        if self._wants_md5:
            part["ContentMD5"] = md5(body)
        return client.upload_part(PartNumber=number, Body=body, **part)["ETag"]  # type: ignore[arg-type]

    def complete(self) -> str:
        """Put the parts together in the order of their numbers; returns the object's ETag."""
        with self._lock:
            parts: list[CompletedPartTypeDef] = [
                {"PartNumber": number, "ETag": self._etags[number]} for number in sorted(self._etags)
            ]
        if not parts:
            raise ValueError(f"{self._key}: a multipart upload needs at least one part")
        attempts = 0

        def finish(client: S3Client) -> str:
            nonlocal attempts
            attempts += 1
            return client.complete_multipart_upload(
                Bucket=self._s3.bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )["ETag"]

        try:
            etag = self._s3.write(self._key, finish)
        except NotFound:
            # Done by an attempt whose answer was lost: the upload is gone and the object is there.
            if attempts == 1:
                raise
            etag = self._s3.ask(self._key, self._whole)
        self._open = False
        return etag

    def _whole(self, client: S3Client) -> str:
        """The ETag of the object, if it is as long as the parts."""
        answer = client.head_object(Bucket=self._s3.bucket, Key=self._key)
        if answer["ContentLength"] != sum(self._sizes.values()):
            raise DigestMismatch(f"s3://{self._s3.bucket}/{self._key} is not what was uploaded")
        return answer["ETag"]

    def abort(self) -> None:
        """Give up: the store forgets the parts. Does nothing after ``complete()`` or a second time."""
        if not self._open:
            return
        self._open = False
        # Somebody else may have aborted it.
        with suppress(NotFound):
            self._s3.ask(
                self._key,
                lambda client: client.abort_multipart_upload(Bucket=self._s3.bucket, Key=self._key, UploadId=self._id),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()
