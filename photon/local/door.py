"""The door of a run: where other institutions reach its aggregator and its object store, kept in the run's folder.

``door.json`` holds what ``photon run`` was told, so that a resumed run and ``photon invite`` need no options.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from photon.api.job import FederatedTrainingJob
from photon.api.join import LOOPBACK, MAX_BUNDLE, JoinSpec, Origin
from photon.api.reading import read_bounded
from photon.errors import UserError
from photon.files import write_atomic
from photon.local.run_folder import RunDirectory
from photon.protocol.border import job_name
from photon.trust import certificates
from photon.trust.errors import KeyFileError
from photon.trust.keys import Identity

_AUTHORITY: Final = ("ca.pem", "ca-key.pem")
_ORIGIN: Final[TypeAdapter[str]] = TypeAdapter(Origin)


class DoorOptions(BaseModel):
    """What a person says of the door. Files in PEM format, absolute; ``identity`` is the hub's own key."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    listen: str
    public_url: str | None = None
    public_store: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    identity: Path | None = None


class Door(BaseModel):
    """door.json. ``url``: of this job, as institutions reach it; ``objects``: origin of presigned URLs.

    ``store_listen``: where an embedded store takes their requests; None: the store is not ours. ``certificate``,
    ``key``: TLS by ourselves; without them it is plain http, on a loopback address only. ``bundle``: certificates that
    institutions are to trust; empty where theirs know the certificate already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    listen: str
    url: str
    objects: str
    store_listen: str | None
    certificate: Path | None
    key: Path | None
    bundle: str = Field(repr=False)
    identity: Path
    hub_key: str
    job_name: str
    options: DoorOptions

    @property
    def origin(self) -> str:
        """``https://HOST:PORT`` of the door."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def read_door(run: RunDirectory) -> Door | None:
    """What the last ``photon run`` wrote; None when its door was never open. Raises UserError: it cannot be read."""
    if not run.door.exists():
        return None
    try:
        return Door.model_validate_json(run.door.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{run.door} cannot be read: photon run with --door writes it again") from error


def make_door(
    job: FederatedTrainingJob, run: RunDirectory, options: DoorOptions, *, identity: Identity, identity_path: Path
) -> Door:
    """The door as ``options`` say, with what they leave open; certificates are made where need be.

    Raises:
        UserError: An option cannot be; the message names it.
    """
    host, port = address("--door", options.listen)
    loopback = host in LOOPBACK
    _both_or_none(options)
    public = _url("--public-url", options.public_url) if options.public_url else None
    if public is None and host in ("0.0.0.0", "::"):
        raise UserError(
            f"--door {options.listen} is no address that institutions could use: add --public-url https://HOST:{port}"
        )
    own_tls = options.certificate is not None or not loopback or public == f"https://{_bracketed(host)}:{port}"
    base = public or f"{'https' if own_tls else 'http'}://{_bracketed(host)}:{port}"
    embedded = job.spec.storage.endpoint is None
    store_listen = f"{_bracketed(host)}:{port + 1}" if embedded else None
    parts = urlsplit(base)
    if options.public_store:
        objects = _url("--public-store", options.public_store)
    elif embedded:
        objects = f"{'https' if own_tls else 'http'}://{_bracketed(parts.hostname or '')}:{port + 1}"
    else:
        objects = _url("spec.storage.endpoint (or --public-store)", job.spec.storage.endpoint or "")
    certificate, key, bundle = options.certificate, options.key, ""
    if certificate is not None and key is not None:
        _check_pair(certificate, key)
        if options.authority is not None:
            bundle = read_bounded(options.authority, "certificates", MAX_BUNDLE)
    elif own_tls:
        hosts = [parts.hostname or "", *([urlsplit(objects).hostname or ""] if embedded else []), host]
        certificate, key, bundle = _self_signed(run, list(dict.fromkeys(hosts)))
    door = Door(
        listen=f"{_bracketed(host)}:{port}",
        url=f"{base}/jobs/{job_name(job)}",
        objects=objects,
        store_listen=store_listen,
        certificate=certificate,
        key=key,
        bundle=bundle,
        identity=identity_path,
        hub_key=identity.key.text,
        job_name=job_name(job),
        options=options,
    )
    _fits_an_invitation(door)
    return door


def write_door(run: RunDirectory, door: Door) -> None:
    """Keep it for resumed runs and for invitations."""
    write_atomic(run.door, door.model_dump_json(indent=2) + "\n", mode=0o600)


def address(option: str, text: str) -> tuple[str, int]:
    """HOST and PORT. Raises UserError, which names ``option``."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or not 1 <= port < 65_535 or "/" in text or "@" in text:
        raise UserError(f"{option} {text}: must be HOST:PORT, such as 0.0.0.0:8443")
    return host, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _both_or_none(options: DoorOptions) -> None:
    if (options.certificate is None) != (options.key is None):
        raise UserError("--door-certificate and --door-key belong together: give both or none")
    if options.authority is not None and options.certificate is None:
        raise UserError("--door-ca says who signed --door-certificate: give that, too")


def _url(option: str, text: str) -> str:
    """An origin in lower case, by the rules of invitations."""
    try:
        return _ORIGIN.validate_python(text)
    except ValidationError as error:
        raise UserError(f"{option} {text}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def _fits_an_invitation(door: Door) -> None:
    try:
        JoinSpec(url=door.url, objects=[door.objects], hub_key=door.hub_key, ca_bundle=door.bundle)
    except ValidationError as error:
        first = error.errors()[0]
        where = {"url": "--public-url", "objects": "--public-store", "caBundle": "--door-ca"}
        option = where.get(str(first["loc"][0]), str(first["loc"][0]))
        raise UserError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from error


def _check_pair(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--door-certificate {certificate}, --door-key {key}: not a certificate in PEM format and its key "
            f"without a passphrase ({error})"
        ) from error


def _self_signed(run: RunDirectory, hosts: list[str]) -> tuple[Path, Path, str]:
    """A certificate for ``hosts``; its authority is made once, so that invitations stay good when a host is added."""
    folder = run.root / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    paths = [folder / name for name in _AUTHORITY]
    if not paths[0].exists() or not paths[1].exists():
        made = certificates.authority("Photon hub")
        for path, pem in zip(reversed(paths), (made.key, made.certificate), strict=True):
            write_atomic(path, pem.decode(), mode=0o600)
    by = certificates.Pair(paths[0].read_bytes(), paths[1].read_bytes())
    try:
        server = certificates.server(by, hosts)
    except KeyFileError as error:
        raise UserError(f"{folder}: {error}") from error
    certificate, key = folder / "server.pem", folder / "server-key.pem"
    write_atomic(key, server.key.decode(), mode=0o600)
    write_atomic(certificate, server.certificate.decode(), mode=0o600)
    return certificate, key, by.certificate.decode()
