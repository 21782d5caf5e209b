"""``photon-gate leave``: a signed farewell."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

from photon.api.invitation import read_invitation
from photon.errors import UserError
from photon_gate.hub.client import HubClient
from photon_gate.hub.errors import HubUnreachable
from photon_gate.hub.exchange import Exchange
from photon_gate.keyfile import IdentityFile

# A gate that runs beside opens sessions, too, and the newest one wins.
ATTEMPTS: Final = 8
PAUSE_SECONDS: Final = 1.0


def leave_job(job: Path, identity: Path, reason: str) -> str:
    """Leave; what to tell the person who asked. Raises UserError, HubUnreachable, Contradiction."""
    if re.fullmatch(r"[A-Z][A-Za-z0-9]{0,63}", reason) is None:
        raise UserError(f"--reason {reason}: must be one word such as StudyEnded; free text never leaves")
    invitation, key = read_invitation(job), IdentityFile(identity)
    join, participant = invitation.job.spec.join, invitation.job.participant
    with Exchange(join) as exchange:
        client = HubClient(exchange, join, participant=participant, identity=key.present, previous=key.previous)
        _leave(client, reason)
    return (
        f"{participant} has left {client.job_name} at {join.host}, signed with the key {client.key.fingerprint}.\n"
        "What it handed in stays at the hub: commits with its name, tokens, weight and norm, its manifests, signatures "
        "and evaluations, and its trace in the model.\n"
    )


def _leave(client: HubClient, reason: str) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            client.leave(reason)
            return
        except HubUnreachable as error:
            if error.where != "Session" or attempt == ATTEMPTS:
                raise
        time.sleep(PAUSE_SECONDS)
