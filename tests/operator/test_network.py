"""Who of several jobs' pods may talk to whom, by the policies that the operator makes, as Kubernetes reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest

from photon_operator.children import names
from photon_operator.children.kinds import JOB, NETWORK_POLICY
from photon_operator.network_settings import NetworkSettings, NetworkSettingsError
from photon_operator.settings import Settings
from tests.operator.world import SUSPENDED, World, job_object, words

OPERATOR: Final = {"app.kubernetes.io/component": "operator"}
PROMETHEUS: Final = {"app": "prometheus"}
DNS: Final = {"app": "dns"}
STORE: Final = {"app": "store"}


def pods(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": dict(labels)}}


NETWORK: Final = NetworkSettings.of(
    json.dumps(
        {
            "egress": [
                {"to": [pods(DNS)], "ports": [{"protocol": "UDP", "port": 53}]},
                {"to": [pods(STORE)], "ports": [{"port": 8333}]},
            ],
            "aggregatorFrom": [pods(OPERATOR)],
            "metricsFrom": [pods(PROMETHEUS)],
        }
    )
)
SETTINGS: Final = Settings(network_policy=NETWORK)


def world(name: str = "first", settings: Settings = SETTINGS, *, nodes: int = 1) -> World:
    raw = job_object()
    raw["metadata"]["name"] = name
    raw["spec"]["participants"][0]["worker"]["nodes"] = nodes
    if nodes > 1:
        raw["spec"]["local"] = {"strategy": "FSDP"}
    made = World(raw, settings)
    made.settle()
    made.succeed(f"{name}-init")
    made.settle()
    made.run(*made.worker_jobs())
    made.settle()
    return made


class Net:
    """Policies of several jobs in one namespace."""

    def __init__(self, *worlds: World) -> None:
        self.policies = [found["spec"] for world in worlds for found in world.children.get(NETWORK_POLICY, {}).values()]

    def passes(self, source: Mapping[str, str], target: Mapping[str, str], port: int, protocol: str = "TCP") -> bool:
        """Whether a packet passes the egress of one pod and the ingress of the other."""
        return self._one(source, target, "Egress", "egress", "to", port, protocol) and self._one(
            target, source, "Ingress", "ingress", "from", port, protocol
        )

    def _one(self, own: Any, other: Any, kind: str, rules: str, peers: str, port: int, protocol: str) -> bool:
        held = [p for p in self.policies if _selected(p, own) and kind in p["policyTypes"]]
        return not held or any(
            any(_selected(peer, other) for peer in rule[peers])
            and (not rule.get("ports") or {"port": port, "protocol": protocol} in rule["ports"])
            for policy in held
            for rule in policy.get(rules, ())
        )


def _selected(selecting: Any, labels: Mapping[str, str]) -> bool:
    return bool(selecting["podSelector"]["matchLabels"].items() <= labels.items())


def pod(world: World, job: str) -> dict[str, str]:
    found: dict[str, str] = world.children[JOB][job]["spec"]["template"]["metadata"]["labels"]
    return found


def test_workers_reach_their_own_aggregator_and_that_of_no_other_job() -> None:
    first, second = world("first"), world("second")
    net = Net(first, second)
    aggregator, other = pod(first, "first-aggregator"), pod(second, "second-aggregator")
    for name in ("first-worker-north", "first-worker-south"):
        assert net.passes(pod(first, name), aggregator, 8080)
        assert not net.passes(pod(first, name), aggregator, 8081), "metrics are not for workers"
        assert not net.passes(pod(first, name), other, 8080)
        assert not net.passes(aggregator, pod(first, name), 8080), "an aggregator calls nobody"


def test_no_worker_reaches_a_worker_but_the_nodes_of_one_participant_each_other() -> None:
    first, second = world("first", nodes=2), world("second", nodes=2)
    net = Net(first, second)
    north, south = pod(first, "first-worker-north"), pod(first, "first-worker-south")
    assert net.passes(north, north, 29500)
    assert net.passes(north, north, 45678), "torch chooses ports"
    assert not net.passes(north, south, 29500)
    assert not net.passes(south, north, 29500)
    assert not net.passes(south, south, 29500), "it has one pod"
    assert not net.passes(north, pod(second, "second-worker-north"), 29500)


def test_dns_and_storage_for_all_and_nothing_else() -> None:
    first = world()
    net = Net(first)
    for name in ("first-init", "first-aggregator", "first-worker-north"):
        assert net.passes(pod(first, name), DNS, 53, "UDP")
        assert net.passes(pod(first, name), STORE, 8333)
        assert not net.passes(pod(first, name), STORE, 22)
        assert not net.passes(pod(first, name), {"app": "payroll"}, 443)
        assert not net.passes({"app": "payroll"}, pod(first, name), 8080)


def test_the_operator_and_prometheus_reach_the_aggregator_each_at_its_port() -> None:
    first = world()
    net, aggregator = Net(first), pod(first, "first-aggregator")
    assert net.passes(OPERATOR, aggregator, 8080)
    assert net.passes(PROMETHEUS, aggregator, 8081)
    assert not net.passes(PROMETHEUS, aggregator, 8080)
    assert not net.passes(OPERATOR, pod(first, "first-worker-north"), 8080)


def test_policies_belong_to_the_job_and_are_there_before_its_first_pod() -> None:
    started = World(settings=SETTINGS)
    plan = started.once()
    kinds = [wanted.kind for wanted in plan.apply]
    assert kinds.index(NETWORK_POLICY) < kinds.index(JOB)
    for found in started.children[NETWORK_POLICY].values():
        assert found["apiVersion"] == "networking.k8s.io/v1"
        assert found["metadata"]["ownerReferences"][0]["uid"] == "job-1"
        assert found["metadata"]["labels"][names.JOB] == "first"


def test_none_where_the_administrator_wants_none() -> None:
    assert NETWORK_POLICY not in world(settings=Settings()).children


def test_other_settings_change_the_policies_and_no_pod() -> None:
    """As an upgrade from a chart with policies for whole namespaces: jobs that run get theirs, and go on."""
    running = world(settings=Settings()).training(round=2, committed=1)
    before = {name: job["metadata"]["uid"] for name, job in running.children[JOB].items()}
    running.settings = Settings(network_policy=NetworkSettings.of('{"namespaces": ["lab"]}'))
    running.settle()
    assert set(running.children[NETWORK_POLICY]) == {"first-pods", "first-aggregator"}
    running.settings = Settings(network_policy=NetworkSettings.of("{}"))
    running.settle()
    egress = running.children[NETWORK_POLICY]["first-pods"]["spec"]["egress"]
    assert [rule["ports"][0]["port"] for rule in egress] == [8080], "only its aggregator"
    assert {name: job["metadata"]["uid"] for name, job in running.children[JOB].items()} == before
    assert running.state == ("Running", "Training")


def test_pods_that_nothing_restricted_are_not_cut_off_by_an_upgrade() -> None:
    """Where the chart had no policies, as in other namespaces than its own, storage may be at any port."""
    running = world(settings=Settings()).training(round=2, committed=1)
    running.settings = SETTINGS
    running.settle()
    assert NETWORK_POLICY not in running.children
    running.edit(suspend=True)
    running.settle()
    running.succeed("first-aggregator", words(SUSPENDED))
    running.settle()
    assert NETWORK_POLICY not in running.children, "its workers are still those of before"
    running.after(61)
    running.edit(suspend=False)
    running.settle()
    assert set(running.children[NETWORK_POLICY]) == {"first-pods", "first-aggregator"}, "before its new pods"
    running.children[NETWORK_POLICY].clear()
    running.settle()
    assert set(running.children[NETWORK_POLICY]) == {"first-pods", "first-aggregator"}, "its pods know them"


def test_a_policy_that_somebody_edited_or_removed_is_made_again() -> None:
    running = world()
    wanted = running.children[NETWORK_POLICY]["first-aggregator"]["spec"]["ingress"]
    running.children[NETWORK_POLICY]["first-aggregator"]["spec"]["ingress"] = [{}]
    del running.children[NETWORK_POLICY]["first-pods"]
    running.settle()
    assert running.children[NETWORK_POLICY]["first-aggregator"]["spec"]["ingress"] == wanted
    assert "first-pods" in running.children[NETWORK_POLICY]


def test_the_policy_of_a_participant_goes_with_it() -> None:
    running = world(nodes=2)
    assert "first-worker-north" in running.children[NETWORK_POLICY]
    running.edit(participants=running.raw["spec"]["participants"][1:])
    running.settle()
    assert set(running.children[NETWORK_POLICY]) == {"first-pods", "first-aggregator"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "PHOTON_NETWORK_POLICY is not JSON"),
        ("[]", "PHOTON_NETWORK_POLICY must be a JSON object"),
        (
            '{"ingress": []}',
            ".ingress: unknown; it has egress, aggregatorFrom, metricsFrom, namespaces",
        ),
        ('{"egress": {}}', "PHOTON_NETWORK_POLICY.egress: must be a list"),
        ('{"egress": [{"too": []}]}', "PHOTON_NETWORK_POLICY.egress[0].too: unknown; it has ports, to"),
        (
            '{"metricsFrom": [{"ipBlock": "10.0.0.0/8"}]}',
            "PHOTON_NETWORK_POLICY.metricsFrom[0].ipBlock: must be a mapping",
        ),
    ],
)
def test_a_wrong_setting_is_named(text: str, told: str) -> None:
    with pytest.raises(NetworkSettingsError) as raised:
        NetworkSettings.of(text)
    assert told in str(raised.value)
