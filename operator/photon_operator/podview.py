"""A pod as the API server holds it -> PodChild."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from photon.launch import Role
from photon_operator import names
from photon_operator.observed import PodChild


def pod_of(body: Mapping[str, Any]) -> PodChild:
    """What the reconciler wants to know of a pod."""
    metadata, status = body["metadata"], body.get("status", {})
    labels = metadata.get("labels", {})
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled", {})
    waiting, terminated = _container(status)
    owners = [reference["name"] for reference in metadata.get("ownerReferences") or [] if reference["kind"] == "Job"]
    return PodChild(
        name=metadata["name"],
        role=Role(labels[names.LABEL_ROLE]),
        participant=labels.get(names.LABEL_PARTICIPANT),
        owner=owners[0] if owners else "",
        phase=status.get("phase", "Pending"),
        created=datetime.fromisoformat(metadata["creationTimestamp"]).timestamp(),
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting=metadata.get("deletionTimestamp") is not None,
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else None,
        waiting=waiting,
        terminated=terminated,
    )


def _container(status: Mapping[str, Any]) -> tuple[tuple[str, str] | None, tuple[str, str, int] | None]:
    waiting: tuple[str, str] | None = None
    terminated: tuple[str, str, int] | None = None
    for container in status.get("containerStatuses") or []:
        state = container.get("state", {})
        if found := state.get("waiting"):
            waiting = (found.get("reason", ""), found.get("message", ""))
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
        if ended:
            terminated = (ended.get("reason", ""), ended.get("message", ""), int(ended.get("exitCode", 0)))
    return waiting, terminated
