"""docs/guides/kubernetes.md says what is there: its commands parse, its files exist, its names are the chart's."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from tests.chart.guide import GUIDE, steps
from tests.chart.rendering import CHART, ROOT, Chart, named, of_kind
from tests.cluster.printed import filled

TEXT = GUIDE.read_text()


def test_the_commands_are_shell() -> None:
    assert [step.heading for step in steps()] == [
        *("1. Images", "1. Images", "2. Install", "3. Data", "3. Data", "3. Data"),
        *("4. The job", "4. The job", "5. The model", "Clean up"),
    ]
    for step in steps():
        done = subprocess.run(["bash", "-n", "-c", step.commands], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_linked_and_named_files_exist() -> None:
    linked = {(GUIDE.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", TEXT)}
    files = {ROOT / path for path in re.findall(r"(?<![\w./])\w[\w/-]+(?:\.yaml|/Dockerfile)\b", TEXT) if "/" in path}
    missing = [path for path in linked | files if not path.exists()]
    assert not missing


def test_images_have_the_tag_that_the_chart_asks_for(chart: Chart) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    tags = set(re.findall(r"photon-\w+:([\w.]+)", TEXT)) | set(re.findall(r"photon-\$part:([\w.]+)", TEXT))
    assert tags == {version}
    built = set(re.findall(r"\$REGISTRY/(photon-\w+):", TEXT))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    wanted = {values[part]["image"]["repository"] for part in ("operator", "aggregator", "worker", "seaweedfs")}
    assert built == wanted


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Secret", "Service"])
def test_the_guide_and_the_first_job_name_the_charts_objects(chart: Chart, kind: str) -> None:
    objects = chart.render("--set", "seaweedfs.enabled=true")
    for name in re.findall(rf"\b{kind.lower()}[/ ](photon[\w-]*)", TEXT):
        assert named(objects, kind, name)
    job = yaml.safe_load((ROOT / "manifests" / "examples" / "first-job.yaml").read_text())["spec"]
    service = named(objects, "Service", "photon-seaweedfs")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    endpoint = f"http://{host}:{service['spec']['ports'][0]['port']}"
    assert job["storage"]["endpoint"] == endpoint
    (secret,) = of_kind(objects, "Secret")
    assert job["storage"]["credentialsSecretRef"]["name"] == secret["metadata"]["name"]
    for participant in job["participants"]:
        data = participant["worker"]["data"]
        assert data["endpoint"] == endpoint
        assert f"aws s3 sync data/{participant['name']} {data['uri']} " in TEXT


def test_what_the_commands_print_is_shown() -> None:
    marks = re.findall(r"<!-- printed: ([\w-]+) -->", TEXT)
    shown = re.findall(r"<!-- printed: ([\w-]+) -->\n```text\n(.+?)^```$", TEXT, re.M | re.S)
    assert [name for name, _ in shown] == marks
    assert "get-ftj-watch" in marks
    assert "localhost" not in "".join(text for _, text in shown)
    once_more = filled(TEXT, dict(shown))
    assert once_more == TEXT
