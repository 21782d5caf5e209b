"""An institution in a test: its key, its invitation, its policy, and its gate in the test's process."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from photon.launch import INVITATION_TOKEN
from photon.protocol.canonical import sha256_hex
from photon.trust.keys import Identity, create_identity
from photon_gate.clocks import Clocks
from photon_gate.ledger.entries import Entry
from photon_gate.ledger.verify import read_ledger
from photon_gate.program import Gate, Options, assemble

# A job of a few parameters passes only a policy that says so.
POLICY = {"minCohort": 1, "minTokensPerUpdate": 0}
WORKER_TOKEN = "the worker's token"
HEADERS = {"Authorization": f"Bearer {WORKER_TOKEN}"}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@dataclass
class Institution:
    """``url``, ``objects``, ``hub_key``: of its invitation."""

    folder: Path
    url: str
    objects: list[str]
    hub_key: str
    name: str = "north"
    token: str | None = None
    policy: dict[str, object] = field(default_factory=lambda: dict(POLICY))
    ca_bundle: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.listen, self.relay = free_port(), free_port()
        self.identity: Identity = create_identity(self.folder / "identity.pem")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listen}"

    def options(self) -> Options:
        """Its files, as they are now wanted."""
        join: dict[str, object] = {"url": self.url, "objects": self.objects, "hubKey": self.hub_key}
        if self.ca_bundle:
            join["caBundle"] = self.ca_bundle
        job = {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": "radiology"},
            "spec": {"join": join, "participants": [{"name": self.name, "worker": {"data": {"uri": "data"}}}]},
        }
        (self.folder / "job.yaml").write_text(yaml.safe_dump(job))
        (self.folder / "policy.yaml").write_text(yaml.safe_dump(self.policy))
        (self.folder / "tokens.json").write_text(json.dumps({self.name: sha256_hex(WORKER_TOKEN.encode())}))
        return Options(
            job=self.folder / "job.yaml",
            identity=self.folder / "identity.pem",
            policy=self.folder / "policy.yaml",
            listen=f"127.0.0.1:{self.listen}",
            relay_listen=f"127.0.0.1:{self.relay}",
            relay_url=f"http://127.0.0.1:{self.relay}",
            tokens=self.folder / "tokens.json",
            work_dir=self.folder / "gate",
            stop_when_done=True,
        )

    def command(self) -> list[str]:
        """``photon-gate run`` with these files."""
        options = self.options()
        named = {
            "--job": options.job,
            "--identity": options.identity,
            "--policy": options.policy,
            "--listen": options.listen,
            "--relay-listen": options.relay_listen,
            "--relay-url": options.relay_url,
            "--tokens": options.tokens,
            "--work-dir": options.work_dir,
        }
        return ["run", *(str(word) for pair in named.items() for word in pair), "--stop-when-done"]

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.token is None else {INVITATION_TOKEN: self.token}

    @contextmanager
    def gate(self, clocks: Clocks | None = None) -> Iterator[Gate]:
        """A gate that serves; the test takes its steps."""
        with ExitStack() as stack:
            made = assemble(self.options(), stack, clocks)
            made.border.client._token = self.token
            yield made

    @contextmanager
    def running(self, clocks: Clocks | None = None) -> Iterator[Gate]:
        """A gate that takes its steps by itself; pauses are as ``clocks`` measure them."""
        stop = threading.Event()
        with self.gate(clocks) as gate:

            def pause(seconds: float) -> None:
                if clocks is None:
                    stop.wait(min(seconds, 0.1))
                    return
                until = clocks.steady() + seconds
                while clocks.steady() < until and not stop.is_set() and not gate.standing.wake.wait(0.01):
                    pass
                gate.standing.wake.clear()

            def go() -> None:
                while not stop.is_set() and gate.standing.finish is None and gate.standing.failure is None:
                    try:
                        pause(gate.membership.step())
                    except Exception as error:
                        gate.standing.fails(error)

            thread = threading.Thread(target=go, name="gate")
            thread.start()
            try:
                yield gate
            finally:
                stop.set()
                thread.join()

    def entries(self) -> list[Entry]:
        """What its ledger holds."""
        lines = list(read_ledger(self.folder / "gate" / "ledger"))
        assert not any(line.problem for line in lines)
        return [line.entry for line in lines if line.entry is not None]
