"""A hub with a door, in the test's process: who is invited, and where the door is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from photon.api.access import AccessEntry, AccessFile, InvitationRecord, read_access, write_access
from photon.api.job import FederatedTrainingJob
from photon.protocol.border import job_name
from photon.protocol.canonical import sha256_hex
from photon.store.objects import ObjectStore
from photon.trust.keys import Identity
from photon_aggregator.engine import Engine
from photon_aggregator.http.border.app import Border
from photon_aggregator.http.server import DoorServer, listen
from tests.aggregator.running import Aggregator


@dataclass
class Hub:
    """What outlives an aggregator: its key, access.json, the door's address. ``remote``: who joins."""

    folder: Path
    job: FederatedTrainingJob
    store: ObjectStore
    remote: list[str]
    identity: Identity = field(default_factory=Identity.new)
    tokens: dict[str, str] = field(default_factory=dict)
    linger_seconds: float = 5.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.access = self.folder / "access.json"
        self.bound = listen("127.0.0.1:0")
        self.origin = f"http://127.0.0.1:{self.bound.getsockname()[1]}"
        self.url = f"{self.origin}/jobs/{job_name(self.job)}"

    def invite(self, name: str, **fields: Any) -> str:
        """The token of a new invitation; ``valid``: seconds."""
        token = f"phi_{''.join(secrets.choice('abcdefgh234567') for _ in range(8))}.{secrets.token_urlsafe(32)}"
        expires = int(time.time()) + fields.pop("valid", 600)
        held = InvitationRecord(id=token[4:12], sha256=sha256_hex(token.encode()), expires=expires)
        self.change(name, invitation=held, **fields)
        return token

    def change(self, name: str, **fields: Any) -> None:
        """Change what the administrator wishes of a participant."""
        file = read_access(self.access)
        entry = file.participants.get(name, AccessEntry())
        changed = AccessEntry.model_validate({**entry.model_dump(), **fields})
        write_access(self.access, AccessFile(participants={**file.participants, name: changed}))

    def door(self, engine: Engine, app: FastAPI) -> DoorServer:
        border = Border(
            engine=engine,
            status=app.state.status,
            identity=self.identity,
            access=self.access,
            outside=self.store,
            registry=app.state.registry,
            clock=self.clock,
        )
        return DoorServer(border=border, bound=self.bound.dup(), linger_seconds=self.linger_seconds)

    @contextmanager
    def running(self, **options: Any) -> Iterator[Aggregator]:
        """An aggregator with the door open."""
        settings = {"remote": frozenset(self.remote), **options.pop("settings", {})}
        running = Aggregator(self.job, self.store, door=self.door, settings=settings, **options).start()
        try:
            yield running
        finally:
            running.close()

    def close(self) -> None:
        self.bound.close()
