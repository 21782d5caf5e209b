"""The restricted Pod Security Standard on every pod of a job, also after the user's patch.

A patch may add containers, volumes and variables; it may not take a job's pods below the standard, and what it would
lose is said by name instead of being lost in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

USER: Final = 10001

POD: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

# What the restricted standard lets a pod mount.
_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected"}
    | {"secret"}
)
_SECCOMP: Final = ("RuntimeDefault", "Localhost")
_CONTAINERS: Final = ("containers", "initContainers")


def with_basics(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's spec in which containers that a patch added have our basics where they say nothing."""
    secured = dict(spec)
    for kind in _CONTAINERS:
        if spec.get(kind):
            secured[kind] = [
                {**container, "securityContext": {**CONTAINER, **(container.get("securityContext") or {})}}
                for container in spec[kind]
            ]
    return secured


def violations(spec: Mapping[str, Any]) -> list[str]:
    """What of a pod's spec breaks the promise, each as ``field: must be ...``; fields are of the pod template."""
    return [*_pod(spec), *(text for kind in _CONTAINERS for text in _containers(spec, kind))]


def _pod(spec: Mapping[str, Any]) -> Iterator[str]:
    context = spec.get("securityContext") or {}
    if context.get("runAsNonRoot") is not True:
        yield "spec.securityContext.runAsNonRoot: must be true"
    if context.get("runAsUser") == 0:
        yield "spec.securityContext.runAsUser: must not be 0"
    if (context.get("seccompProfile") or {}).get("type") not in _SECCOMP:
        yield "spec.securityContext.seccompProfile.type: must be RuntimeDefault or Localhost"
    if spec.get("automountServiceAccountToken") is not False:
        yield "spec.automountServiceAccountToken: must be false"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"spec.{field}: must be false"
    for volume in spec.get("volumes") or []:
        for kind in sorted(set(volume) - {"name"} - _VOLUMES):
            yield f"spec.volumes[{volume.get('name')}].{kind}: is not allowed; use a persistentVolumeClaim"


def _containers(spec: Mapping[str, Any], kind: str) -> Iterator[str]:
    for container in spec.get(kind) or []:
        at = f"spec.{kind}[{container.get('name')}]"
        context = container.get("securityContext") or {}
        if context.get("privileged"):
            yield f"{at}.securityContext.privileged: must be false"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{at}.securityContext.allowPrivilegeEscalation: must be false"
        if context.get("runAsNonRoot") is False:
            yield f"{at}.securityContext.runAsNonRoot: must be true"
        if context.get("runAsUser") == 0:
            yield f"{at}.securityContext.runAsUser: must not be 0"
        capabilities = context.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or []):
            yield f"{at}.securityContext.capabilities.drop: must hold ALL"
        if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield f"{at}.securityContext.capabilities.add: must be empty"
        if (context.get("seccompProfile") or {}).get("type", _SECCOMP[0]) not in _SECCOMP:
            yield f"{at}.securityContext.seccompProfile.type: must be RuntimeDefault or Localhost"
        if any(port.get("hostPort") for port in container.get("ports") or []):
            yield f"{at}.ports: hostPort is not allowed"
