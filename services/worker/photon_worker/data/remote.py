"""``s3://`` as a place to read data from. Credentials, endpoint and region are those of the AWS environment variables.

Data stays with its institution, so this is the institution's own bucket, never the job's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photon.files import replacing
from photon_worker.lifecycle.data_errors import DataError, MissingError, NoAccess, OutOfReach

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def is_remote(uri: str) -> bool:
    """Whether ``uri`` is an ``s3://`` URI."""
    return uri.startswith("s3://")


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` -> (``bucket``, ``some/key``).

    Raises:
        DataError: No bucket is named.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise DataError(f"{uri!r} names no bucket: write s3://bucket/prefix")
    return bucket, key.rstrip("/")


def client() -> S3Client:
    """The S3 client of this process for what the environment says now (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)."""
    return _client(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@lru_cache(maxsize=2)
def _client(environment: tuple[tuple[str, str], ...]) -> S3Client:
    """One client for one state of the environment: making one takes longer than reading a small file."""
    import boto3
    from botocore.config import Config

    from photon.store.network import for_boto3

    known = dict(environment)
    # As the job's own store is reached.
    proxies, verify = for_boto3(known.get("AWS_ENDPOINT_URL_S3") or known.get("AWS_ENDPOINT_URL"))
    config = Config(
        proxies=proxies,
        signature_version="s3v4",
        connect_timeout=10,
        read_timeout=60,
        retries={"max_attempts": 5, "mode": "standard"},
    )
    # A session of its own: the default one keeps the first credentials it saw.
    region = known.get("AWS_REGION", "us-east-1")
    made: S3Client = boto3.session.Session().client("s3", region_name=region, config=config, verify=verify)
    return made


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what boto3 raises for ``uri`` into one clear DataError."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise NoAccess(f"no credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"NoSuchKey", "404", "NotFound"}:
            raise MissingError(f"{uri} does not exist") from error
        if code == "NoSuchBucket":
            raise DataError(f"the bucket of {uri} does not exist") from error
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise OutOfReach(f"{uri} cannot be reached: {code or error}") from error
        raise NoAccess(
            f"the object store refused {uri} ({code or error}): check the access keys of the data"
        ) from error
    except BotoCoreError as error:
        raise OutOfReach(f"{uri} cannot be reached: {error}") from error


def read_bytes(uri: str) -> bytes:
    """A whole small file, local or ``s3://``.

    Raises:
        MissingError: It does not exist.
        DataError: It cannot be read.
    """
    if not is_remote(uri):
        try:
            return Path(uri).read_bytes()
        except FileNotFoundError as error:
            raise MissingError(f"{uri} does not exist") from error
        except OSError as error:
            raise DataError(f"{uri} cannot be read: {error.strerror}") from error
    bucket, key = split_uri(uri)
    with explained(uri):
        return client().get_object(Bucket=bucket, Key=key)["Body"].read()


def list_objects(uri: str) -> list[tuple[str, int, str]]:
    """(URI, size in bytes, ETag) of every object below ``uri``, sorted; of the object itself if it is one."""
    bucket, key = split_uri(uri)
    found: list[tuple[str, int, str]] = []
    with explained(uri):
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        for page in pages:
            for entry in page.get("Contents", []):
                name = entry["Key"]
                if not key or name == key or name.startswith(f"{key}/"):
                    found.append((f"s3://{bucket}/{name}", entry["Size"], entry["ETag"]))
    return sorted(found)


def fetch(uri: str, path: Path, *, sha256: str | None = None, on_bytes: Callable[[int], Any] | None = None) -> None:
    """Copy the object ``uri`` to ``path`` (atomic: a file with that name is whole).

    Raises:
        DataError: It cannot be read, or its bytes have another sha256.
    """
    bucket, key = split_uri(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with replacing(path, mode=0o600, several=True) as file:
            with explained(uri):
                body = client().get_object(Bucket=bucket, Key=key)["Body"]
                for chunk in body.iter_chunks(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
                    if on_bytes is not None:
                        on_bytes(len(chunk))
            if sha256 is not None and digest.hexdigest() != sha256:
                raise DataError(f"{uri} is damaged: its sha256 is not that of its index; prepare the data again")
    except OSError as error:
        raise DataError(f"{uri} cannot be copied to {path.parent}: {error.strerror}") from error
