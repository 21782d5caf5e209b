"""The S3 API of one bucket: how boto3's client is made, and how each of its requests is sent.

Every request runs under one retry policy, and whatever boto3 raises is a StoreError afterwards. boto3's own attempts
are switched off: two policies on top of each other would multiply.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from photon.api.placement import StorageSpec
from photon.store.errors import StorageFull, StoreError, Unreachable, Unusable, translate
from photon.store.network import for_boto3
from photon.store.retry import RetryPolicy, TryAgain

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Result = TypeVar("Result")

MAX_CONNECTIONS: Final = 16
# With 2 s to connect and pauses of a quarter and a half second a dead endpoint is named within 10 s.
CONNECT_TIMEOUT_SECONDS: Final = 2
RETRY: Final = RetryPolicy(attempts=3)
# An answer may wait for a busy disk, or for the assembly of a large object.
READ_TIMEOUT_SECONDS: Final = 30


class S3:
    """Requests to one bucket. Thread-safe."""

    def __init__(self, client: S3Client, *, bucket: str, retry: RetryPolicy = RETRY) -> None:
        self.client = client
        self.bucket = bucket
        self.endpoint: str = client.meta.endpoint_url
        self._retry = retry

    def ask(self, key: str | None, request: Callable[[S3Client], Result]) -> Result:
        """The result of ``request``, tried again while the store is unreachable.

        ``key`` is the full key that it is about, for messages. What ``request`` does must be safe to repeat. Raises
        StoreError.
        """

        def attempt() -> Result:
            try:
                return request(self.client)
            except StoreError:
                raise
            except Exception as error:
                said = translate(error, endpoint=self.endpoint, bucket=self.bucket, key=key)
                if isinstance(said, Unreachable):
                    raise TryAgain(said) from error
                raise said from error

        return self._retry.run(attempt)

    def close(self) -> None:
        """Close the connections that wait for another request. The next request opens one again."""
        self.client.close()

    def write(self, key: str, request: Callable[[S3Client], Result]) -> Result:
        """Like ``ask``, and find out whether the store is full.

        SeaweedFS says of a full disk only "500 InternalError" (its log knows more). Failing again and again to store
        bytes, while it still answers, is what distinguishes it.
        """
        try:
            return self.ask(key, request)
        except Unreachable as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or cause.response["Error"].get("Code") != "InternalError":
                raise
            try:
                self.list_one(key)
            except StoreError:
                raise error from cause
            raise StorageFull(
                f"storage is full, most likely: {self.endpoint} answers, but failed again and again to store "
                f"s3://{self.bucket}/{key} ({cause}); free or add space"
            ) from cause

    def list_one(self, prefix: str) -> None:
        """Raise a StoreError unless the bucket answers and its objects may be listed."""
        # Listing, not HeadBucket: an answer to HEAD has no body, so it cannot say which of key, secret, right is wrong.
        # An empty answer of something that is no store has no Name.
        self.ask(None, lambda client: client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1)["Name"])


def open_client(
    spec: StorageSpec, *, access_key: str | None, secret_key: str | None, session_token: str | None
) -> S3Client:
    """boto3's client for ``spec``; sends nothing.

    Without keys botocore's own chain is asked (environment, profile, the cloud's workload identity). Raises Unusable:
    Keys, an endpoint, a proxy, certificates or an AWS configuration file that cannot be used.
    """
    endpoint = spec.endpoint
    proxies, verify = for_boto3(endpoint)
    config = Config(
        signature_version="s3v4",
        # Stores of one's own seldom have DNS names per bucket.
        s3={"addressing_style": "path" if endpoint else "auto"},
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        max_pool_connections=MAX_CONNECTIONS,
        tcp_keepalive=True,
        # The default since boto3 1.36 breaks stores that do not know CRC trailers; we bind sha256 where it counts.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies=proxies,
    )
    try:
        # A session of its own: boto3's default session is shared state, and not thread-safe to make clients from.
        session = boto3.session.Session(
            aws_access_key_id=_key("AWS_ACCESS_KEY_ID", access_key),
            aws_secret_access_key=_key("AWS_SECRET_ACCESS_KEY", secret_key),
            aws_session_token=_key("AWS_SESSION_TOKEN", session_token),
            region_name=spec.region,
        )
        client = session.client("s3", endpoint_url=endpoint, config=config, verify=verify)
    except (BotoCoreError, ValueError) as error:
        file = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
        raise Unusable(
            f"the settings for {spec.endpoint or 'S3'} (storage, {file}, AWS_ variables): {error}"
        ) from error
    # Presigned URLs would not follow a redirect to another region: one that is wrong has to be said.
    client.meta.events.register("before-call.s3", _follow_no_redirect)
    client.meta.events.register("before-sign.s3.DeleteObjects", _with_md5)
    return client


def md5(data: bytes) -> str:
    """Content-MD5 of a request: what stores of any age verify, and buckets with object lock ask for."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _key(name: str, value: str | None) -> str | None:
    """A key without the line break that files and Secrets often end with."""
    if value is None or not value.strip():
        return None
    key = value.strip()
    if not key.isascii() or not key.isprintable():
        raise Unusable(f"{name} holds a character that no key has, such as a line break: set it to the key alone")
    return key


def _follow_no_redirect(params: dict[str, Any], **_: object) -> None:
    # As if it had been redirected already; botocore has no other switch for it.
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _with_md5(request: Any, **_: object) -> None:
    """boto3 sends DeleteObjects with a CRC32 that older stores do not take in place of Content-MD5."""
    for name in [
        name for name in request.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum"))
    ]:
        del request.headers[name]
    request.headers["Content-MD5"] = md5(request.data)
