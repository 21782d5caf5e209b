"""The status of a job by its aggregator's HTTP address."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from photon.cli.sources.base import StatusView
from photon.errors import NoAnswer, UserError
from photon.protocol.views import LiveStatus, StatusNotRead
from photon.store.network import is_loopback

TOKEN_VARIABLE: Final = "PHOTON_READ_TOKEN"
_TIMEOUT_SECONDS: Final = 5.0


class Aggregator:
    """An aggregator's HTTP address; PHOTON_READ_TOKEN is its token where it asks for one."""

    poll_seconds = 1.0

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url}: needs http:// or https:// and a host")
        self._url = url.rstrip("/")

    def fetch(self) -> StatusView:
        token = os.environ.get(TOKEN_VARIABLE)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            reply = httpx.get(
                f"{self._url}/v1/live",
                headers=headers,
                timeout=_TIMEOUT_SECONDS,
                trust_env=not is_loopback(self._url),
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise NoAnswer(f"no aggregator answers at {self._url}: {error or type(error).__name__}") from error
        if reply.status_code in (401, 403):
            raise UserError(f"the aggregator at {self._url} asks for a token: put it into {TOKEN_VARIABLE}")
        if reply.status_code >= 500:
            raise NoAnswer(f"the aggregator at {self._url} answers with HTTP {reply.status_code}{_why(reply)}")
        return self._parsed(reply)

    def _parsed(self, reply: httpx.Response) -> StatusView:
        try:
            live = LiveStatus.model_validate_json(reply.raise_for_status().content, extra="ignore")
        except (httpx.HTTPStatusError, ValidationError) as error:
            raise UserError(f"{self._url} is not a Photon aggregator of this version ({reply.status_code})") from error
        return StatusView(name=live.job, local_steps=live.local_steps, status=live.status)


def _why(reply: httpx.Response) -> str:
    """What an aggregator says that has no status to give; empty when it says nothing."""
    try:
        told = StatusNotRead.model_validate_json(reply.content, extra="ignore")
    except ValidationError:
        return ""
    waits = next((f" ({c.reason}: {c.message})" for c in told.conditions if c.status == "True" and c.message), "")
    return f": {told.error.message}{waits}"
