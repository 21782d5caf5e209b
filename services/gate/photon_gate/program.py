"""``photon-gate run``: all rooms put together, and the loop around them. Killed at any instant, it starts as it was."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final
from urllib.parse import urlsplit

from photon.api.invitation import Invitation, read_invitation
from photon.api.status import ClusterReason, JobStatus, JoinReason
from photon.errors import UserError
from photon.launch import INVITATION_TOKEN, LISTEN_FD
from photon.policy.document import Policy, load_policy
from photon.policy.verdict import Hub, of_invitation
from photon.protocol.termination import Termination
from photon_gate.clocks import Clocks
from photon_gate.ends import after_error, after_job
from photon_gate.guard.border import Border
from photon_gate.guard.memory import Memory
from photon_gate.guard.standing import Standing
from photon_gate.guard.witness import Witness
from photon_gate.hub.client import HubClient
from photon_gate.hub.errors import Contradiction
from photon_gate.hub.exchange import Exchange, tls_context
from photon_gate.inner.app import create_app
from photon_gate.inner.bounds import Tokens
from photon_gate.inner.server import Server, bind, parse_address
from photon_gate.inner.status import Conditions, status_of
from photon_gate.keyfile import IdentityFile
from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import Direction, What
from photon_gate.membership import Membership
from photon_gate.recording import Recording, left_before
from photon_gate.relay.grants import Grants
from photon_gate.relay.server import Relay

log = logging.getLogger(__name__)

LEDGER: Final = "ledger"
# How long the worker may take to read that the job has ended; and a launcher the last status.
LEAVE_SECONDS: Final = 10.0
SEEN_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``photon-gate run`` is given."""

    job: Path
    identity: Path
    policy: Path | None
    listen: str
    relay_listen: str
    relay_url: str
    tokens: Path
    work_dir: Path
    stop_when_done: bool


