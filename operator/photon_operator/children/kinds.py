"""Kinds of the objects that a job consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Object = Mapping[str, Any]

CONFIG_MAP: Final = "ConfigMap"
SECRET: Final = "Secret"
SERVICE: Final = "Service"
CLAIM: Final = "PersistentVolumeClaim"
JOB: Final = "Job"
POD: Final = "Pod"
NETWORK_POLICY: Final = "NetworkPolicy"

# Of every other kind it is v1.
API_VERSIONS: Final[Mapping[str, str]] = {JOB: "batch/v1", NETWORK_POLICY: "networking.k8s.io/v1"}
