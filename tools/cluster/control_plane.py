"""etcd, API server, controllers and scheduler: their command lines, and a control plane on this machine's loopback.

The command lines are pure and serve both levels: here as children of this process (no root, ready in seconds, no
pods), in :mod:`tools.cluster.launcher` inside network namespaces, with nodes on which pods run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tools.cluster.kube import Kube
from tools.cluster.pki import Pki
from tools.cluster.processes import end, free_ports, start, until
from tools.cluster.programs import program

SERVICE_NETWORK: Final = "10.96.0.0/16"
SERVICE_ADDRESS: Final = "10.96.0.1"
READY_SECONDS: Final = 90.0
STARTS: Final = 3

# Nothing here assigns addresses, signs certificates or attaches volumes.
_NO_CONTROLLERS: Final = (
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "node-ipam-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "persistentvolume-attach-detach-controller",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command lines depend on. ``advertise``: the address at which pods find the API server, if any do.
    ``audit``: each request is written down, without its body."""

    pki: Pki
    data: Path
    api_port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    advertise: str | None = None
    kubeconfigs: Path
    audit: bool = False

    @property
    def audit_log(self) -> Path:
        return self.kubeconfigs / "audit.jsonl"

    def etcd(self) -> list[str]:
        """It keeps nothing that outlives the cluster, so it need not wait for the disk."""
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        return [
            *("--data-dir", str(self.data), "--unsafe-no-fsync", "--log-level=warn"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ),
        ]

    def api_server(self) -> list[str]:
        """RBAC and node restriction as in a real cluster."""
        at = self.pki.path
        if self.advertise is None:
            reach = ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]
        else:
            reach = [f"--advertise-address={self.advertise}"]
        return [
            *reach,
            *(self._audit() if self.audit else []),
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.api_port}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            f"--tls-cert-file={at('apiserver.crt')}",
            f"--tls-private-key-file={at('apiserver.key')}",
            f"--client-ca-file={at('ca.crt')}",
            f"--service-account-key-file={at('sa.pub')}",
            f"--service-account-signing-key-file={at('sa.key')}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--profiling=false",
            f"--kubelet-client-certificate={at('kubelet-client.crt')}",
            f"--kubelet-client-key={at('kubelet-client.key')}",
            f"--kubelet-certificate-authority={at('ca.crt')}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={at('ca.crt')}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={at('front-proxy.crt')}",
            f"--proxy-client-key-file={at('front-proxy.key')}",
        ]

    def _audit(self) -> list[str]:
        policy = self.kubeconfigs / "audit-policy.json"
        rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
        policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        return [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}"]

    def controllers(self) -> list[str]:
        """With the default request rate the first service account would take seven seconds."""
        return [
            f"--kubeconfig={self.kubeconfigs / 'admin.kubeconfig'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
            "--controllers=*," + ",".join(f"-{name}" for name in _NO_CONTROLLERS),
            f"--root-ca-file={self.pki.path('ca.crt')}",
            f"--service-account-private-key-file={self.pki.path('sa.key')}",
            "--use-service-account-credentials=false",
            # A node that is gone is noticed in seconds: tests wait for it.
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=8s",
        ]

    def scheduler(self) -> list[str]:
        """Defaults."""
        return [
            f"--kubeconfig={self.kubeconfigs / 'scheduler.kubeconfig'}",
            *("--leader-elect=false", "--secure-port=0", "--kube-api-qps=1000", "--kube-api-burst=2000"),
        ]


class ControlPlane:
    """A control plane without nodes on 127.0.0.1, for one ``with`` block; gone with this process however that ends."""

    def __init__(self, *, audit: bool = False) -> None:
        self._audit = audit
        self._settings: Settings | None = None
        self._folder: Path | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments: dict[str, list[str]] = {}

    def start(self) -> Kube:
        """Return when the API server answers and the controllers have begun."""
        self._folder = Path(tempfile.mkdtemp(prefix="photon-control-plane-"))
        pki = Pki(folder=self._folder / "pki")
        pki.make(api_names=[f"IP:{SERVICE_ADDRESS}"], nodes={})
        # A port that was free may be taken a moment later: then the program ends, and other ports are tried.
        for attempt in range(STARTS):
            try:
                return self._start(pki, attempt)
            except _EndedError:
                self._end_all()
        raise RuntimeError(f"the control plane did not start in {STARTS} attempts; its logs are in {self._folder}")

    def _start(self, pki: Pki, attempt: int) -> Kube:
        assert self._folder is not None
        api, etcd, peer = free_ports(3)
        settings = Settings(
            pki=pki,
            data=self._folder / f"etcd-{attempt}",
            api_port=api,
            etcd_port=etcd,
            etcd_peer_port=peer,
            kubeconfigs=self._folder,
            audit=self._audit,
        )
        self._settings = settings
        for who in ("admin", "scheduler"):
            pki.kubeconfig(who, f"https://127.0.0.1:{api}", self._folder / f"{who}.kubeconfig")
        kube = self.kube
        self._launch("etcd", settings.etcd())
        self._launch("kube-apiserver", settings.api_server())
        self._until(kube.ready, "API server")
        self._launch("kube-controller-manager", settings.controllers())
        self._launch("kube-scheduler", settings.scheduler())
        self._until(lambda: kube.exists("serviceaccount/default", namespace="default"), "the controllers")
        return kube

    @property
    def kube(self) -> Kube:
        """With all rights."""
        if self._folder is None:
            raise RuntimeError("the control plane is not started")
        return Kube(kubeconfig=self._folder / "admin.kubeconfig")

    def audited(self) -> Iterator[dict[str, Any]]:
        """The requests so far, as audit.k8s.io/v1 Events; of a control plane with ``audit``."""
        assert self._settings is not None
        with self._settings.audit_log.open() as log:
            yield from map(json.loads, log)

    def restart(self, name: str) -> None:
        """kill -9 ``name`` and start it again; returns when the API server answers."""
        end(self._processes[name])
        self._launch(name, self._arguments[name])
        self._until(self.kube.ready, "API server")
        self.kube.until_all_served()

    def stop(self) -> None:
        """End all and remove what they wrote."""
        self._end_all()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, name: str, arguments: list[str]) -> None:
        assert self._folder is not None
        log = self._folder / "log" / f"{name}.log"
        self._arguments[name] = arguments
        self._processes[name] = start([program(name), *arguments], log=log, tied=True)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        def alive_and_holds() -> bool:
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended:
                raise _EndedError(", ".join(ended))
            return holds()

        until(alive_and_holds, what, seconds=READY_SECONDS, logs=self._folder)

    def _end_all(self) -> None:
        for process in self._processes.values():
            end(process)
        self._processes.clear()


class _EndedError(Exception):
    """One of the programs ended when it should run."""