def run(options: Options) -> Termination:
    """Until the job has ended, or the gate must; how. Raises UserError for a mistake in what it was given."""
    with ExitStack() as stack:
        gate = assemble(options, stack)
        log.info("workers reach the gate on %s, the relay on %s", options.listen, options.relay_listen)
        return _loop(gate.membership, gate.standing, gate.status, stop_when_done=options.stop_when_done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One that serves its worker. The hub is asked by ``membership.step``."""

    membership: Membership
    border: Border
    standing: Standing
    status: Callable[[], JobStatus]
    server: Server


def assemble(options: Options, stack: ExitStack, clocks: Clocks | None = None) -> Gate:
    """Read what was given, open what is needed until ``stack`` ends, and serve. Raises UserError, Contradiction."""
    clocks = clocks or Clocks()
    invitation = read_invitation(options.job)
    identity = IdentityFile(options.identity)
    policy = load_policy(options.policy) if options.policy is not None else Policy()
    join, participant = invitation.job.spec.join, invitation.job.participant
    refuse_by_policy(policy, invitation)
    relay_url = checked_relay_url(options.relay_url)
    tokens = Tokens.read(options.tokens, participant)
    folder = options.work_dir / LEDGER
    standing = Standing(now=clocks.now)
    try:
        options.work_dir.mkdir(parents=True, exist_ok=True)
        memory = Memory(options.work_dir)
    except OSError as error:
        raise UserError(f"--work-dir {options.work_dir}: {error.strerror or error}") from error
    ledger = stack.enter_context(Ledger(folder, now=clocks.date))
    context = tls_context(join) if join.url.startswith("https") or join.ca_bundle else None
    exchange = stack.enter_context(Exchange(join, context=context))
    token = invitation.token or os.environ.get(INVITATION_TOKEN) or None
    client = HubClient(
        exchange,
        join,
        participant=participant,
        identity=identity.present,
        token=token,
        clock=clocks.steady,
        previous=identity.previous,
        known=memory.keys[-1] if memory.keys else None,
    )
    client.job = memory.job
    grants = Grants([join.origin, *join.objects], clock=clocks.steady)
    training = memory.training
    left = left_before(folder, training.round) if training is not None else set()
    recording = Recording(ledger, left, standing.crossed)
    witness = Witness(
        client=client,
        memory=memory,
        record=lambda envelope: ledger.append(
            What(direction=Direction.OUT, kind="Log", decision="Signed", envelope=envelope)
        ),
    )
    client.log_seen = lambda: memory.log[0]
    border = Border(
        client=client,
        memory=memory,
        policy=policy,
        ledger=ledger,
        grants=grants,
        standing=standing,
        relay_url=relay_url,
        sent=left,
        witness=witness,
        steady=clocks.steady,
    )
    bound = bind(options.listen, "--listen", inherited=os.environ.get(LISTEN_FD))
    host, port = parse_address(options.relay_listen, "--relay-listen")
    try:
        relay = Relay(
            grants, host=host, port=port, on_passed=recording.passed, on_leaving=recording.leaving, context=context
        )
    except OSError as error:
        raise UserError(f"--relay-listen {options.relay_listen}: {error.strerror or error}") from error
    stack.enter_context(relay)
    server = Server(create_app(border, tokens, job=invitation.job.metadata.name), bound)
    server.start()
    stack.callback(server.close)
    conditions = Conditions()
    membership = Membership(
        client=client,
        memory=memory,
        policy=policy,
        ledger=ledger,
        border=border,
        standing=standing,
        identity=identity,
    )
    client.on_rotating, client.on_rotated = membership.rotating, membership.rotated
    return Gate(
        membership=membership,
        border=border,
        standing=standing,
        status=lambda: status_of(standing, conditions, participant=participant, key=client.key),
        server=server,
    )


def _loop(
    membership: Membership, standing: Standing, status: Callable[[], JobStatus], *, stop_when_done: bool
) -> Termination:
    """Step by step, until the end or a signal."""
    stopped: list[int] = []

    def on_signal(number: int, _: object) -> None:
        stopped.append(number)
        standing.wake.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    while not stopped and standing.failure is None and standing.finish is None:
        try:
            pause = membership.step()
        except Exception as error:  # whatever it is, the record says so
            if not isinstance(error, Contradiction):
                log.exception("the gate cannot go on")
            standing.fails(error)
            break
        standing.wake.wait(pause)
        standing.wake.clear()
    if standing.failure is not None:
        failure = standing.failure
        standing.is_at(getattr(failure, "reason", ClusterReason.PROGRAM_FAILED).value, str(failure))
        _pause(stopped, SEEN_SECONDS)
        return after_error(failure, status())
    if standing.finish is not None:
        if stop_when_done:
            _pause(stopped, LEAVE_SECONDS, until=lambda: standing.finish_read)
            _pause(stopped, SEEN_SECONDS)
        else:
            _pause(stopped, float("inf"))
        return after_job(standing.finish, status())
    return Termination.of("Interrupted", "it was asked to end", 128 + stopped[0])


def _pause(stopped: list[int], seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    deadline, tick = time.monotonic() + seconds, Event()
    while not stopped and not until() and time.monotonic() < deadline:
        tick.wait(0.05)


def refuse_by_policy(policy: Policy, invitation: Invitation) -> None:
    """Raises Contradiction: the policy allows no such hub or job; nothing was asked of it yet."""
    join, metadata = invitation.job.spec.join, invitation.job.metadata
    hub = Hub(key_id=join.hub_key_id, host=join.host)
    refusals = of_invitation(policy, hub, name=metadata.name, namespace=metadata.namespace or "")
    if refusals:
        raise Contradiction(JoinReason.POLICY_REFUSED, "; ".join(map(str, refusals)))


def checked_relay_url(text: str) -> str:
    """Raises UserError: no address of the relay."""
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:
        right = False
    if not right or parts.query or parts.fragment or "@" in parts.netloc:
        raise UserError(f"--relay-url {text}: needs http://HOST:PORT, as workers reach --relay-listen")
    return text.rstrip("/")
