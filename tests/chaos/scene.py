"""What a test disturbs: the object store, the aggregator's process, and the clock that this process reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from photon.api.job import FederatedTrainingJob
from photon.api.placement import StorageSpec
from photon.api.status import JobStatus
from photon.local.object_store import EmbeddedStore
from photon.store.objects import ObjectStore
from tests.aggregator.fake_worker import token_digests
from tests.chaos.clock import Clock

START: Final = "from photon_aggregator.main import main; main()"


class Scene:
    """A store in ``folder`` and the aggregator of one job, as a process that is started again when it dies."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder
        self._embedded = EmbeddedStore(folder / "store", log_path=folder / "store.log")
        self._embedded.start()
        self.storage = StorageSpec(endpoint=self._embedded.endpoint, bucket="photon", prefix=prefix)
        self.keys = (self._embedded.access_key, self._embedded.secret_key)
        self.store = ObjectStore.open(self.storage, access_key=self.keys[0], secret_key=self.keys[1])
        self.store.check(create_bucket=True)
        self.deaths = 0

    def close(self) -> None:
        self._embedded.stop()

    def store_away(self, seconds: float) -> None:
        """Kill the store; start it again, at the same address, after a while."""
        self._embedded.stop()
        time.sleep(seconds)
        self._embedded.start()

    @contextmanager
    def aggregator(self, job: FederatedTrainingJob, *, port: int, clock: Clock | None = None) -> Iterator[Aggregator]:
        running = Aggregator(self, job, port=port, clock=clock)
        try:
            yield running
        finally:
            running.close()


class Aggregator:
    """The process. ``clock``: what its wall clock is ahead by (see clock.py)."""

    def __init__(self, scene: Scene, job: FederatedTrainingJob, *, port: int, clock: Clock | None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.deaths: list[int] = []
        self.log = scene.folder / f"aggregator-{port}.log"
        folder = scene.folder
        names = [participant.name for participant in job.spec.participants]
        document = job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        document |= {"apiVersion": job.api_version, "kind": job.kind}
        (folder / f"job-{port}.yaml").write_text(yaml.safe_dump(document))
        (folder / f"tokens-{port}.json").write_text(json.dumps(token_digests(names)))
        self._command = [sys.executable, "-c", START, "--job", str(folder / f"job-{port}.yaml")]
        self._command += ["--tokens", str(folder / f"tokens-{port}.json"), "--listen", f"127.0.0.1:{port}"]
        self._environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": scene.keys[0],
            "AWS_SECRET_ACCESS_KEY": scene.keys[1],
            "OMP_NUM_THREADS": "1",
        }
        if clock is not None:
            self._environment |= clock.environment
        self._closing = threading.Event()
        self._started = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keep-aggregator")
        self._keeper.start()
        assert self._started.wait(30)

    def _keep(self) -> None:
        while not self._closing.is_set():
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, env=self._environment, stderr=log, stdout=log, start_new_session=True
                )
            self._started.set()
            code = self._process.wait()
            if not self._closing.is_set():
                self.deaths.append(code)
                self._closing.wait(1.0)

    def stopped(self, seconds: float) -> None:
        """Freeze the process for a while, as a laptop that sleeps does."""
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def status(self) -> JobStatus | None:
        """None while it does not answer."""
        try:
            reply = httpx.get(f"{self.url}/v1/status", timeout=5, trust_env=False)
            reply.raise_for_status()
        except httpx.HTTPError:
            return None
        return JobStatus.model_validate_json(reply.content)

    def until(self, holds: Callable[[JobStatus], bool], *, seconds: float) -> JobStatus:
        """Wait until its status says something; at most ``seconds``."""
        deadline = time.monotonic() + seconds
        status: JobStatus | None = None
        while time.monotonic() < deadline:
            status = self.status()
            if status is not None and holds(status):
                return status
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds:g} s; the last status: {status}\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def rss_mib(self) -> float:
        """Peak resident memory of the process that runs now."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the kernel does not tell the peak of resident memory")

    def close(self) -> None:
        self._closing.set()
        self._process.kill()
        self._keeper.join(30)


def ended(status: JobStatus) -> Any:
    """The final condition, or None."""
    return next((c for c in status.conditions if c.type in ("Complete", "Failed") and c.status == "True"), None)
