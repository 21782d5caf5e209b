"""What can go wrong with object storage, in words that say what to do; botocore's errors end here.

StoreError               what none of the below fits
 ├─ Unreachable          nothing answers, or not in time, or only "later" (5xx, 409, 429): waiting helps
 ├─ StorageFull          no room for what was to be written: helps once space is freed or added
 │   └─ DiskFull             the same, of this machine's disk
 ├─ Refused              the store answers and does not do it: helps once a key, a permission or a setting is changed
 │   ├─ AccessDenied         the keys are wrong, have expired, or may not do this
 │   ├─ BucketMissing        the bucket does not exist
 │   ├─ CertificateRefused   the server's certificate is not one to trust
 │   └─ Unusable             a feature that Photon needs is missing, or a setting cannot work: exit code 2
 └─ Contradiction        the bucket does not hold what it must hold: waiting never helps
     ├─ PrefixTaken          another job owns the prefix: exit code 2
     ├─ NotFound             no object at this key
     ├─ PreconditionFailed   another client wrote first (If-Match, If-None-Match)
     └─ DigestMismatch       the bytes are not those that were announced

Who waits for a store asks only for the four kinds of the first level; ``RecordError`` of the aggregator is the fourth
``Contradiction``. ``reason`` is the code by which launchers know an error that has ended a program.
"""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from photon.api.status import ClusterReason
from photon.errors import PhotonError
from photon.exit_codes import EXIT_USER_ERROR


class StoreError(PhotonError):
    """Object storage did not do what was asked; the message is one sentence for the user."""

    reason: ClassVar[ClusterReason] = ClusterReason.PROGRAM_FAILED


class Unreachable(StoreError):
    """Nothing answers at the endpoint, not in time, or only with server errors; trying again later may help."""

    reason = ClusterReason.STORAGE_UNREACHABLE


class StorageFull(StoreError):
    """The store has no room left."""

    reason = ClusterReason.STORAGE_FULL


class DiskFull(StorageFull):
    """This machine's disk has no room left for a copy of what the store holds."""

    reason = ClusterReason.PROGRAM_FAILED


class Refused(StoreError):
    """The store answers and does not do it; trying again helps only once a key, a right or a setting was changed."""


class AccessDenied(Refused):
    """The credentials are wrong, expired, or may not do this."""

    reason = ClusterReason.ACCESS_DENIED


class BucketMissing(Refused):
    """The bucket does not exist."""

    reason = ClusterReason.BUCKET_MISSING


class CertificateRefused(Refused):
    """The server's certificate cannot be verified."""

    reason = ClusterReason.STORAGE_UNREACHABLE


class Unusable(Refused):
    """The store lacks a feature that Photon needs, or a setting of how to reach it cannot work."""

    exit_code = EXIT_USER_ERROR
    reason = ClusterReason.INVALID_CONFIGURATION


class Contradiction(StoreError):
    """What the bucket holds is not what it must hold; trying again does not help."""


class PrefixTaken(Contradiction):
    """The prefix belongs to another job."""

    exit_code = EXIT_USER_ERROR
    reason = ClusterReason.PREFIX_TAKEN


class NotFound(Contradiction):
    """There is no object at this key."""


class PreconditionFailed(Contradiction):
    """The object is there already (create) or is no longer the one that was read (If-Match)."""


class DigestMismatch(Contradiction):
    """The bytes are not those that were announced: wrong size or sha256."""


_DENIED: Final = frozenset(
    {"AccessDenied", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidToken", "TokenRefreshRequired"}
)
_MISSING: Final = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})
_PRECONDITION: Final = frozenset({"412", "PreconditionFailed"})
_DIGEST: Final = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_FULL: Final = frozenset({"507", "EntityTooLargeForStorage", "InsufficientStorage", "QuotaExceeded", "StorageFull"})
# Somebody else is writing the same key at this moment: S3 asks to send the request again.
_CONFLICT: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
_BUSY: Final = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "TooManyRequests"}
)
# What stores write into a plain 500 when their disk has no room (SeaweedFS, MinIO, Ceph).
_FULL_WORDS: Final = ("no space left", "no free volumes", "no writable volumes", "minimum free drive", "quota exceeded")


def is_full(text: str) -> bool:
    """Whether a server's error text says that its disk is full."""
    lowered = text.lower()
    return any(words in lowered for words in _FULL_WORDS)


def host_and_port(endpoint: str) -> str:
    """``127.0.0.1:8333`` of a URL: what a person checks first."""
    parts = urlsplit(endpoint)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def not_a_store(where: str, why: str) -> Unreachable:
    """Something else answers: another service, or a captive portal on the way, which will go away."""
    return Unreachable(f"what answers at {where} is not an S3 API ({why}): check storage.endpoint and the network")


def certificate_refused(where: str, why: str) -> CertificateRefused:
    """The server's certificate is not one to trust."""
    return CertificateRefused(
        f"the certificate of {where} cannot be verified ({why}): set AWS_CA_BUNDLE to the file with its certificate "
        "authority, or correct storage.endpoint"
    )


