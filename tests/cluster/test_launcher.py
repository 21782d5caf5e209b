"""The launcher keeps its promises: pods run and find each other, nothing is left, nobody else's cluster is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.fixtures import RunningCluster
from tools.cluster import contexts
from tools.cluster.control_plane import ControlPlane
from tools.cluster.fetched import cache
from tools.cluster.images import base, load
from tools.cluster.kube import Kube, Object
from tools.cluster.launcher import Cluster, why_no_pods

pytestmark = pytest.mark.cluster

SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080)"
# A pod that is ready is known to DNS and to the nodes' tables a moment later: whoever asks must ask again.
ASK = """
import time, urllib.request
until = time.monotonic() + 60
while True:
    try:
        print(urllib.request.urlopen("http://{host}:8080/", timeout=5).status)
        break
    except OSError as error:
        if time.monotonic() > until:
            raise
        time.sleep(0.5)
"""


def pod(name: str, image: str, program: str) -> Object:
    """A pod as the restricted Pod Security Standard wants it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["python3", "-c", program],
                    "workingDir": "/tmp",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def image(cluster: RunningCluster) -> str:
    """Debian with Python, on all nodes."""
    if cluster.local is None:
        return os.environ.get("PHOTON_TEST_BASE", "python:3.11-slim-bookworm")
    made = base()
    load(made, cluster.local.nodes)
    return made.name


@pytest.mark.timeout(900)
def test_pods_run_and_find_each_other_by_name(cluster_namespace: Kube, image: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 8080}]},
    }
    cluster_namespace.apply(pod("server", image, SERVE), service)
    cluster_namespace.kubectl("wait", "--for=condition=Ready", "pod/server", "--timeout=90s")
    host = f"web.{cluster_namespace.namespace}.svc"
    cluster_namespace.apply(pod("client", image, ASK.format(host=host)))
    done = cluster_namespace.run("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/client", "--timeout=120s")
    assert done.returncode == 0, cluster_namespace.explain()
    assert cluster_namespace.kubectl("logs", "client") == "200\n"


def test_the_restricted_standard_is_enforced(cluster_namespace: Kube, image: str) -> None:
    bad = pod("bad", image, "pass")
    bad["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        cluster_namespace.apply(bad)


@pytest.mark.parametrize("program", ["kube-apiserver", "kubelet"])
def test_objects_and_pods_outlive_a_restart_of(
    program: str, cluster: RunningCluster, cluster_namespace: Kube, image: str
) -> None:
    cluster_namespace.apply(pod("sleeper", image, "import time; time.sleep(600)"))
    cluster_namespace.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=90s")
    before = cluster_namespace.get("pod/sleeper")["status"]["containerStatuses"][0]["containerID"]
    cluster.restart(program)
    cluster_namespace.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=90s")
    after = cluster_namespace.get("pod/sleeper")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before, 0)


def test_down_leaves_no_process_mount_link_or_control_group() -> None:
    if reason := why_no_pods():
        pytest.skip(reason)
    other = Cluster("other")
    before = traces()
    try:
        other.up(nodes=2)
        assert traces() - before, "the traces that this test looks for exist while it runs"
        assert len(other.kube.items("nodes")) == 2
    finally:
        other.down()
    assert traces() - before == set()
    assert not other.folder.exists()


def traces() -> set[str]:
    """What a cluster could leave behind on this machine."""
    programs = {f"process {p.info['exe']} {p.pid}" for p in psutil.process_iter(["exe"]) if of_ours(p)}
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/photon-other-*")]
    return programs | {line.split(": ")[1] for line in links} | set(mounts) | set(groups)


def of_ours(process: psutil.Process) -> bool:
    exe = process.info["exe"] or ""
    return exe.startswith(str(cache())) or Path(exe).name in ("containerd", "containerd-shim-runc-v2", "socat")


def test_a_control_plane_ends_with_its_owner_even_if_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from tools.cluster.control_plane import ControlPlane\n"
        "print(ControlPlane().start().kubeconfig, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, env=environment
    )
    assert owner.stdout is not None
    try:
        assert owner.stdout.readline().startswith(str(tmp_path).encode())
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) >= 4, "etcd, API server, controllers, scheduler"
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_control_plane_keeps_its_objects_when_its_api_server_is_killed(
    control_plane_processes: ControlPlane, namespace: Kube
) -> None:
    namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "b"}})
    control_plane_processes.restart("kube-apiserver")
    assert namespace.get("configmap/kept")["data"] == {"a": "b"}


# --- a cluster that the user names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["kind-test", "k3d-a", "minikube", "photon-test-1"])
def test_local_clusters_may_be_used(context: str) -> None:
    assert contexts.allowed(context)


def test_any_other_cluster_must_be_on_the_list_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv(contexts.VARIABLE, "production")
    with pytest.raises(RuntimeError, match=r"PHOTON_TEST_CONTEXT=production: .*test-contexts"):
        contexts.existing()
    (tmp_path / "photon").mkdir()
    (tmp_path / "photon" / "test-contexts").write_text("staging\nproduction\n")
    assert contexts.allowed("production")


def test_a_named_cluster_that_does_not_answer_is_an_error_not_a_reason_to_skip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(contexts.VARIABLE, "kind-gone")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="does not answer"):
        contexts.existing()
