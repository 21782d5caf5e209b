"""A real Prometheus, started for a test: what it scrapes, and what it answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tools.cluster.processes import free_ports

SCRAPE_SECONDS = 1


def program(name: str) -> str:
    """prometheus or promtool; the test is skipped where they are not installed, but in CI it fails."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed: `make test-sight` installs Debian's, or see prometheus.io/download"
        (pytest.fail if os.environ.get("PHOTON_TEST_REQUIRE") else pytest.skip)(missing)
    return found


@dataclass(frozen=True)
class Target:
    """Something with /metrics."""

    name: str
    url: str


def scraping(targets: Sequence[Target], *, rules: Sequence[Path] = ()) -> dict[str, Any]:
    """A configuration that scrapes ``targets`` and watches ``rules``."""
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [
            {
                "job_name": target.name,
                # The label `job` of our series is the name of the federated job and stays.
                "honor_labels": True,
                "static_configs": [{"targets": [urlsplit(target.url).netloc]}],
            }
            for target in targets
        ],
    }


class NotReadyError(Exception):
    """It has started and does not answer questions yet."""


class Prometheus:
    """A Prometheus of this test alone; it ends with the ``with`` block.

    ``executable``: default the one that is installed. ``network``: the process in whose network namespace it runs; then
    it is asked through a socket in ``folder``.
    """

    def __init__(
        self,
        folder: Path,
        configuration: dict[str, Any],
        *,
        executable: Path | None = None,
        network: int | None = None,
    ) -> None:
        self._folder, self._network = folder, network
        (self._port,) = free_ports(1)
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(configuration))
        self._command = [
            str(executable or program("prometheus")),
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._log = stack.enter_context((self._folder / "prometheus.log").open("wb"))
            self._process = self._start(stack, self._command)
            transport = httpx.HTTPTransport()
            if self._network is not None:
                socket = self._folder / "socket"
                self._start(stack, ["socat", f"UNIX-LISTEN:{socket},fork", f"TCP:127.0.0.1:{self._port}"])
                transport = httpx.HTTPTransport(uds=str(socket))
            address = f"http://127.0.0.1:{self._port}/api/v1/"
            self._client = stack.enter_context(
                httpx.Client(base_url=address, transport=transport, timeout=30, trust_env=False)
            )
            self.until(lambda: bool(self.query("up == 1")), "nothing was scraped")
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack, command: list[str]) -> subprocess.Popen[bytes]:
        inside = ["nsenter", "--target", str(self._network), "--net", "--"] if self._network is not None else []
        process = subprocess.Popen([*inside, *command], stdout=self._log, stderr=subprocess.STDOUT)

        def end() -> None:
            process.terminate()
            process.wait(timeout=60)

        stack.callback(end)
        return process

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def until(self, holds: Callable[[], bool], otherwise: str, seconds: float = 120) -> None:
        """Wait until ``holds``, or fail."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except (httpx.TransportError, NotReadyError):
                assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, f"{otherwise}: {(self._folder / 'prometheus.log').read_text()}"
            time.sleep(0.2)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        return self._result("query", query=expr)

    def query_range(self, expr: str, *, seconds: float) -> list[dict[str, Any]]:
        """The series of ``expr`` in the last ``seconds``."""
        now = time.time()
        return self._result("query_range", query=expr, start=now - seconds, end=now, step=SCRAPE_SECONDS)

    def rules(self) -> list[dict[str, Any]]:
        """All rules that are loaded, with their state and health."""
        data = self._get("rules")
        return [rule for group in data["groups"] for rule in group["rules"]]

    def _result(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get(path, **parameters)["result"]
        return found

    def _get(self, path: str, **parameters: Any) -> dict[str, Any]:
        reply = self._client.get(path, params=parameters)
        if reply.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # it reads its log first
            raise NotReadyError
        document = reply.json()
        assert document["status"] == "success", document
        data: dict[str, Any] = document["data"]
        return data
