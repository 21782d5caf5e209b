"""How a job ended, left where a launcher finds it after the process is gone: a pod's termination message.

An operator that was down while the job ended reads it later from the pod. Kubernetes keeps 4096 bytes of it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from photon.api.status import JobStatus
from photon.launch import TERMINATION_LOG

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 4096


def last_words(status: JobStatus, *, limit: int = MAX_BYTES) -> bytes:
    """``status`` as JSON in at most ``limit`` bytes: without participants where they do not fit, else with short
    messages."""
    words = _json(status)
    if len(words) > limit:
        present = status.participants_present
        words = _json(status.model_copy(update={"participants": [], "participants_present": present}))
    if len(words) > limit:
        conditions = [c.model_copy(update={"message": c.message[:200]}) for c in status.conditions]
        words = _json(status.model_copy(update={"participants": [], "conditions": conditions}))
    return words


def write(path: Path, status: JobStatus) -> None:
    """Write the termination message. If that fails, the process ends as it would have."""
    try:
        path.write_bytes(last_words(status))
    except OSError as error:
        logger.warning("%s (%s) cannot be written: %s", TERMINATION_LOG, path, error.strerror or error)


def _json(status: JobStatus) -> bytes:
    return status.model_dump_json(by_alias=True, exclude_none=True).encode()
