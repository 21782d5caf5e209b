"""The door's options, checked before anything is started: each mistake names its option and the fix."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from photon.api.access import read_access
from photon.api.job import FederatedTrainingJob
from photon.errors import UserError
from photon.store.objects import ObjectStore
from photon.trust.keys import Identity, read_identity


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorOptions:
    """As given on the command line. ``bound``: listens already; None: the job has no door."""

    bound: socket.socket | None
    identity: Path | None = None
    access: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    object_endpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a door needs beside the engine. ``remote``: who must be a member."""

    bound: socket.socket
    identity: Identity
    access: Path
    outside: ObjectStore
    remote: frozenset[str]


def opened(options: DoorOptions, job: FederatedTrainingJob) -> Opened | None:
    """What the options name; None without a door.

    Raises:
        UserError: An option is missing, or what it names cannot be used.
    """
    others = {
        "--identity": options.identity,
        "--access": options.access,
        "--door-certificate": options.certificate,
        "--door-key": options.key,
        "--object-endpoint": options.object_endpoint,
    }
    given = [name for name, value in others.items() if value is not None]
    if options.bound is None:
        if given:
            raise UserError(f"{', '.join(given)}: only with --door-listen")
        return None
    if options.identity is None or options.access is None:
        raise UserError("--door-listen needs --identity (the hub's key) and --access (who may join)")
    if (options.certificate is None) != (options.key is None):
        raise UserError("--door-certificate and --door-key go together")
    if options.certificate is not None and options.key is not None:
        _check_certificate(options.certificate, options.key)
    read_access(options.access)
    endpoint = options.object_endpoint or job.spec.storage.endpoint
    storage = job.spec.storage.model_copy(update={"endpoint": endpoint})
    return Opened(
        bound=options.bound,
        identity=read_identity(options.identity),
        access=options.access,
        outside=ObjectStore.from_environment(storage),
        remote=frozenset(one.name for one in job.spec.participants if one.remote is not None),
    )


def _check_certificate(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"--door-certificate {certificate}, --door-key {key}: cannot be used: {why}") from error
