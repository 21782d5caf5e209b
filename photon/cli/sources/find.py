"""Where ``photon status`` finds a job: the folder of a run, the address of an aggregator, or a Kubernetes resource."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx
import yaml
from pydantic import ValidationError

from photon.api.status import JobStatus
from photon.cli.sources import stored_run
from photon.errors import CommandError, UserMistake
from photon.local.run_folder import RunDirectory
from photon.store.network import is_loopback

TOKEN_VARIABLE: Final = "PHOTON_READ_TOKEN"
_TIMEOUT_SECONDS: Final = 5.0
_KUBERNETES: Final = re.compile(r"(?:([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)/)?([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)")


class NoAnswer(CommandError):
    """Nothing answers there now; the job may be well all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen of a job.

    ``note``: what a person must know of where the figures are from. ``still``: it is not running, so nothing changes.
    """

    name: str
    local_steps: int
    status: JobStatus
    note: str = ""
    still: bool = False


class Place(Protocol):
    """Somewhere to look at a job. ``poll_seconds``: how often it is polite to look."""

    poll_seconds: float

    def look(self) -> Sight:
        """The job as it is now.

        Raises:
            NoAnswer: Nothing answers; a later look may be luckier.
            UserMistake: There is no such job, or it may not be seen.
        """
        ...


def find(job: str) -> Place:
    """Where ``job`` is.

    Raises:
        UserMistake: It is neither a folder of a run, nor a URL, nor a name that Kubernetes could have.
    """
    if "://" in job:
        return Aggregator(job)
    if Path(job).is_dir():
        return Folder(RunDirectory(Path(job).resolve()))
    match = _KUBERNETES.fullmatch(job)
    if match is None:
        raise UserMistake(
            f"{job}: there is no such folder; give the folder of a run (runs/demo), the address of an aggregator "
            "(http://...), or the name of a job in Kubernetes (namespace/name)"
        )
    from photon.cli.sources.kubernetes import Resource

    return Resource(namespace=match[1], name=match[2])


class Aggregator:
    """An aggregator's HTTP address; PHOTON_READ_TOKEN is its token where it asks for one."""

    poll_seconds = 1.0

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserMistake(f"{url}: needs http:// or https:// and a host")
        self._url = url.rstrip("/")

    def look(self) -> Sight:
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
            raise UserMistake(f"the aggregator at {self._url} asks for a token: put it into {TOKEN_VARIABLE}")
        if reply.status_code >= 500:
            raise NoAnswer(f"the aggregator at {self._url} answers with HTTP {reply.status_code}")
        return self._parsed(reply)

    def _parsed(self, reply: httpx.Response) -> Sight:
        try:
            document: dict[str, Any] = reply.raise_for_status().json()
            return Sight(
                name=document["job"],
                local_steps=int(document["localSteps"]),
                status=JobStatus.model_validate(document["status"]),
            )
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise UserMistake(
                f"{self._url} is not a Photon aggregator of this version ({reply.status_code})"
            ) from error


class Folder:
    """The folder of a run: its aggregator while it runs, afterwards what it has left."""

    poll_seconds = 1.0

    def __init__(self, run: RunDirectory) -> None:
        if not run.job.is_file():
            raise UserMistake(f"{run.shown} is not the folder of a run: it has no job.yaml; give one such as runs/demo")
        self._run = run

    def look(self) -> Sight:
        name = self._run.root.name
        url = self._address()
        if url is not None:
            try:
                seen = Aggregator(url).look()
            except NoAnswer:
                # It may have ended just now; if it has not, it is there in a moment.
                if self._address() is not None:
                    raise
            else:
                return Sight(name=name, local_steps=seen.local_steps, status=seen.status)
        spec = yaml.safe_load(self._run.job.read_text(encoding="utf-8"))["spec"]
        status = stored_run.status(self._run, rounds=int(spec["rounds"]))
        ended = any(c.status == "True" for c in status.conditions)
        note = "" if ended else f"{self._run.shown} is not running; photon run resumes it"
        return Sight(name=name, local_steps=int(spec["local"]["steps"]), status=status, note=note, still=True)

    def _address(self) -> str | None:
        """Of the aggregator of the run that is under way; None when there is none."""
        try:
            url, process = self._run.address.read_text(encoding="utf-8").split()
        except (FileNotFoundError, ValueError):
            return None
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return None  # killed: it could not take its address back
        except PermissionError:
            pass  # somebody else's, and alive
        return url
