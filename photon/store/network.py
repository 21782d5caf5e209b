"""How requests to the store leave this machine: proxies and certificates, the same for boto3 and for presigned URLs.

Both come from the environment, with the names that boto3, curl and requests know. Loopback addresses are never proxied.
"""

from __future__ import annotations

import ipaddress
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from os import environ
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from photon.store.errors import Unusable

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
# In the order in which they count. AWS_CA_BUNDLE may also be ``ca_bundle`` in the AWS configuration file.
CA_VARIABLES: Final = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy. ``url`` and ``headers`` hold its credentials; as a string it is the address without them."""

    url: str = field(repr=False)
    host: str
    port: int
    headers: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, variable: str) -> Self:
        """A proxy from a variable's value. Raises Unusable: not the address of an HTTP proxy."""
        url = text if "://" in text else f"http://{text.removeprefix('//')}"
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port = None, 0
        if parts.scheme != "http" or host is None:
            # Not the text itself: it may hold a password.
            raise Unusable(
                f"{variable} must be the address of an HTTP proxy, http://HOST:PORT or http://USER:PASSWORD@HOST:PORT; "
                f"{parts.scheme}:// is not supported"
            )
        headers = {}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        return cls(url=url, host=host, port=port, headers=headers)


def is_loopback(url: str) -> bool:
    """Whether only this machine has what is at ``url``; False for what is no URL."""
    try:
        return urlsplit(url).hostname in LOOPBACK
    except ValueError:
        return False


def proxy_for(url: str) -> Proxy | None:
    """The proxy for requests to ``url``, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.

    NO_PROXY holds names, suffixes of names, addresses, and networks such as ``10.0.0.0/8``. Raises Unusable.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in LOOPBACK or _in_network(host) or proxy_bypass(parts.netloc):
        return None
    found = getproxies().get(parts.scheme)
    return None if not found else Proxy.parse(found, variable=f"{parts.scheme.upper()}_PROXY")


def for_boto3(endpoint: str | None) -> tuple[dict[str, str] | None, str | None]:
    """boto3's ``proxies`` and ``verify`` for an endpoint; None is Amazon's, reached by https. Raises Unusable."""
    if endpoint is None:
        return None, ca_file()
    proxy, scheme = proxy_for(endpoint), urlsplit(endpoint).scheme
    return {} if proxy is None else {scheme: proxy.url}, ca_file() if scheme == "https" else None


def _in_network(host: str) -> bool:
    """Whether NO_PROXY names a network that ``host``, an address, is in: urllib knows only names and addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in getproxies().get("no", "").split(","):
        try:
            if "/" in entry and address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


def ca_file() -> str:
    """The file with the certificate authorities to trust.

    What the environment or the AWS configuration file names, else the system's, else those that come with boto3.
    Raises Unusable: A named file that is not there.
    """
    named = {name: environ[name] for name in CA_VARIABLES if environ.get(name, "").strip()}
    if "AWS_CA_BUNDLE" not in named and (configured := _configured_bundle()):
        named = {"ca_bundle of the AWS configuration file": configured, **named}
    if named:
        name, path = next(iter(named.items()))
        if not Path(path).is_file():
            raise Unusable(f"{name} is {path}, which is not a file")
        return path
    from botocore.httpsession import get_cert_path

    return ssl.get_default_verify_paths().cafile or str(get_cert_path(True))


def tls() -> ssl.SSLContext:
    """How servers are verified. Raises Unusable."""
    return _context(ca_file())


@lru_cache(maxsize=4)
def _context(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise Unusable(
            f"{path} holds no certificates in PEM format ({error}): check {', '.join(CA_VARIABLES)}"
        ) from error


def _configured_bundle() -> str | None:
    # Only https asks for it, and loading it takes longer than all else here.
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        found = botocore.session.Session().get_config_variable("ca_bundle")
    except BotoCoreError as error:
        raise Unusable(f"the AWS configuration file: {error}") from error
    return str(found) if found else None
