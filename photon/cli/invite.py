"""``photon invite``: the file that an institution is sent, and what the hub keeps of it."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from photon.api.access import AccessEntry, InvitationRecord
from photon.api.invitation import FILL_IN, SECRET_TYPE, parse_invitation
from photon.api.join import Access, Approval
from photon.errors import UserError
from photon.files import write_atomic
from photon.local.hub import HubRun, hub_run
from photon.trust.keys import Key
from photon.version import release

_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}
_LEAST, _MOST = 60, 90 * 86_400
_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
# Of metadata.name: the Secret's is longer by this.
_SUFFIX: Final = "-invitation"


def invite(
    run: str,
    name: str,
    *,
    key: str | None,
    approval: Approval,
    valid: str,
    renew: bool,
    output: Path | None,
    now: datetime,
) -> str:
    """Add ``name`` to those who may join. The invitation's text, which is written to ``output`` where it is given.

    Raises:
        UserError: It cannot be invited so; nothing was changed.
    """
    hub = hub_run(run)
    hub.require_remote(name)
    seconds = _seconds(valid)
    known = None if key is None else _parsed(key)
    if output is not None and os.path.lexists(output):
        raise UserError(f"{output} is there already: an invitation never replaces a file")
    with hub.changing() as entries:
        before = entries.get(name)
        _may_invite(hub, name, before, known, renew=renew, now=now)
        serial = 1 if before is None else before.serial + renew
        token = record = expires = None
        if known is None:
            expires = now + timedelta(seconds=seconds)
            token, record = _token(expires)
        try:
            entries[name] = AccessEntry(
                approval=approval, key=None if known is None else known.text, invitation=record, serial=serial
            )
        except ValidationError as error:
            raise UserError(f"{name} was renewed too often") from error
        text = _text(hub, name, token, expires)
        if output is not None:
            _write(output, text)
    return text


def _may_invite(
    hub: HubRun, name: str, before: AccessEntry | None, known: Key | None, *, renew: bool, now: datetime
) -> None:
    if before is None:
        if renew:
            raise UserError(f"{name} was not invited yet: leave out --renew")
        return
    if before.access is Access.REVOKED:
        raise UserError(f"the access of {name} is revoked: photon revoke {hub.run.shown} {name} --undo gives it back")
    if renew:
        return
    if known is not None and before.key == known.text and before.invitation is None:
        return  # the same once more
    until = ""
    if before.invitation is not None:
        ends = datetime.fromtimestamp(before.invitation.expires, UTC)
        until = f" (until {ends:%Y-%m-%d %H:%M} UTC{', which is over' if ends <= now else ''})"
    raise UserError(
        f"{name} was invited already{until}: --renew makes a new invitation, and ends the one before and its key"
    )


def _parsed(text: str) -> Key:
    try:
        return Key.parse(text)
    except Exception as error:
        raise UserError(f"--key {text}: {error}") from error


def _seconds(text: str) -> int:
    """``7d``, ``12h`` or ``30m``."""
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not _LEAST <= seconds <= _MOST:
        raise UserError(f"--valid {text}: must be between 1m and 90d, such as 7d, 12h or 30m")
    return seconds


def _token(expires: datetime) -> tuple[str, InvitationRecord]:
    name = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
    token = f"phi_{name}.{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, InvitationRecord(id=name, sha256=digest, expires=int(expires.timestamp()))


def _text(hub: HubRun, name: str, token: str | None, expires: datetime | None) -> str:
    job, door = hub.job.metadata.name, hub.door
    fingerprint = Key.parse(door.hub_key).fingerprint
    host = door.origin.partition("://")[2]
    use = "It holds no secret" if expires is None else f"One use, until {expires:%Y-%m-%dT%H:%MZ}"
    secret_name = f"{job}{_SUFFIX}"
    lines = [
        f"# Invitation of {name} to the job {job} of {host}, made by Photon {release()}. {use}.",
        f"# 1. Read it. 2. Compare the hub's key by telephone: {fingerprint}. 3. Fill in what says {FILL_IN}.",
        "# 4. photon check FILE (says what the job is and what it may use)   5. photon run FILE",
    ]
    if token is not None:
        lines += [
            "apiVersion: v1",
            "kind: Secret",
            f"metadata: {{name: {secret_name}, labels: {{app.kubernetes.io/name: photon}}}}",
            f"type: {SECRET_TYPE}",
            f"stringData: {{token: {token}}}",
            "---",
        ]
    lines += [
        "apiVersion: photon.dev/v1alpha1",
        "kind: FederatedTrainingJob",
        f"metadata: {{name: {job}}}",
        "spec:",
        "  join:",
        f"    url: {door.url}   # the hub's door",
        f"    objects: [{_quoted(door.objects)}]   # where models and updates are; nothing else is spoken to",
        f"    hubKey: {door.hub_key}   # compare it by telephone",
    ]
    if token is not None:
        lines.append(f"    invitationSecretRef: {{name: {secret_name}}}")
    if door.bundle:
        lines += ["    caBundle: |   # trusted for the hub's addresses only"]
        lines += [f"      {line}" for line in door.bundle.strip().splitlines()]
    lines += [
        "  participants:",
        f"    - name: {name}",
        "      worker:",
        f"        data: {{uri: {FILL_IN}}}   # output of `photon data prepare`",
        f"        resources: {{cpus: 8, gpus: 1}}   # {FILL_IN}: what this job may use",
    ]
    text = "\n".join(lines) + "\n"
    parse_invitation(text.replace(f"uri: {FILL_IN}", "uri: /data"), name)  # what we send can be read
    return text


def _quoted(text: str) -> str:
    return f'"{text}"'


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text, mode=0o600)
    except OSError as error:
        raise UserError(f"-o {path} cannot be written: {(error.strerror or str(error)).lower()}") from error
