"""What the administrator says of the network of job pods: PHOTON_NETWORK_POLICY, JSON that the chart writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from photon.api import pod_fields
from photon.api.document import spell
from photon.errors import UserError
from photon_operator.errors import OperatorError

VARIABLE: Final = "PHOTON_NETWORK_POLICY"
_FIELDS: Final = {
    "egress": "V1NetworkPolicyEgressRule",
    "aggregatorFrom": "V1NetworkPolicyPeer",
    "metricsFrom": "V1NetworkPolicyPeer",
    "namespaces": "scalar",
}


class NetworkSettingsError(OperatorError, UserError):
    """The variable cannot be used; the message names the field and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """``egress``: rules for all pods of jobs, such as DNS and storage. ``aggregator_from``: peers, other than a job's
    own workers, that reach its aggregator. ``metrics_from``: peers that read its metrics. As Kubernetes has them.
    ``namespaces``: where the chart restricted job pods before operators did: a job that runs there loses nothing by
    policies of its own."""

    egress: tuple[Mapping[str, Any], ...] = ()
    aggregator_from: tuple[Mapping[str, Any], ...] = ()
    metrics_from: tuple[Mapping[str, Any], ...] = ()
    namespaces: frozenset[str] = frozenset()

    @classmethod
    def of(cls, text: str) -> NetworkSettings | None:
        """The settings that ``text`` says; None where it is empty: no policies are made.

        Raises:
            NetworkSettingsError: It is not as it must be.
        """
        if not text:
            return None
        try:
            document = json.loads(text)
        except ValueError as error:
            raise NetworkSettingsError(f"{VARIABLE} is not JSON ({error})") from error
        for problem in _problems(document):
            raise NetworkSettingsError(f"{VARIABLE}{problem}")
        return cls(
            egress=tuple(_with_protocols(rule) for rule in document.get("egress") or ()),
            aggregator_from=tuple(document.get("aggregatorFrom") or ()),
            metrics_from=tuple(document.get("metricsFrom") or ()),
            namespaces=frozenset(map(str, document.get("namespaces") or ())),
        )


def _problems(document: Any) -> Iterator[str]:
    if not isinstance(document, dict):
        yield " must be a JSON object"
        return
    for name, value in document.items():
        kind = _FIELDS.get(name)
        if kind is None:
            yield f".{name}: unknown; it has {', '.join(_FIELDS)}"
            continue
        for path, problem in pod_fields.misshapen(value, f"[{kind}]"):
            yield f".{spell((name, *path))}: {problem}"
        for path, known in pod_fields.misspelled(value, f"[{kind}]"):
            yield f".{spell((name, *path))}: unknown; it has {', '.join(known)}"


def _with_protocols(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rule as the API server stores it: with the protocol that it takes where none is said."""
    if not rule.get("ports"):
        return rule
    return {**rule, "ports": [{"protocol": "TCP", **port} for port in rule["ports"]]}
