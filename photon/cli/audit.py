"""``photon audit PLACE``: ``photon-aggregator audit`` checks a job's bucket; that of a local run is served to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack

from photon.cli.places import opened
from photon.errors import PhotonError
from photon.exit_codes import EXIT_NOT_CHECKABLE
from photon.local.door import read_door
from photon.local.environment import not_proxied
from photon.local.programs import find_program


class NotCheckable(PhotonError):
    """There is nothing at the place that can be audited."""

    exit_code = EXIT_NOT_CHECKABLE


def audit(place: str, options: Sequence[str], hub_key: str | None = None) -> int:
    """The exit code of the audit, which prints for itself. The hub's key of a run with a door is in its folder.

    Raises:
        UserError: The aggregator is not installed.
        NotCheckable: ``place`` names no bucket, or its credentials are not there.
    """
    program = find_program("photon-aggregator")
    with ExitStack() as stack:
        try:
            found = stack.enter_context(opened(place))
        except PhotonError as error:
            raise NotCheckable(str(error)) from error
        door = read_door(found.run) if hub_key is None and found.run is not None else None
        hub_key = door.hub_key if door is not None else hub_key
        by = ["--hub-key", hub_key] if hub_key is not None else []
        storage = found.storage
        environment = {**os.environ, **found.environment, "AWS_REGION": storage.region, "PHOTON_CALLED_AS": "photon"}
        environment.pop("AWS_ENDPOINT_URL", None)
        if storage.endpoint is not None:
            environment["AWS_ENDPOINT_URL"] = storage.endpoint
        if found.environment:
            environment |= not_proxied(os.environ)
            environment.pop("AWS_SESSION_TOKEN", None)
        where = f"s3://{storage.bucket}/{storage.prefix}"
        return subprocess.run([program, "audit", where, *options, *by], env=environment, check=False).returncode
