"""The folder of a run that joined a job of another institution: its gate while it runs, afterwards its last status."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from photon.api.status import JobStatus
from photon.cli.sources.base import StatusView
from photon.errors import NoAnswer
from photon.local.run_folder import RunDirectory

_TIMEOUT_SECONDS = 5.0


def of_gate(url: str, name: str) -> StatusView:
    """What the gate at ``url`` says. Raises NoAnswer."""
    try:
        reply = httpx.get(f"{url}/v1/status", timeout=_TIMEOUT_SECONDS, trust_env=False).raise_for_status()
        return _view(name, JobStatus.model_validate_json(reply.content), still=False)
    except (httpx.HTTPError, ValidationError) as error:
        raise NoAnswer(f"the gate of {name} does not answer: {error}") from error


def kept(run: RunDirectory) -> StatusView:
    """What the gate said last. Raises NoAnswer: it has said nothing yet."""
    try:
        status = JobStatus.model_validate_json(run.status.read_bytes())
    except (OSError, ValidationError) as error:
        raise NoAnswer(f"{run.shown} has no status yet: photon run with the invitation takes part") from error
    return _view(run.root.name, status, still=True)


def _view(name: str, status: JobStatus, *, still: bool) -> StatusView:
    steps = max((participant.step for participant in status.participants), default=0)
    return StatusView(name=name, local_steps=steps, status=status, still=still)
