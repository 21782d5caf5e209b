"""The Prometheus operator beside a cluster: it makes a configuration of ServiceMonitors, PodMonitors and rules.

Its pods are not run (their image is not ours to build): the Prometheus resource has no replicas, and the test's own
Prometheus runs what the operator wrote for them.
"""

from __future__ import annotations

import base64
import gzip
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tools.cluster.kube import Kube
from tools.cluster.processes import end, free_ports, start, until
from tools.cluster.programs import PROMETHEUS_OPERATOR, PROMETHEUS_VERSION, module_file, program

GROUP: Final = "monitoring.coreos.com"
# Those that it requires even if they are not used.
KINDS: Final = ("prometheuses", "servicemonitors", "podmonitors", "probes", "prometheusrules")
NAME: Final = "test"
# What a pod's own program (the reloader) would fill in.
POD: Final = {"POD_NAME": f"prometheus-{NAME}-0", "SHARD": "0"}
READY_SECONDS: Final = 120.0


@contextmanager
def definitions(kube: Kube) -> Iterator[None]:
    """The operator's CRDs; those that were not there before go again."""
    there = {kind for kind in KINDS if kube.exists(f"crd/{kind}.{GROUP}")}
    missing = [kind for kind in KINDS if kind not in there]
    try:
        for kind in missing:
            path = module_file(PROMETHEUS_OPERATOR, f"example/prometheus-operator-crd/{GROUP}_{kind}.yaml")
            kube.apply_file(path)
        for kind in missing:
            kube.until_served(f"{kind}.{GROUP}")
        yield
    finally:
        for kind in missing:
            kube.run("delete", f"crd/{kind}.{GROUP}", "--wait=false")


class Monitoring:
    """One operator for one namespace, and what it wrote."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        self._kube, self._folder = kube, folder
        self._log = folder / "log"

    @contextmanager
    def running(self, *, labels: dict[str, str]) -> Iterator[None]:
        """For a Prometheus that selects monitors and rules by ``labels``."""
        self._kube.apply(
            {
                "apiVersion": f"{GROUP}/v1",
                "kind": "Prometheus",
                "metadata": {"name": NAME},
                "spec": {
                    "replicas": 0,
                    "version": f"v{PROMETHEUS_VERSION}",
                    "evaluationInterval": "1s",
                    "serviceMonitorSelector": {"matchLabels": labels},
                    "podMonitorSelector": {"matchLabels": labels},
                    "ruleSelector": {"matchLabels": labels},
                },
            }
        )
        process = self._start()
        try:
            yield
        finally:
            end(process)
            self._kube.run("delete", f"prometheus/{NAME}", "--wait=false")

    def _start(self) -> subprocess.Popen[bytes]:
        (port,) = free_ports(1)
        command: list[str | Path] = [
            *("env", f"KUBECONFIG={self._kube.kubeconfig}", program(PROMETHEUS_OPERATOR)),
            *(f"--namespaces={self._kube.namespace}", f"--web.listen-address=127.0.0.1:{port}"),
        ]
        return start(command, log=self._log / f"{PROMETHEUS_OPERATOR}.log", tied=True)

    def configuration(self, *, kubeconfig: Path, scrapes: int, rules: int) -> dict[str, Any]:
        """What it wrote, once that has ``scrapes`` scrapes and ``rules`` rule files. ``kubeconfig`` finds targets."""

        def written() -> bool:
            return len(self._scrapes().get("scrape_configs", ())) == scrapes and len(self._rules()) == rules

        until(written, f"the configuration with {scrapes} scrapes", seconds=READY_SECONDS, logs=self._log)
        found = self._scrapes()
        for scrape in found["scrape_configs"]:
            for discovery in scrape["kubernetes_sd_configs"]:
                discovery["kubeconfig_file"] = str(kubeconfig)
        found["rule_files"] = []
        for name, text in self._rules().items():
            path = self._folder / name
            path.write_text(text)
            found["rule_files"].append(str(path))
        return found

    def _scrapes(self) -> dict[str, Any]:
        name = f"secret/prometheus-{NAME}"
        if not self._kube.exists(name):
            return {}
        packed = self._kube.get(name)["data"]["prometheus.yaml.gz"]
        text = gzip.decompress(base64.b64decode(packed)).decode()
        for variable, value in POD.items():
            text = text.replace(f"$({variable})", value)
        document: dict[str, Any] = yaml.safe_load(text) or {}
        return document

    def _rules(self) -> dict[str, str]:
        name = f"configmap/prometheus-{NAME}-rulefiles-0"
        found: dict[str, str] = self._kube.get(name).get("data", {}) if self._kube.exists(name) else {}
        return found
