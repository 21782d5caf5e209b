"""``photon-operator``: makes the pods of FederatedTrainingJobs. All it is told comes from the environment."""

from __future__ import annotations

import logging
import os
from typing import Final

import kopf
from prometheus_client import disable_created_metrics

from photon.telemetry.logging import configure, exit_with_mistake
from photon_operator.api import Api, connect
from photon_operator.cache import Cache
from photon_operator.controller import Controller
from photon_operator.metrics import OperatorMetrics
from photon_operator.settings import Settings, SettingsError
from photon_operator.watches import registry_of

_CHATTY: Final = ("kopf", "httpx", "httpcore", "aiohttp", "urllib3", "kubernetes")


def main() -> None:
    """Entry point: runs until a signal."""
    configure("operator")
    try:
        settings = Settings.of(os.environ)
    except SettingsError as error:
        exit_with_mistake(str(error))
    logging.getLogger("photon_operator").setLevel(settings.log_level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # as many series again, which nobody reads
    cache = Cache()
    metrics = OperatorMetrics(cache)
    api = Api(connect(), on_request=metrics.requested)
    controller = Controller(api=api, cache=cache, settings=settings, metrics=metrics)
    kopf.run(
        registry=registry_of(controller, settings),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
