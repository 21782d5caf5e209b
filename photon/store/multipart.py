"""One large object written in parts, by several threads, in any order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef


class MultipartUpload:
    """The object appears, whole, at ``complete()``; leaving the ``with`` block without it aborts and frees the parts.

    S3 asks that every part but the last has at least 5 MiB and that there are at most 10,000. ``upload_part`` may be
    called from many threads; a part sent again replaces the earlier one.
    """

    def __init__(
        self, client: S3Client, *, bucket: str, key: str, errors: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        """``errors`` turns errors of botocore into StoreErrors for a key."""
        self._client = client
        self._bucket = bucket
        self._key = key
        self._errors = errors
        self._etags: dict[int, str] = {}
        self._lock = Lock()
        with errors(key):
            self._id = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        self._open = True

    def upload_part(self, number: int, data: memoryview | bytes) -> None:
        """Send part ``number`` (from 1); returns when the store has it."""
        # botocore takes no memoryview; one copy of a part costs far less than a reader that is asked for 16 KiB a time.
        body = data if isinstance(data, bytes) else bytes(data)
        with self._errors(self._key):
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=self._key, UploadId=self._id, PartNumber=number, Body=body
            )
        with self._lock:
            self._etags[number] = answer["ETag"]

    def complete(self) -> str:
        """Put the parts together in the order of their numbers; returns the object's ETag."""
        with self._lock:
            parts: list[CompletedPartTypeDef] = [
                {"PartNumber": number, "ETag": self._etags[number]} for number in sorted(self._etags)
            ]
        if not parts:
            raise ValueError(f"{self._key}: a multipart upload needs at least one part")
        with self._errors(self._key):
            answer = self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
        self._open = False
        return answer["ETag"]

    def abort(self) -> None:
        """Give up: the store forgets the parts. Does nothing after ``complete()`` or a second time."""
        if not self._open:
            return
        self._open = False
        with self._errors(self._key):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()
