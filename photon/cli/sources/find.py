"""Where ``photon status`` finds a job: the folder of a run, the address of an aggregator, or a Kubernetes resource."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import yaml

from photon.api.invitation import joins
from photon.cli.sources import joined_run, stored_run
from photon.cli.sources.aggregator import Aggregator
from photon.cli.sources.base import StatusSource, StatusView
from photon.cli.sources.kubernetes import Resource
from photon.errors import NoAnswer, UserError
from photon.local.run_folder import RunDirectory

_KUBERNETES: Final = re.compile(r"(?:([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)/)?([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)")


def find(job: str) -> StatusSource:
    """Where ``job`` is.

    Raises:
        UserError: It is neither a folder of a run, nor a URL, nor a name that Kubernetes could have.
    """
    if "://" in job:
        return Aggregator(job)
    if Path(job).is_dir():
        return Folder(RunDirectory(Path(job).resolve()))
    match = _KUBERNETES.fullmatch(job)
    if match is None:
        raise UserError(
            f"{job}: there is no such folder; give the folder of a run (runs/demo), the address of an aggregator "
            "(http://...), or the name of a job in Kubernetes (namespace/name)"
        )
    return Resource(namespace=match[1], name=match[2])


class Folder:
    """The folder of a run: its aggregator while it runs, afterwards what it has left."""

    poll_seconds = 1.0

    def __init__(self, run: RunDirectory) -> None:
        if not run.job.is_file():
            raise UserError(f"{run.shown} is not the folder of a run: it has no job.yaml; give one such as runs/demo")
        self._run = run

    def fetch(self) -> StatusView:
        name = self._run.root.name
        url = self._address()
        if joins(self._run.job):
            return self._joined(url)
        if url is not None:
            try:
                seen = Aggregator(url).fetch()
            except NoAnswer:
                # It may have ended just now; if it has not, it is there in a moment.
                if self._address() is not None:
                    raise
            else:
                return StatusView(name=name, local_steps=seen.local_steps, status=seen.status)
        spec = yaml.safe_load(self._run.job.read_text(encoding="utf-8"))["spec"]
        status = stored_run.status(self._run, rounds=int(spec["rounds"]))
        ended = any(c.status == "True" for c in status.conditions)
        hint = "" if ended else f"{self._run.shown} is not running; photon run resumes it"
        return StatusView(name=name, local_steps=int(spec["local"]["steps"]), status=status, hint=hint, still=True)

    def _joined(self, url: str | None) -> StatusView:
        try:
            return joined_run.kept(self._run) if url is None else joined_run.of_gate(url, self._run.root.name)
        except NoAnswer:
            if url is None or self._address() is not None:
                raise
            return joined_run.kept(self._run)

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
            pass  # another user's, and alive
        return url
