"""Who may talk to whom: NetworkPolicies of one job, so that the pods of another job in its namespace are strangers.

All pods of the job: no ingress; egress to DNS, storage and its own aggregator. Its aggregator: ingress from its own
workers, the operator, and the peers that the administrator names. The nodes of one participant: each other. Policies
add up, so no two participants of a job reach each other either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from photon.launch import Role
from photon_operator.children import names
from photon_operator.children.kinds import NETWORK_POLICY
from photon_operator.children.objects import Maker
from photon_operator.network_settings import NetworkSettings


def policies(maker: Maker, settings: NetworkSettings | None, several_nodes: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The policies by name; none where the administrator wants none. ``several_nodes``: participants that have more
    than one pod."""
    if settings is None:
        return {}
    job = maker.job
    aggregator = names.labels(job, Role.AGGREGATOR.value)
    asked = _tcp(names.AGGREGATOR_PORT)
    everywhere = {
        "podSelector": {"matchLabels": names.labels(job)},
        "policyTypes": ["Ingress", "Egress"],
        "egress": [*settings.egress, {"to": [_pods(aggregator)], "ports": asked}],
    }
    workers = _pods(names.labels(job, Role.WORKER.value))
    ingress: list[dict[str, Any]] = [{"from": [workers, *settings.aggregator_from], "ports": asked}]
    if settings.metrics_from:
        ingress.append({"from": list(settings.metrics_from), "ports": _tcp(names.METRICS_PORT)})
    made = [
        maker.any(NETWORK_POLICY, names.pods(job), {"spec": everywhere}),
        maker.any(
            NETWORK_POLICY,
            names.aggregator(job),
            {"spec": {"podSelector": {"matchLabels": aggregator}, "policyTypes": ["Ingress"], "ingress": ingress}},
            role=Role.AGGREGATOR.value,
        ),
    ]
    made += [_among_nodes(maker, participant) for participant in several_nodes]
    return {body["metadata"]["name"]: body for body in made}


def _among_nodes(maker: Maker, participant: str) -> dict[str, Any]:
    own = names.labels(maker.job, Role.WORKER.value, participant)
    spec = {
        "podSelector": {"matchLabels": own},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [_pods(own)]}],  # on all ports: torch chooses them
        "egress": [{"to": [_pods(own)]}],
    }
    name = names.worker(maker.job, participant)
    return maker.any(NETWORK_POLICY, name, {"spec": spec}, role=Role.WORKER.value, participant=participant)


def _pods(labels: dict[str, str]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels}}


def _tcp(port: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port}]
