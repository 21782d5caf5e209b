"""What the processes of a run are given: the user's environment, less all credentials, plus the secrets of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from photon.launch import Process, SecretSource
from photon.telemetry import traces
from photon.telemetry.trackers import FOLDER_VARIABLE, TRACKERS_VARIABLE

KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"
# What a user sets for all programs of a run, and no credential.
_PASSED_ON: Final = (TRACKERS_VARIABLE, FOLDER_VARIABLE, traces.TRACES_VARIABLE, "AWS_CA_BUNDLE")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Credentials of the object store."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def environment(
    process: Process,
    *,
    keys: Keys | None,
    tokens: Mapping[str, str],
    inherited: Mapping[str, str],
    invitation: str | None = None,
) -> dict[str, str]:
    """The environment of ``process``. ``keys``: None where nothing of the plan opens the bucket."""
    env = {k: v for k, v in inherited.items() if k in _PASSED_ON or not k.startswith(("AWS_", "PHOTON_"))}
    env.update(process.env, **not_proxied(inherited), PYTHONUNBUFFERED="1")
    for secret in process.secret_env:
        match secret.source:
            case SecretSource.STORAGE:
                assert keys is not None, "only who runs rounds opens the bucket"
                known = {KEYS[0]: keys.access_key, KEYS[1]: keys.secret_key, SESSION_TOKEN: keys.session_token}
                if value := known[secret.name]:
                    env[secret.name] = value
            case SecretSource.TOKEN:
                assert process.participant is not None, "only a participant's worker has a token"
                env[secret.name] = tokens[process.participant]
            case SecretSource.INVITATION:
                if invitation is not None:
                    env[secret.name] = invitation
            case SecretSource.DATA:
                env |= {name: inherited[name] for name in (secret.name, SESSION_TOKEN) if name in inherited}
    return env


def not_proxied(inherited: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY, in both spellings, with this machine added: no proxy reaches the loopback of another machine.

    Where only one of the two is set, it counts for both: programs differ in which they read first.
    """
    said = inherited.get("no_proxy") or inherited.get("NO_PROXY") or ""
    hosts = [host for host in (part.strip() for part in said.split(",")) if host]
    value = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
    return {"NO_PROXY": value, "no_proxy": value}
