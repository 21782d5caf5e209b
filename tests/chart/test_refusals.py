"""What a wrong value is told: the field, what is wrong, and what to write instead."""

from __future__ import annotations

import json

import pytest

from tests.chart.rendering import CHART, Chart
from tools.chart_values import BEGIN, table, values

pytestmark = pytest.mark.timeout(1500)

PEM = "-----BEGIN CERTIFICATE-----"

# --set arguments, and words that the message must hold.
SCHEMA = [
    (["operator.replica=2"], ["/operator", "additional properties 'replica' not allowed"]),
    (["operator.leaseSeconds=5"], ["/operator/leaseSeconds", "minimum"]),
    (["seaweed.enabled=true"], ["additional properties 'seaweed' not allowed"]),
    (["watchNamespaces=team-a"], ["/watchNamespaces", "want array"]),
    (["watchNamespaces={Team_A}"], ["/watchNamespaces/0", "'Team_A' does not match pattern"]),
    (["watchNamespaces={a,a}"], ["/watchNamespaces", "are equal"]),
    (["operator.logLevel=verbose"], ["/operator/logLevel", "one of 'debug', 'info', 'warning', 'error'"]),
    (["image.pullPolicy=Sometimes"], ["/image/pullPolicy", "one of 'IfNotPresent', 'Always', 'Never'"]),
    (["image.registry=https://registry.example.org"], ["/image/registry", "does not match pattern"]),
    (["worker.image.digest=abc"], ["/worker/image/digest", "sha256:[0-9a-f]{64}"]),
    (["proxy.https=proxy:3128"], ["/proxy/https", "'proxy:3128' does not match pattern '^(https?://"]),
    (["seaweedfs.persistence.size=lots"], ["/seaweedfs/persistence/size", "'lots'"]),
    (["seaweedfs.buckets={A}"], ["/seaweedfs/buckets/0"]),
    (["networkPolicy.metricsFrom[0].podSelectr.a=b"], ["/networkPolicy/metricsFrom/0", "'podSelectr' not allowed"]),
    (["networkPolicy.extraEgress[0].too[0].a=b"], ["/networkPolicy/extraEgress/0", "'too' not allowed"]),
    (["crds.enabled=maybe"], ["/crds/enabled", "got string, want boolean"]),
    (["operator.pollSeconds=0"], ["/operator/pollSeconds", "minimum"]),
    (["monitoring.podMonitor.interval=often"], ["/monitoring/podMonitor/interval"]),
]

RULES = [
    (["image.tag=latest"], "image.tag must not be latest"),
    ([f"ca.bundle={PEM}", "ca.existingConfigMap=other"], "ca.bundle and ca.existingConfigMap are mutually exclusive"),
    (["ca.bundle=ca.pem"], "--set-file ca.bundle=FILE"),
    (["proxy.https=http://proxy:3128"], "allow the proxy in networkPolicy.extraEgress"),
    (["monitoring.podMonitor.enabled=true"], "name its namespace in networkPolicy.metricsFrom"),
    (["monitoring.serviceMonitor.enabled=true"], "name its namespace in networkPolicy.metricsFrom"),
    (["seaweedfs.existingSecret=keys"], "requires seaweedfs.enabled"),
    (["jobs.serviceAccounts={photon-operator}", "fullnameOverride=photon"], "the operator's service account"),
    (["serviceAccount.create=false", "serviceAccount.name=default"], "serviceAccount.name must not be default"),
    (["serviceAccount.create=false"], "set serviceAccount.name to an existing ServiceAccount"),
]


def given(settings: list[str]) -> list[str]:
    return [argument for setting in settings for argument in ("--set", setting)]


@pytest.mark.parametrize(("settings", "words"), SCHEMA, ids=[settings[0] for settings, _ in SCHEMA])
def test_a_wrong_value_is_named(chart: Chart, settings: list[str], words: list[str]) -> None:
    message = chart.refusal(*given(settings))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(("settings", "words"), RULES, ids=[settings[0] for settings, _ in RULES])
def test_values_that_do_not_fit_together_are_explained(chart: Chart, settings: list[str], words: str) -> None:
    assert words in chart.refusal(*given(settings))


def test_helms_own_global_values_are_allowed(chart: Chart) -> None:
    assert chart.render("--set", "global.anything=1")


def test_every_value_is_explained() -> None:
    silent = [".".join(value.path) for value in values() if not value.text]
    assert not silent, "values.yaml says nothing of these"


def test_the_readme_lists_the_values_as_they_are() -> None:
    readme = (CHART / "README.md").read_text()
    assert BEGIN + table() in readme, "run make generate"


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    definitions = schema["definitions"]

    def paths(node: dict, path: tuple[str, ...]) -> set[tuple[str, ...]]:
        node = definitions[node["$ref"].removeprefix("#/definitions/")] if "$ref" in node else node
        if node.get("type") != "object" or "properties" not in node or path in leaves:
            return {path}
        assert node["additionalProperties"] is False, path
        return set().union(*(paths(child, (*path, name)) for name, child in node["properties"].items()))

    leaves = {value.path for value in values()}
    assert paths(schema, ()) - {("global",)} == leaves
