"""What the chart tells the operator, by environment variables; each has a default."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from photon.errors import UserError
from photon.version import release
from photon_operator import job_defaults
from photon_operator.errors import OperatorError
from photon_operator.job_defaults import JobDefaults
from photon_operator.network_settings import VARIABLE, NetworkSettings

VARIABLES: Final = {
    "PHOTON_NAMESPACES": "whose jobs it runs: a,b; empty for all",
    "PHOTON_AGGREGATOR_IMAGE": "image of aggregators",
    "PHOTON_WORKER_IMAGE": "image of workers",
    "PHOTON_IMAGE_PULL_POLICY": "of both; default IfNotPresent",
    "PHOTON_IMAGE_PULL_SECRETS": "names of Secrets: a,b",
    "PHOTON_CHILD_ENV": 'JSON: environment of all job pods, {"HTTPS_PROXY": "..."}',
    job_defaults.VARIABLE: "JSON: what all job pods get where the job says nothing; the chart's jobs",
    "PHOTON_JOB_SERVICE_ACCOUNTS": "service accounts that a job may name: a,b",
    "PHOTON_SERVICE_ACCOUNT": "the operator's own service account, which no job may have",
    "PHOTON_OPERATOR_NAMESPACE": "namespace that the operator runs in; default none",
    "PHOTON_CA_CONFIGMAP": "ConfigMap in the job's namespace with certificates in ca.crt",
    "PHOTON_CA_FILE": "file with certificates that it gives to each job in a ConfigMap of its own",
    VARIABLE: 'JSON: networks of job pods, {"egress": [...], "aggregatorFrom": [...]}; empty: no NetworkPolicies',
    "PHOTON_HTTP_PORT": "of its own metrics and probes; default 8080",
    "PHOTON_POLL_SECONDS": "how often an aggregator is asked for its status; default 5",
    "PHOTON_STATUS_SECONDS": "how often figures alone are written to a job's status, at most; default 30",
    "PHOTON_LEASE_SECONDS": "how long a Lease lasts that is not renewed; 0: without Leases; default 15",
    "PHOTON_LEASE_NAMESPACE": "where the Lease of an operator of all namespaces is; default kube-system",
    "PHOTON_LOG_LEVEL": "debug, info, warning or error; default info",
    "PHOTON_AGGREGATOR_URL": "where an aggregator answers; default http://{address}:8080",
}


class SettingsError(OperatorError, UserError):
    """An environment variable cannot be used; the message names it and the fix."""


def _release(name: str) -> str:
    return f"{name}:{release()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``namespaces``: empty for all. ``child_env``: added to the containers of all job pods.

    ``job_service_accounts``: those that a job may name; ``service_account``: the operator's own, which it may not.
    ``operator_namespace``: that it runs in, if in one. ``ca_config_map``: in the namespace of the job, with the key
    ca.crt; ``ca_bundle``: what ``ca_file`` holds, where the operator makes a ConfigMap for each job instead.
    ``network_policy``: None for no policies. ``poll_seconds``: how often an aggregator is asked for its status;
    ``status_seconds``: how often a status is written of which only figures differ, at most.
    ``lease_seconds``, ``lease_namespace``: see cluster.leadership. ``aggregator_url``: its address; ``{address}`` is
    the pod's.
    """

    namespaces: tuple[str, ...] = ()
    aggregator_image: str = field(default_factory=lambda: _release("photon-aggregator"))
    worker_image: str = field(default_factory=lambda: _release("photon-worker"))
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    child_env: Mapping[str, str] = field(default_factory=dict)
    job_defaults: JobDefaults = field(default_factory=JobDefaults)
    job_service_accounts: tuple[str, ...] = ()
    service_account: str = ""
    operator_namespace: str = ""
    ca_config_map: str = ""
    ca_file: str = ""
    ca_bundle: str = ""
    network_policy: NetworkSettings | None = None
    http_port: int = 8080
    poll_seconds: float = 5.0
    status_seconds: float = 30.0
    lease_seconds: float = 15.0
    lease_namespace: str = "kube-system"
    log_level: int = logging.INFO
    aggregator_url: str = "http://{address}:8080"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """The settings of an environment.

        Raises:
            SettingsError: A value is not as it must be.
        """
        default = cls()

        def text(name: str, otherwise: str) -> str:
            return environment.get(f"PHOTON_{name}", "").strip() or otherwise

        def several(name: str) -> tuple[str, ...]:
            return tuple(part.strip() for part in text(name, "").split(",") if part.strip())

        return cls(
            namespaces=several("NAMESPACES"),
            aggregator_image=text("AGGREGATOR_IMAGE", default.aggregator_image),
            worker_image=text("WORKER_IMAGE", default.worker_image),
            image_pull_policy=text("IMAGE_PULL_POLICY", default.image_pull_policy),
            image_pull_secrets=several("IMAGE_PULL_SECRETS"),
            child_env=_child_env(text("CHILD_ENV", "{}")),
            job_defaults=JobDefaults.of(_json("JOB_DEFAULTS", text("JOB_DEFAULTS", "{}"))),
            job_service_accounts=several("JOB_SERVICE_ACCOUNTS"),
            service_account=text("SERVICE_ACCOUNT", ""),
            operator_namespace=text("OPERATOR_NAMESPACE", ""),
            ca_config_map=text("CA_CONFIGMAP", ""),
            ca_file=text("CA_FILE", ""),
            network_policy=NetworkSettings.of(environment.get(VARIABLE, "").strip()),
            http_port=int(_number("HTTP_PORT", text("HTTP_PORT", str(default.http_port)), 0, 65535)),
            poll_seconds=_number("POLL_SECONDS", text("POLL_SECONDS", str(default.poll_seconds)), 0.1, 3600),
            status_seconds=_number("STATUS_SECONDS", text("STATUS_SECONDS", str(default.status_seconds)), 0.0, 3600),
            lease_seconds=_number("LEASE_SECONDS", text("LEASE_SECONDS", str(default.lease_seconds)), 0.0, 300),
            lease_namespace=text("LEASE_NAMESPACE", default.lease_namespace),
            log_level=_level(text("LOG_LEVEL", "info")),
            aggregator_url=text("AGGREGATOR_URL", default.aggregator_url),
        )


def _number(name: str, value: str, least: float, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise SettingsError(f"PHOTON_{name} is {value!r}: it must be a number from {least:g} to {most:g}")
    return number


def _json(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise SettingsError(f"PHOTON_{name} is not JSON ({error}): it must be an object") from error


def _child_env(value: str) -> dict[str, str]:
    document = _json("CHILD_ENV", value)
    if not isinstance(document, dict) or not all(isinstance(v, str) for v in document.values()):
        raise SettingsError('PHOTON_CHILD_ENV must be a JSON object of strings, for example {"HTTPS_PROXY": "..."}')
    return document


def _level(value: str) -> int:
    found = logging.getLevelNamesMapping().get(value.upper())
    if found is None:
        raise SettingsError(f"PHOTON_LOG_LEVEL is {value!r}: use debug, info, warning or error")
    return found
