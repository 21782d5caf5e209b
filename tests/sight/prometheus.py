"""A real Prometheus, started for a test: what it scrapes, and what it answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from photon.cli.run import free_port

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


class Prometheus:
    """A Prometheus of this test alone; it ends with the ``with`` block."""

    def __init__(self, folder: Path, *, targets: Sequence[Target], rules: Sequence[Path] = ()) -> None:
        self._folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = {
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
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        self._command = [
            program("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Self:
        self._log = (self._folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=subprocess.STDOUT)
        self.until(lambda: bool(self.query("up == 1")), "nothing was scraped")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.close()

    def until(self, holds: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
        """Wait until ``holds``, or fail."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except httpx.TransportError:
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
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30, trust_env=False)
        document = reply.json()
        assert document["status"] == "success", document
        data: dict[str, Any] = document["data"]
        return data
