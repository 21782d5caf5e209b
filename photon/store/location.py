"""``s3://bucket/prefix`` as a person types it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import ValidationError

from photon.api.placement import StorageSpec
from photon.errors import UserError


def storage_at(uri: str, environ: Mapping[str, str]) -> StorageSpec:
    """The bucket and prefix of ``uri``, at the endpoint and in the region that the environment names.

    Raises:
        UserError: It is no s3:// address, or not one of a bucket.
    """
    parts = urlsplit(uri)
    if parts.scheme != "s3":
        raise UserError(f"{uri}: only s3://bucket/prefix is supported")
    try:
        return StorageSpec(
            bucket=parts.netloc,
            prefix=parts.path.strip("/"),
            endpoint=environ.get("AWS_ENDPOINT_URL") or None,
            region=environ.get("AWS_REGION") or "us-east-1",
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{uri} is no address of a job: {field}: {first['msg']}") from error
