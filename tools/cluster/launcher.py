"""A whole cluster on this machine: a control plane and nodes on which pods run, in namespaces of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tools.cluster import network
from tools.cluster.archive import pause_archive
from tools.cluster.control_plane import SERVICE_ADDRESS, Settings
from tools.cluster.fetched import FETCHED, cache
from tools.cluster.kube import Kube
from tools.cluster.machine import Machine, pause_program
from tools.cluster.node import IMPORT_SECONDS, Node, cni_folder
from tools.cluster.pki import Pki
from tools.cluster.processes import free_ports, start, until
from tools.cluster.programs import CONTROL_PLANE, NODE, program

READY_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 1.0
# For claims of all tests: one that was bound once is not bound again.
# Each is used once: a claim that goes leaves its disk behind, and a worker has a claim.
DISKS: Final = 100
STORAGE_CLASS: Final = "disks"
_NEEDED: Final = ("unshare", "nsenter", "ip", "iptables", "conntrack", "socat", "openssl", "containerd", "runc", "gcc")
# The longest path of a Unix socket, less what we append to a cluster's folder.
_LONGEST_FOLDER: Final = 80


def why_no_pods() -> str | None:
    """Why pods cannot run on this machine; None when they can."""
    if os.geteuid() != 0:
        return "pods need root: namespaces, mounts and control groups"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"pods need {', '.join(missing)}: install the packages in tools/cluster/packages.txt"
    if cni_folder() is None:
        return "pods need the network plugins: install the packages in tools/cluster/packages.txt"
    probe = ["unshare", "--net", "--mount", "--pid", "--fork", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else None


class Cluster:
    """The cluster ``name``; its folder says whether it runs, so another process may look after it."""

    def __init__(self, name: str = "photon") -> None:
        self.name = name
        self.folder = cache() / "run" / name
        self.gateway = Machine(self.folder / "control-plane")
        self._pki = Pki(folder=self.folder / "pki")

    @property
    def nodes(self) -> list[Node]:
        """In the order of their numbers."""
        return sorted((Node(path) for path in self.folder.glob("node*/")), key=lambda node: node.number)

    @property
    def kube(self) -> Kube:
        """With all rights."""
        return Kube(kubeconfig=self.folder / "admin.kubeconfig")

    @property
    def running(self) -> bool:
        """Whether it is up and answers."""
        return self.gateway.alive and self.kube.kubeconfig.exists() and self.kube.ready()

    def up(self, *, nodes: int = 1, tied: bool = False) -> None:
        """Return when all nodes are ready; ``tied``: it ends with this process. Ends one of the same name first."""
        for name in (*CONTROL_PLANE, *NODE, *FETCHED):
            program(name)
        if len(str(self.folder)) > _LONGEST_FOLDER:
            raise RuntimeError(f"{self.folder}: too long a path for sockets; set PHOTON_CLUSTER_CACHE to a shorter one")
        self.down()
        self.folder.mkdir(parents=True, mode=0o755)
        addresses = {f"node{n}": network.node_address(n) for n in range(1, nodes + 1)}
        self._pki.make(api_names=[f"IP:{SERVICE_ADDRESS}", f"IP:{network.GATEWAY}"], nodes=addresses)
        self._start_control_plane(tied=tied)
        machines = [Node(self.folder / name) for name in addresses]
        for node in machines:
            node.create(tied=tied)
            network.plug(self.gateway, node, node.number, nodes)
            node.prepare()
            node.start_containerd()
            _import(node, pause_archive(pause_program()))
        self._until(self.kube.ready, "the API server")
        self._start_controllers()
        for node in machines:
            node.start_kubelet(self._pki, self.folder / "inside")
        self._start_dns()
        self._make_disks(machines)
        self._until(lambda: self._ready_nodes() == nodes, "the nodes")
        self._until(lambda: self.kube.exists("serviceaccount/default", namespace="default"), "the controllers")

    def down(self) -> None:
        """End everything; nothing is left but the images."""
        machines: list[Machine] = [*self.nodes, self.gateway]
        for machine in machines:
            machine.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self, name: str, *, node: int = 1) -> None:
        """kill -9 a program of the control plane or of a node, and start it again; waits until the API answers."""
        at_node = name in ("kubelet", "kube-proxy", "containerd")
        machine: Machine = Node(self.folder / f"node{node}") if at_node else self.gateway
        machine.stop(name)

        def works() -> bool:  # one that ends by itself is started again, as everywhere
            if not machine.pids(name):
                machine.start_again(name)
                time.sleep(SETTLE_SECONDS)
            return self.kube.ready()

        self._until(works, "the API server")
        self.kube.until_all_served()

    def load(self, *archives: bytes) -> None:
        """Import image archives into every node."""
        for node in self.nodes:
            for archive in archives:
                _import(node, archive)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _start_control_plane(self, *, tied: bool) -> None:
        self.gateway.create(tied=tied)
        network.prepare_gateway(self.gateway)
        (self.folder / "etcd").mkdir()
        self.gateway.run(f"mount -t tmpfs tmpfs {self.folder}/etcd")
        (port,) = free_ports(1)
        self._pki.kubeconfig("admin", f"https://127.0.0.1:{port}", self.folder / "admin.kubeconfig")
        inside = self.folder / "inside"
        inside.mkdir(mode=0o700)
        for who in ("admin", "scheduler", "dns"):
            self._pki.kubeconfig(who, "https://127.0.0.1:6443", inside / f"{who}.kubeconfig")
        self._pki.kubeconfig("proxy", f"https://{network.GATEWAY}:6443", inside / "proxy.kubeconfig")
        settings = self._settings()
        self.gateway.start("etcd", [program("etcd"), *settings.etcd()])
        self.gateway.start("kube-apiserver", [program("kube-apiserver"), *settings.api_server()])
        # The API server on the host's loopback, without a link into the host's network.
        socket = self.folder / "api.sock"
        self.gateway.start("api-inside", ["socat", f"UNIX-LISTEN:{socket},fork", "TCP:127.0.0.1:6443"])
        listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
        # In the machine's pid namespace only: it listens on the host and yet ends with the machine.
        only_pid = ["nsenter", "--target", str(self.gateway.pid), "--pid", "--"]
        log = self.gateway.folder / "log" / "api-outside.log"
        start([*only_pid, "socat", listen, f"UNIX-CONNECT:{socket},retry=100,interval=0.1"], log=log)

    def _settings(self) -> Settings:
        return Settings(
            pki=self._pki,
            data=self.folder / "etcd" / "data",
            advertise=network.GATEWAY,
            kubeconfigs=self.folder / "inside",
        )

    def _start_controllers(self) -> None:
        settings = self._settings()
        self.gateway.start("kube-controller-manager", [program("kube-controller-manager"), *settings.controllers()])
        self.gateway.start("kube-scheduler", [program("kube-scheduler"), *settings.scheduler()])

    def _start_dns(self) -> None:
        corefile = self.folder / "Corefile"
        corefile.write_text(
            f""".:53 {{
    bind {network.GATEWAY}
    errors
    kubernetes cluster.local {{
        kubeconfig {self.folder}/inside/dns.kubeconfig
        ttl 1
    }}
}}
"""
        )
        self.kube.apply(*_dns_objects())
        self.gateway.start("coredns", [program("coredns"), "-conf", corefile])

    def _make_disks(self, nodes: list[Node]) -> None:
        """Volumes for claims: nothing here creates them on demand."""
        objects = [_storage_class()]
        for node in nodes:
            for number in range(1, DISKS + 1):
                folder = node.disks / str(number)
                folder.mkdir(parents=True)
                objects.append(_disk(node, number, folder))
        self.kube.apply(*objects)

    def _ready_nodes(self) -> int:
        listed = self.kube.run("get", "nodes", "--no-headers").stdout
        return sum(line.split()[1] == "Ready" for line in listed.splitlines())

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        until(holds, f"{self.name}: {what}", seconds=READY_SECONDS, logs=self.folder)


def _import(node: Node, archive: bytes) -> None:
    running = node.importer()
    _, said = running.communicate(archive, timeout=IMPORT_SECONDS)
    if running.returncode:
        raise RuntimeError(f"{node.name} cannot import an image: {said.decode()[-1000:]}")


def _dns_objects() -> list[dict[str, Any]]:
    rbac = "rbac.authorization.k8s.io"
    ports = [{"name": name, "port": 53, "protocol": protocol} for name, protocol in (("dns", "UDP"), ("tcp", "TCP"))]
    return [
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "coredns"},
            "subjects": [{"kind": "User", "name": "coredns", "apiGroup": rbac}],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": network.DNS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-1",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [network.GATEWAY]}],
        },
    ]


def _storage_class() -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
    }


def _disk(node: Node, number: int, folder: Path) -> dict[str, Any]:
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{node.name}-disk{number}"},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],  # pods on this node share it
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }
