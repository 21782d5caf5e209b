"""docs/guides/kubernetes.md as its reader follows it: its commands as they are written, in order, to a model.

Only two things differ: images are given to the nodes instead of pushed to a registry, and files lie in a folder of the
test's own. What is printed is kept in runs/printed, from where tests.cluster.printed takes it into the guide.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from photon.api.document import parse
from tests.chart.guide import GUIDE, Step, steps
from tests.cluster import printed
from tests.cluster.fixtures import RunningCluster
from tests.cluster.release import CHART, NAME, ROOT, helm, taking_over
from tests.cluster.shell import Shell, shell
from tools.cluster.fetched import tool
from tools.cluster.images import INSTALLED
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

NAMESPACE: Final = "photon"
JOBS: Final = "research"
CRD: Final = "crd/federatedtrainingjobs.photon.dev"
STEP_SECONDS: Final = 600.0
BROKEN: Final = "too-many-gpus"


@pytest.fixture
def empty_cluster(cluster: RunningCluster) -> Iterator[Kube]:
    """Without the guide's namespaces; the definition, if there is one, may be taken over by the guide's release."""
    cluster.load(*INSTALLED)
    kube = cluster.kube.within(NAMESPACE)
    kube.run("delete", "namespace", JOBS, NAMESPACE, "--timeout=120s", seconds=150)
    if kube.exists(CRD):
        # Its owner is another release: it passes to one of this name, which is not waited for and goes at once.
        helm(kube, "install", NAME, str(CHART), "--create-namespace", *taking_over(kube))
        helm(kube, "uninstall", NAME, "--wait", "--timeout", "90s")
        kube.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s")
    try:
        yield kube
    finally:
        kube.run("delete", "ftj", "--all", "--timeout=60s", namespace=JOBS)
        helm(kube, "uninstall", NAME, "--ignore-not-found", check=False)
        kube.run("delete", "namespace", JOBS, NAMESPACE, "--wait=false")


@pytest.fixture
def reader(empty_cluster: Kube, tmp_path: Path) -> Iterator[Shell]:
    """Somebody at a terminal in a clone of the repository, with its environment active."""
    for name in ("charts", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = [Path(sys.executable).parent, tool("kubectl").parent, tool("helm").parent]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PHOTON_"))},
        "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
        "KUBECONFIG": str(empty_cluster.kubeconfig),
    }
    with shell(tmp_path, environment) as running:
        yield running


def test_the_guide_leads_to_a_model(
    cluster: RunningCluster, empty_cluster: Kube, reader: Shell, tmp_path: Path
) -> None:
    kube = empty_cluster.within(JOBS)
    chapters: dict[str, list[Step]] = {}
    for step in steps():
        chapters.setdefault(step.heading, []).append(step)
    said: dict[str, str] = {}

    def follow(chapter: str, index: int) -> str:
        return reader.run(chapters[chapter][index].commands, seconds=STEP_SECONDS)

    follow("1. Images", 0)
    reader.run(f"export REGISTRY={cluster.registry}", seconds=10)  # the images are there; nothing is pushed
    said["helm-install"] = follow("2. Install", 0)
    for index in range(len(chapters["3. Data"])):
        follow("3. Data", index)
    assert len(chapters["4. The job"]) == 2
    said["validate-and-apply"] = follow("4. The job", 0)
    with watching(kube, tmp_path / "watch.txt"):
        followed = follow("4. The job", 1)
    said["get-ftj-watch"] = without_repetitions((tmp_path / "watch.txt").read_text())
    said["describe-ftj"] = followed
    said["evaluate"] = follow("5. The model", 0)
    said["describe-ftj-broken"] = broken(kube)
    follow("Clean up", 0)

    for name, text in said.items():
        printed.write(name, tidy(name, text, cluster.registry))
    assert set(printed.names(GUIDE.read_text())) == set(said)
    assert "Phase:          Succeeded" in said["helm-install"]
    assert "condition met" in said["describe-ftj"]
    assert re.search(r"first-job +10 +10 +2 .*Complete +RoundsDone", said["get-ftj-watch"])
    assert re.search(r"Running +Training", said["get-ftj-watch"])
    assert "perplexity" in said["evaluate"]
    assert (tmp_path / "model" / "config.json").exists()
    assert kube.items("ftj") == []
    assert empty_cluster.exists("pvc/data-photon-seaweedfs-0"), "the guide says that it stays"


@contextmanager
def watching(kube: Kube, path: Path) -> Iterator[None]:
    """``kubectl get ftj --watch``, as the guide asks for it, meanwhile."""
    assert "\n    kubectl --namespace research get ftj --watch\n" in GUIDE.read_text()
    command = [str(tool("kubectl")), *kube.arguments(), "get", "ftj", "--watch"]
    with path.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.kill()


def broken(kube: Kube) -> str:
    """The first job, one of its workers with GPUs that the cluster does not have."""
    # Not PyYAML's: it takes 3e-3 for a word.
    job = parse((ROOT / "manifests" / "examples" / "first-job.yaml").read_text(), "first-job.yaml").data
    job["metadata"]["name"] = job["spec"]["storage"]["prefix"] = BROKEN
    job["spec"]["participants"][0]["worker"]["resources"] = {"gpus": 8}
    kube.apply(job)
    kube.kubectl(
        "wait", f"ftj/{BROKEN}", "--for=jsonpath={.status.participantsPresent}=1", "--timeout=240s", seconds=300
    )
    table = kube.kubectl("get", "ftj")
    described = kube.kubectl("describe", f"ftj/{BROKEN}")
    kube.kubectl("delete", f"ftj/{BROKEN}")
    ask = f"$ kubectl --namespace {JOBS}"
    return f"{ask} get ftj\n{table}\n{ask} describe ftj {BROKEN}\n{described}"


def without_repetitions(table: str) -> str:
    """A watch prints a line for each change, most of which are in columns that it does not show."""
    lines: list[str] = []
    for line in table.splitlines():
        if not lines or line.split()[:-1] != lines[-1].split()[:-1]:
            lines.append(line)
    return "\n".join(lines)


def tidy(name: str, text: str, registry: str) -> str:
    """Without names of this machine, and what describe repeats of the job's file."""
    text = text.replace(f"{registry}/", "registry.example.org/photon/")
    text = re.sub(r"(?<=^NOTES:\n).*?(?=^Waiting|^deployment)", "...\n", text, flags=re.M | re.S)
    text = re.sub(r"^Loading weights: .*\n", "", text, flags=re.M)  # a bar that moves
    return printed.without_spec(text) if name.startswith("describe") else text
