"""``photon-gate doctor``: the way from here to the hub, a line for each part of it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from photon.api.invitation import read_invitation
from photon.api.join import JoinSpec
from photon.errors import PhotonError
from photon.trust.keys import Identity
from photon_gate.hub.client import HubClient
from photon_gate.hub.errors import HubUnreachable
from photon_gate.hub.exchange import Exchange

# Signatures and sessions need no clock; people who compare logs do.
MAX_SKEW_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``ok``: None where it could not be tried."""

    name: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        word = {True: "ok", False: "failed", None: "-"}[self.ok]
        return f"{word:<7} {self.name:<9} {self.text}"


def examine(job: Path) -> list[Finding]:
    """Look at all of it. Raises UserError: the file is no invitation."""
    invitation = read_invitation(job)
    join = invitation.job.spec.join
    try:
        exchange = Exchange(join)
    except PhotonError as error:
        return [Finding("settings", False, str(error))]
    with exchange:
        findings = [_dns(join, exchange), _proxy(exchange)]
        return findings + _hub(join, exchange, invitation.job.participant)


def _dns(join: JoinSpec, exchange: Exchange) -> Finding:
    name = exchange.proxy.host if exchange.proxy is not None else join.host
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        return Finding("DNS", False, f"{name} is not known here: {error.strerror or error}")
    return Finding("DNS", True, f"{name} is {', '.join(found[:3])}")


def _proxy(exchange: Exchange) -> Finding:
    if exchange.proxy is None:
        return Finding("proxy", True, "none: HTTPS_PROXY is not set, or NO_PROXY names the hub")
    asks = "with credentials" if exchange.proxy.headers else "without credentials"
    return Finding("proxy", True, f"{exchange.proxy} {asks}")


def _hub(join: JoinSpec, exchange: Exchange, participant: str) -> list[Finding]:
    encrypted = join.url.startswith("https")
    client = HubClient(exchange, join, participant=participant, identity=Identity.new())
    try:
        said = client.hello()
    except HubUnreachable as error:
        clock = Finding("clock", None, "was not compared")
        if error.where == "Proxy":
            return [Finding("proxy", False, str(error)), Finding("hub", None, "was not reached"), clock]
        if error.where == "TLS":
            return [Finding("TLS", False, str(error)), Finding("hub", None, "was not reached"), clock]
        return [Finding("hub", False, str(error)), clock]
    except PhotonError as error:
        return [
            Finding("TLS", True, "the hub's name is certified"),
            Finding("hub", False, str(error)),
            Finding("clock", None, "was not compared"),
        ]
    tls = "the hub's name is certified" if encrypted else "not used: this machine"
    known = f"Photon {said.version}, and its key is {client.hub.fingerprint}: compare it by telephone"
    return [Finding("TLS", True, tls), Finding("hub", True, known), _clock(exchange)]


def _clock(exchange: Exchange) -> Finding:
    try:
        answer = exchange.ask("GET", "v1/hello", params={"nonce": "0" * 32})
        there = parsedate_to_datetime(answer.headers.get("date", ""))
    except (PhotonError, ValueError):
        return Finding("clock", None, "the hub does not say its time")
    apart = abs((datetime.now(UTC) - there).total_seconds())
    if apart > MAX_SKEW_SECONDS:
        return Finding("clock", True, f"is {apart:.0f} s from the hub's: nothing depends on it, but logs will differ")
    return Finding("clock", True, "agrees with the hub's")
