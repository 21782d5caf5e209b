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
