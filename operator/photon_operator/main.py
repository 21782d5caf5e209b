"""``photon-operator``: makes the pods of FederatedTrainingJobs. All it is told comes from the environment."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import socket
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

import kopf
from prometheus_client import disable_created_metrics
from urllib3.exceptions import HTTPError

from photon.api.job import KIND
from photon.api.status import ClusterReason
from photon.ending import Ended, exit_with_mistake, leave, record_of
from photon.errors import UserError
from photon.exit_codes import EXIT_FAILED
from photon.protocol.termination import TERMINATION_LOG, Termination
from photon.telemetry.logging import configure
from photon.version import release
from photon_operator.cluster.cache import Cache
from photon_operator.cluster.client import Api, ApiError, connect
from photon_operator.cluster.leadership import Leadership
from photon_operator.controller import Controller
from photon_operator.metrics import OperatorMetrics
from photon_operator.settings import VARIABLES, Settings, SettingsError
from photon_operator.watch import registry_of

log = logging.getLogger(__name__)

# Less than the chart's startup probe waits.
DEFINITION_SECONDS: Final = 45.0
_CHATTY: Final = ("kopf", "httpx", "httpcore", "aiohttp", "urllib3", "kubernetes")


def _wait_for_definition(api: Api, settings: Settings) -> None:
    """kopf looks for the jobs' definition only when it starts, so that must be there before. A namespace that may not
    be read says nothing of it: any other does."""
    deadline = time.monotonic() + DEFINITION_SECONDS
    places = itertools.cycle(settings.namespaces or (None,))
    refused: set[str | None] = set()
    while True:
        place = next(places)
        try:
            next(iter(api.listed(KIND, place)), None)
            return
        except (ApiError, HTTPError) as error:
            if isinstance(error, ApiError) and error.status == 403 and place not in refused:
                log.warning("jobs cannot be listed in %s: %s", place or "the cluster", error)
                refused.add(place)
                if len(refused) < len(settings.namespaces):
                    continue
            if time.monotonic() > deadline:
                hint = (
                    "; is manifests/crd.yaml installed?" if isinstance(error, ApiError) and error.status == 404 else ""
                )
                message = f"jobs cannot be listed: {error}{hint}"
                sys.stderr.write(f"error: {message}\n")
                raise Ended(Termination.of(ClusterReason.PROGRAM_FAILED, message, EXIT_FAILED)) from error
            log.warning("jobs cannot be listed yet: %s", error)
            time.sleep(2.0)


def with_certificates(settings: Settings) -> Settings:
    """The settings with what the file of certificates holds.

    Raises:
        SettingsError: It cannot be read, or has none.
    """
    if not settings.ca_file:
        return settings
    try:
        bundle = Path(settings.ca_file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"PHOTON_CA_FILE is {settings.ca_file!r}, which cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in bundle:
        raise SettingsError(f"PHOTON_CA_FILE is {settings.ca_file!r}, which holds no PEM certificate")
    return replace(settings, ca_bundle=bundle)


def _no_arguments() -> None:
    """Answers ``--help`` and ``--version``, and refuses everything else."""
    variables = {**VARIABLES, TERMINATION_LOG: "file for the termination record; default none"}
    width = max(map(len, variables))
    parser = argparse.ArgumentParser(
        prog="photon-operator",
        description="Makes the pods of FederatedTrainingJobs, until a signal ends it. It speaks to the cluster\n"
        "that it runs in; outside of one, to that of the kubeconfig.",
        epilog="environment (the chart sets it):\n"
        + "\n".join(f"  {name:<{width}}  {meaning}" for name, meaning in variables.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"photon-operator {release()}")
    parser.parse_args()


def main() -> None:
    """Entry point: runs until a signal, and leaves a termination record."""
    try:
        _run()
    except SystemExit as end:
        leave(record_of(end))
        raise
    except Exception as error:
        leave(Termination.of(ClusterReason.PROGRAM_FAILED, f"{type(error).__name__}: {error}", EXIT_FAILED))
        raise
    leave(record_of(SystemExit(0)))


def _run() -> None:
    _no_arguments()
    configure("operator")
    try:
        settings = with_certificates(Settings.of(os.environ))
    except UserError as error:
        exit_with_mistake(str(error))
    logging.getLogger("photon_operator").setLevel(settings.log_level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # as many series again, which have no reader
    cache = Cache()
    metrics = OperatorMetrics(cache)
    try:
        client = connect()
    except UserError as error:
        exit_with_mistake(str(error))
    # A renewal that hangs must not be waited for until the Lease is over.
    leases = Api(client, on_request=lambda _: metrics.requested("lease"), seconds=max(1.0, settings.lease_seconds / 4))
    leadership = Leadership(leases, settings, identity=f"{socket.gethostname()}_{uuid.uuid4()}")
    api = Api(client, on_request=metrics.requested, check=leadership.check)
    _wait_for_definition(api, settings)
    controller = Controller(api=api, cache=cache, settings=settings, metrics=metrics, leadership=leadership)
    kopf.run(
        registry=registry_of(controller, settings),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
