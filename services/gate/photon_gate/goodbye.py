"""``photon-gate leave``: a signed farewell."""

from __future__ import annotations

import re
from pathlib import Path

from photon.api.invitation import read_invitation
from photon.errors import UserError
from photon.trust.keys import read_identity
from photon_gate.hub.client import HubClient
from photon_gate.hub.exchange import Exchange


def leave_job(job: Path, identity: Path, reason: str) -> str:
    """Leave; what to tell the person who asked. Raises UserError, HubUnreachable, Contradiction."""
    if re.fullmatch(r"[A-Z][A-Za-z0-9]{0,63}", reason) is None:
        raise UserError(f"--reason {reason}: must be one word such as StudyEnded; free text never leaves")
    invitation, key = read_invitation(job), read_identity(identity)
    join, participant = invitation.job.spec.join, invitation.job.participant
    with Exchange(join) as exchange:
        client = HubClient(exchange, join, participant=participant, identity=key)
        client.leave(reason)
    return (
        f"{participant} has left {client.job_name} at {join.host}, signed with the key {key.key.fingerprint}.\n"
        "What it handed in stays at the hub: commits with its name, tokens, weight and norm, its manifests, signatures "
        "and evaluations, and its trace in the model.\n"
    )
