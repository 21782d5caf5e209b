"""The bundled SeaweedFS as the chart runs it: the command, environment and hook of its pod, here as processes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chart.rendering import CHART, ROOT, Chart, environment, named, of_kind

pytestmark = pytest.mark.timeout(1500)

PERSISTENT = CHART / "ci" / "bundled-store-values.yaml"
EPHEMERAL = CHART / "ci" / "ephemeral-store-values.yaml"
NAMESPACED = CHART / "ci" / "namespaced-values.yaml"

# Runs in a network of its own, where the pod's fixed ports are free: starts the store, runs the hook, and asks.
INSIDE = """
import json, subprocess, sys, time, urllib.error, urllib.request
import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

command, hook, buckets = json.loads(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"], check=True)
for attempt in ("first", "again"):
    store = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        subprocess.run(hook, check=True, timeout=90)
        outside = "http://192.0.2.1:8333"  # as other pods reach it
        for _ in range(300):  # as the readiness probe does
            try:
                urllib.request.urlopen(outside + "/healthz", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        known = boto3.client("s3", endpoint_url=outside, region_name="us-east-1")
        assert {b["Name"] for b in known.list_buckets()["Buckets"]} == set(buckets), known.list_buckets()
        if attempt == "first":
            known.put_object(Bucket=buckets[0], Key="kept", Body=b"text")
        assert known.get_object(Bucket=buckets[0], Key="kept")["Body"].read() == b"text"
        unsigned = Config(signature_version=UNSIGNED)
        stranger = boto3.client("s3", endpoint_url=outside, region_name="us-east-1", config=unsigned)
        try:
            stranger.get_object(Bucket=buckets[0], Key="kept")
            sys.exit("a stranger could read")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", error
        listening = subprocess.run(["ss", "-Htln"], check=True, capture_output=True, text=True).stdout.split("\\n")
        beyond = {line.split()[3].rsplit(":", 1)[1] for line in listening if line and "127.0.0.1:" not in line}
        assert beyond <= {"8333", "18333"}, beyond
    finally:
        store.kill()
        store.wait()
"""


def test_the_store_as_the_chart_runs_it_keeps_its_objects_and_answers_only_who_has_the_keys(
    chart: Chart, tmp_path: Path
) -> None:
    if os.geteuid() or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs root, unshare and ip for a network of its own")
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("needs SeaweedFS (the extra local)")
    (container,) = named(chart.render(values=EPHEMERAL), "StatefulSet", "photon-seaweedfs")["spec"]["template"]["spec"][
        "containers"
    ]
    data = tmp_path / "data"
    data.mkdir()
    command = [f"-dir={data}" if word == "-dir=/data" else word for word in container["command"]]
    hook = container["lifecycle"]["postStart"]["exec"]["command"]
    buckets = ["photon", "data.north", "data.south"]
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", INSIDE, json.dumps([command, hook, buckets])],
        env={
            "PATH": f"{weed.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret-of-somebody",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_the_stores_keys_are_made_once_for_every_namespace_with_jobs(chart: Chart) -> None:
    secrets = of_kind(chart.render(values=NAMESPACED), "Secret")
    assert [secret["metadata"]["namespace"] for secret in secrets] == ["team-a", "team-b", "photon"]
    assert len({str(secret["data"]) for secret in secrets}) == 1
    decoded = {name: base64.b64decode(value) for name, value in secrets[0]["data"].items()}
    assert len(decoded["AWS_ACCESS_KEY_ID"]) == 20
    assert len(decoded["AWS_SECRET_ACCESS_KEY"]) == 40


def test_an_existing_secret_is_used_instead(chart: Chart) -> None:
    objects = chart.render(values=EPHEMERAL)
    assert not of_kind(objects, "Secret")
    (container,) = named(objects, "StatefulSet", "photon-seaweedfs")["spec"]["template"]["spec"]["containers"]
    keys = environment(container)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert keys[name] == {"secretKeyRef": {"name": "store-keys", "key": name}}


def test_objects_lie_in_a_claim_unless_they_may_go_with_the_pod(chart: Chart) -> None:
    kept = named(chart.render(values=NAMESPACED), "StatefulSet", "photon-seaweedfs")["spec"]
    (claim,) = kept["volumeClaimTemplates"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "5Gi"}},
    }
    assert (
        "storageClassName"
        not in named(chart.render(values=PERSISTENT), "StatefulSet", "photon-seaweedfs")["spec"][
            "volumeClaimTemplates"
        ][0]["spec"]
    )
    ephemeral = named(chart.render(values=EPHEMERAL), "StatefulSet", "photon-seaweedfs")["spec"]
    assert "volumeClaimTemplates" not in ephemeral
    assert {"name": "data", "emptyDir": {}} in ephemeral["template"]["spec"]["volumes"]


def test_a_new_version_of_the_chart_does_not_restart_the_store_for_its_labels(chart: Chart) -> None:
    store = named(chart.render(values=PERSISTENT), "StatefulSet", "photon-seaweedfs")
    labels = store["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()
