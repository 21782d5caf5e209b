"""A node: a machine with containerd, kubelet and kube-proxy, on which pods run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any, Final

from tools.cluster.fetched import cache
from tools.cluster.machine import Machine
from tools.cluster.network import DNS, GATEWAY, POD_NETWORK, node_address, pod_network
from tools.cluster.pki import Pki
from tools.cluster.processes import until
from tools.cluster.programs import program

CGROUPS: Final = Path("/sys/fs/cgroup")
CNI_FOLDERS: Final = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
PAUSE_IMAGE: Final = "localhost/pause:1"
CONTAINERD_SECONDS: Final = 60.0
IMPORT_SECONDS: Final = 900.0
POWER_SECONDS: Final = 60.0

# kubelet sets these for the whole machine; files that hold its wishes already, bound over them, keep it from that.
_SYSCTLS: Final = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
# Requests of a whole job's pods add up to more cores than a test machine has, and its few cores run them all the same,
# only slower. So a node says that it has this many.
CORES: Final = 32
_PRIVATE_FOLDERS: Final = (
    *("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers"),
    *("/run/netns", "/run/containerd"),
)


def cni_folder() -> Path | None:
    """Where the network plugins are installed."""
    return next((folder for folder in CNI_FOLDERS if (folder / "bridge").exists()), None)


class Node(Machine):
    """Node ``number`` (from 1) of the cluster whose folder is the parent of this one's.

    What containerd has unpacked stays in the cache for the next cluster of the same name; containers do not.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.number = int(self.name.removeprefix("node"))
        self.cluster = folder.parent.name
        self.store = cache() / "stores" / self.cluster / self.name

    @property
    def socket(self) -> str:
        """containerd's."""
        return str(self.folder / "containerd.sock")

    @property
    def disks(self) -> Path:
        """Where the volumes that claims bind to are stored."""
        return self.folder / "disks"

    @property
    def cgroup(self) -> str:
        """Name of the control group that holds this node's pods."""
        return f"photon-{self.cluster}-{self.name}"

    def prepare(self) -> None:
        """What of the machine a kubelet would change gets a copy of its own; control groups."""
        for name, value in _SYSCTLS.items():
            path = self.folder / "sysctl" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        over = "\n".join(f"mount --bind {self.folder}/sysctl/{name} /proc/sys/{name}" for name in _SYSCTLS)
        own = "\n".join(
            f"mkdir -p {path} {self.folder}/private{path}; mount --bind {self.folder}/private{path} {path}"
            for path in _PRIVATE_FOLDERS
        )
        self._claim_cores()
        cores = "\n".join(f"mount --bind {self.folder}/{kind} /sys/devices/system/{kind}" for kind in ("cpu", "node"))
        self.run(f"{over}\n{own}\n{cores}\nmount --make-rshared /")
        for group in self._cgroups():
            group.mkdir(exist_ok=True)
            if group.parent.name == "cpuset":
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (group / file).write_text((group.parent / file).read_text())
            if group.parent == CGROUPS:
                (group / "cgroup.subtree_control").write_text("+cpuset +cpu +io +memory +pids")

    def _claim_cores(self) -> None:
        """What kubelet counts: one folder a core. Containers see the kernel's own.

        kubelet also allows its pods exactly the processors that it counted, so only those that exist may be named:
        each is there several times, as cpu1, cpu01, cpu001, ...
        """
        (self.folder / "node").mkdir()
        real = os.cpu_count() or 1
        for core in range(CORES):
            topology = self.folder / "cpu" / f"cpu{'0' * (core // real)}{core % real}" / "topology"
            topology.mkdir(parents=True)
            (topology / "core_id").write_text(f"{core}\n")
            (topology / "physical_package_id").write_text("0\n")
        (self.folder / "cpu" / "online").write_text(Path("/sys/devices/system/cpu/online").read_text())

    def _cgroups(self) -> list[Path]:
        if (CGROUPS / "cgroup.controllers").exists():  # version 2
            return [CGROUPS / self.cgroup]
        return [c / self.cgroup for c in CGROUPS.iterdir() if c.is_dir() and not c.is_symlink()]

    # --- containerd ---------------------------------------------------------------------------------------------------

    def start_containerd(self) -> None:
        """Start it, without the containers of an earlier cluster that the kept store still remembers."""
        if (self.store / "io.containerd.metadata.v1.bolt").exists():
            self._start_containerd(pods=False)
            self.run(
                f"""ctr="ctr --address {self.socket} --namespace k8s.io"
                $ctr containers list -q | xargs -r $ctr containers rm
                $ctr leases list -q | xargs -r $ctr leases rm"""
            )
            self.stop("containerd")
        self._start_containerd(pods=True)

    def _start_containerd(self, *, pods: bool) -> None:
        path = self.folder / "containerd.toml"
        path.write_text(self._containerd_settings(pods=pods))
        plugins = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": pod_network(self.number)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": f"{self.folder}/addresses",
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (self.folder / "cni").mkdir(exist_ok=True)
        (self.folder / "cni" / "10-bridge.conflist").write_text(json.dumps(plugins))
        self.start("containerd", ["containerd", "--config", path])
        until(
            lambda: self.ctr("version", check=False).returncode == 0,
            "containerd",
            seconds=CONTAINERD_SECONDS,
            logs=self.folder / "log",
        )

    def _containerd_settings(self, *, pods: bool) -> str:
        cri = '"io.containerd.grpc.v1.cri"'
        disabled = "" if pods else f"disabled_plugins = [{cri}]"
        return f"""version = 2
root = "{self.store}"
state = "{self.folder}/containerd"
{disabled}
[grpc]
  address = "{self.socket}"
[plugins.{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  # Root without CAP_SYS_RESOURCE may not lower it, and then no pod would start.
  restrict_oom_score_adj = true
  [plugins.{cri}.cni]
    bin_dir = "{cni_folder()}"
    conf_dir = "{self.folder}/cni"
"""

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """containerd's client, on the images and containers of Kubernetes."""
        return self.run(f"ctr --address {self.socket} --namespace k8s.io {' '.join(arguments)}", check=check)

    def blobs(self) -> set[str]:
        """Digests that containerd holds."""
        return set(self.ctr("content", "list", "-q").stdout.split())

    def importer(self) -> subprocess.Popen[bytes]:
        """A running import that reads an image archive from its standard input."""
        command = ["ctr", "--address", self.socket, "--namespace", "k8s.io", "images", "import", "-"]
        return subprocess.Popen(
            [*self.enter(), *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    # --- kubelet ------------------------------------------------------------------------------------------------------

    def start_kubelet(self, pki: Pki, kubeconfigs: Path) -> None:
        """kubelet and kube-proxy; does not wait until the node is ready."""
        settings = self.folder / "kubelet.json"
        settings.write_text(json.dumps(self._kubelet_settings(pki)))
        kubeconfig = pki.kubeconfig(self.name, f"https://{GATEWAY}:6443", kubeconfigs / f"{self.name}.kubeconfig")
        self.start(
            "kubelet",
            [
                program("kubelet"),
                *(f"--config={settings}", f"--kubeconfig={kubeconfig}", f"--hostname-override={self.name}"),
                *(f"--node-ip={node_address(self.number)}", "--v=1"),
            ],
        )
        proxy = self.folder / "proxy.json"
        proxy.write_text(json.dumps(self._proxy_settings(kubeconfigs)))
        self.start("kube-proxy", [program("kube-proxy"), f"--config={proxy}"])

    def _kubelet_settings(self, pki: Pki) -> dict[str, Any]:
        pressure = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": pki.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.path(f"{self.name}.crt"),
            "tlsPrivateKeyFile": pki.path(f"{self.name}.key"),
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "protectKernelDefaults": True,
            # The disk and the memory are shared with everything else that runs here: they say nothing of the pods.
            "evictionHard": dict.fromkeys(pressure, "0%"),
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "1s",
            "nodeLeaseDurationSeconds": 8,
            "hairpinMode": "none",
            "volumePluginDir": f"{self.folder}/volume-plugins",
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
        }

    def _proxy_settings(self, kubeconfigs: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfigs / "proxy.kubeconfig")},
            "hostnameOverride": self.name,
            "clusterCIDR": POD_NETWORK,
            "mode": "iptables",
            "iptables": {"minSyncPeriod": "0s"},
            # Limits of the whole machine, which are not ours to change.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    # --- power --------------------------------------------------------------------------------------------------------

    def power_off(self) -> None:
        """kill -9 of all processes at once, also those of pods; disks stay, as does the machine's network."""
        # All that the first process of the namespace is above, and not itself: it holds the namespaces.
        self.run("kill -9 -1", check=False)
        until(lambda: not self._others(), f"the end of all processes of {self.name}", seconds=POWER_SECONDS)

    def power_on(self) -> None:
        """containerd, kubelet and kube-proxy again; does not wait until the node is ready."""
        for name in ("containerd", "kubelet", "kube-proxy"):
            self.start_again(name)

    def _others(self) -> list[int]:
        """Processes of the machine but for its first, as the host numbers them."""
        mine, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                # Pods' processes are in pid namespaces below: their control group says whose they are.
                inside = os.readlink(process / "ns/pid") == mine
                pods = f"/{self.cgroup}/" in (process / "cgroup").read_text()
                dead = (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if (inside or pods) and not dead and int(process.name) != self.pid:
                    found.append(int(process.name))
        return found

    def destroy(self) -> None:
        """End everything inside; remove the control groups."""
        super().destroy()
        for group in self._cgroups():
            if group.is_dir():
                until(partial(_remove_groups, group), f"no process in {group}", seconds=30)
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_groups(group: Path) -> bool:
    """Remove ``group`` and those within, deepest first; False while a dying process is in one."""
    try:
        for folder in sorted((p for p in group.rglob("*") if p.is_dir()), key=lambda p: len(p.parts), reverse=True):
            folder.rmdir()
        group.rmdir()
    except OSError:
        return False
    return True
