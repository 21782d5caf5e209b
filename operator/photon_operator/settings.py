"""The operator's settings: all from the environment, all with defaults, so the chart says everything in one place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version


class SettingsError(ValueError):
    """A setting cannot be used; the message names the variable and what it needs."""


def _release(name: str) -> str:
    return f"{name}:{version('photon')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for all jobs.

    ``namespaces``: those that are watched, empty for all. ``child_env``: added to every pod of a job (proxies).
    ``ca_config_map``: a ConfigMap of the job's namespace with ``ca.crt``, trusted by every pod of a job.
    ``poll_seconds``: how often the aggregator of a running job is asked for its status. ``workers``: jobs that are
    reconciled at a time.
    """

    namespaces: tuple[str, ...] = ()
    aggregator_image: str = field(default_factory=lambda: _release("photon-aggregator"))
    worker_image: str = field(default_factory=lambda: _release("photon-worker"))
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    child_env: Mapping[str, str] = field(default_factory=dict)
    ca_config_map: str | None = None
    http_port: int = 8080
    poll_seconds: float = 5.0
    workers: int = 8
    log_level: str = "INFO"

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Raises SettingsError."""
        default = cls()
        return cls(
            namespaces=_names(environment.get("PHOTON_NAMESPACES", "")),
            aggregator_image=environment.get("PHOTON_AGGREGATOR_IMAGE") or default.aggregator_image,
            worker_image=environment.get("PHOTON_WORKER_IMAGE") or default.worker_image,
            image_pull_policy=_one_of(
                environment, "PHOTON_IMAGE_PULL_POLICY", ("IfNotPresent", "Always", "Never"), default.image_pull_policy
            ),
            image_pull_secrets=_names(environment.get("PHOTON_IMAGE_PULL_SECRETS", "")),
            child_env=_object(environment, "PHOTON_CHILD_ENV"),
            ca_config_map=environment.get("PHOTON_CA_CONFIGMAP") or None,
            http_port=int(_number(environment, "PHOTON_HTTP_PORT", default.http_port, least=0)),
            poll_seconds=_number(environment, "PHOTON_POLL_SECONDS", default.poll_seconds, least=0.1),
            workers=int(_number(environment, "PHOTON_RECONCILE_WORKERS", default.workers, least=1)),
            log_level=_one_of(
                environment, "PHOTON_LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), default.log_level
            ),
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _one_of(environment: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = environment.get(name) or default
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    return value


def _number(environment: Mapping[str, str], name: str, default: float, *, least: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise SettingsError(f"{name} is {text!r}; it must be a number") from None
    if not value >= least:
        raise SettingsError(f"{name} is {text}; it must be at least {least:g}")
    return value


def _object(environment: Mapping[str, str], name: str) -> dict[str, str]:
    text = environment.get(name)
    if not text:
        return {}
    try:
        document = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{name} is not JSON: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise SettingsError(f"{name} must be a JSON object of strings")
    return document