def proxy_asks(proxy: object) -> Refused:
    """407; ``proxy`` as a string is its address."""
    return Refused(
        f"the proxy {proxy or 'on the way'} asks for credentials (407): write http://USER:PASSWORD@HOST:PORT into "
        "HTTP_PROXY and HTTPS_PROXY"
    )


def redirected(endpoint: str, target: str) -> StoreError:
    """A redirect cannot be followed: signatures and presigned URLs are for one host."""
    parts = urlsplit(target)
    shown = f"{parts.scheme}://{parts.netloc}"
    if parts.hostname == urlsplit(endpoint).hostname:
        return Unusable(f"{endpoint} redirects to {shown}: set storage.endpoint to it")
    return not_a_store(endpoint, f"it redirects to {shown}")


def translate(error: Exception, *, endpoint: str, bucket: str, key: str | None = None) -> StoreError:
    """The StoreError for whatever a request through boto3 raised; the caller raises it ``from`` the error.

    ``endpoint`` is the URL in use, ``key`` the full key where the request had one.
    """
    where = f"s3://{bucket}/{key}" if key else f"bucket {bucket!r}"
    at = host_and_port(endpoint)
    match error:
        case ClientError():
            return _refused(error, endpoint=endpoint, bucket=bucket, where=where, has_key=key is not None)
        case NoCredentialsError() | PartialCredentialsError():
            return AccessDenied(
                f"no credentials for {where} at {endpoint}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        case SSLError() if "certificate verify failed" in str(error):
            return certificate_refused(endpoint, str(error.kwargs.get("error", error)))
        case ProxyConnectionError():
            proxy, why = error.kwargs.get("proxy_url"), str(error.kwargs.get("error", ""))
            return proxy_asks(proxy) if "407" in why else Unreachable(f"no proxy answers at {proxy}: {why}")
        case EndpointConnectionError() | ConnectTimeoutError():
            return Unreachable(f"no object store answers at {at}: check storage.endpoint ({endpoint}) and the network")
        case ReadTimeoutError():
            return Unreachable(f"the object store at {at} did not answer in time for {where}")
        case SSLError() | HTTPClientError() | IncompleteReadError():
            return Unreachable(f"the connection to {at} broke for {where}: {error}")
        case ResponseParserError():
            return not_a_store(endpoint, "its answer is no XML")
        case KeyError():
            return not_a_store(endpoint, f"its answer has no {error.args[0]}")
        case BotoCoreError():
            return Refused(f"{where} at {endpoint}: {error}")
        case _:
            return StoreError(f"{where} at {endpoint}: {type(error).__name__}: {error}")


def _refused(error: ClientError, *, endpoint: str, bucket: str, where: str, has_key: bool) -> StoreError:
    details = error.response.get("Error", {})
    code, text = details.get("Code", ""), details.get("Message", "")
    at = host_and_port(endpoint)
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return BucketMissing(
            f"bucket {bucket!r} does not exist at {endpoint}: create it "
            f"(aws s3 mb s3://{bucket} --endpoint-url {endpoint}) or correct storage.bucket"
        )
    if code in _DIGEST:
        return DigestMismatch(f"{where}: the store refused the bytes, their digest is not the announced one ({text})")
    if code in _PRECONDITION or status == 412:
        return PreconditionFailed(f"{where}: the object was written by another client in the meantime")
    if code in _FULL or status == 507 or is_full(text):
        return StorageFull(f"storage is full: {endpoint} has no room for {where} ({text or code}); free or add space")
    if code == "InvalidAccessKeyId":
        return AccessDenied(f"{endpoint} does not know this access key: check AWS_ACCESS_KEY_ID")
    if code == "SignatureDoesNotMatch":
        return AccessDenied(f"{endpoint} refused the signature: check AWS_SECRET_ACCESS_KEY and storage.region")
    if code == "RequestTimeTooSkewed":
        return AccessDenied(f"{endpoint} refused the request's time: set this machine's clock right")
    if code in _DENIED or status in (401, 403):
        return AccessDenied(
            f"access to {where} at {endpoint} is denied ({text or code}): check the credentials' rights"
        )
    if status == 404 and not has_key:
        return not_a_store(endpoint, "404 for a bucket")
    if code in _MISSING or status == 404:
        return NotFound(f"{where} does not exist at {endpoint}")
    if status == 407:
        return proxy_asks(None)
    if code == "AuthorizationHeaderMalformed":
        return Unusable(f"{endpoint} is of another region: correct storage.region ({text})")
    if code == "PermanentRedirect":
        return Unusable(f"{where} is not at {endpoint}: correct storage.region or storage.endpoint ({text})")
    if 300 <= status < 400 and status != 304:
        return redirected(endpoint, answer.get("HTTPHeaders", {}).get("location", ""))
    if status == 501 or code == "NotImplemented":
        return Unusable(f"the object store at {at} lacks a feature that Photon needs, for {where}: {text or code}")
    if code in _CONFLICT:
        return Unreachable(f"the object store at {at} is busy with another write of {where}: {code}")
    if status >= 500 or status in (408, 429) or code in _BUSY:
        return Unreachable(f"the object store at {at} fails for {where}: {status} {code} {text}")
    return Refused(f"{where} at {endpoint}: {status} {code} {text}")
