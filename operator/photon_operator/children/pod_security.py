"""The Pod Security Standards on every pod of a job, also after the user's patch, and who it may act as.

A job's pods are made to the restricted standard. A patch may add containers, volumes and variables; it may not take the
pods below the profile that the administrator gives their namespace (restricted, unless it says otherwise), nor give
them the rights of a service account that the administrator did not allow. What it would lose is said by name.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Linux). tests/cluster holds
this table to the test cases of k8s.io/pod-security-admission.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from photon_operator.job_defaults import Profile

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

# The other sources of a projected volume (serviceAccountToken, podCertificate) say who a pod is: it would not be a
# program of a job any more, but an account.
_PROJECTED: Final = frozenset({"clusterTrustBundle", "configMap", "downwardAPI", "secret"})
# What the restricted standard lets a pod mount.
_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected"}
    | {"secret"}
)
# What the baseline standard lets a container add.
_CAPABILITIES: Final = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP"}
    | {"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)
_PROFILES: Final = ("RuntimeDefault", "Localhost")
_SELINUX_TYPES: Final = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_CONTAINERS: Final = ("containers", "initContainers")
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS: Final = ("postStart", "preStop")
_HANDLERS: Final = ("httpGet", "tcpSocket")


def of_pod(user: Mapping[str, Any]) -> dict[str, Any]:
    """The security context of a pod whose ``user`` and groups the administrator decides, or leaves to the cluster."""
    assigned = ("runAsUser", "runAsGroup", "fsGroup")
    return {name: value for name, value in POD.items() if name not in assigned} | dict(user)


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


def violations(template: Mapping[str, Any], profile: Profile = Profile.RESTRICTED) -> list[str]:
    """What of a pod template breaks the standard ``profile``, each as ``field: must be ...``."""
    spec = template["spec"]
    found = list(_never(spec))
    if profile is Profile.PRIVILEGED:
        return found
    return [
        *found,
        *_annotations(template.get("metadata") or {}),
        *_pod(spec, profile),
        *(text for kind in _CONTAINERS for text in _containers(spec, kind, profile)),
    ]


def rights(spec: Mapping[str, Any], allowed: Collection[str], operators: str = "") -> list[str]:
    """What of a pod's spec would let it act as a service account, each as ``field: ...``.

    ``allowed``: names of the service accounts that the administrator lets jobs run as. Without one, a pod runs as its
    namespace's ``default`` and holds no token. ``operators``: the operator's own, which no job may have, in whatever
    namespace and also if it is listed.
    """
    return list(_rights(spec, allowed, operators))


def _rights(spec: Mapping[str, Any], allowed: Collection[str], operators: str) -> Iterator[str]:
    for field in ("serviceAccountName", "serviceAccount"):
        name = spec.get(field)
        if name and name == operators:
            yield f"spec.{field}: {name!r} is the operator's own service account, which no job may have"
        elif name and name != "default" and name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            yield (
                f"spec.{field}: {name!r} is not among the service accounts that jobs may run as ({known}); "
                "the administrator lists them in the chart's jobs.serviceAccounts"
            )
    if spec.get("automountServiceAccountToken") is not False:
        yield "spec.automountServiceAccountToken: must be false"
    for volume in spec.get("volumes") or []:
        for source in (volume.get("projected") or {}).get("sources") or []:
            for kind in sorted(set(source or ()) - _PROJECTED):
                yield (
                    f"spec.volumes[{volume.get('name')}].projected.sources: {kind} is not allowed; the pods of a job "
                    "do not talk to the API server"
                )


def _annotations(metadata: Mapping[str, Any]) -> Iterator[str]:
    for name, profile in (metadata.get("annotations") or {}).items():
        if name.startswith(_APPARMOR) and not (profile in ("", "runtime/default") or profile.startswith("localhost/")):
            yield f"metadata.annotations[{name}]: must be runtime/default or localhost/PROFILE"


def _never(spec: Mapping[str, Any]) -> Iterator[str]:
    if spec.get("ephemeralContainers"):  # the API server says so too, of each Job, and less clearly
        yield "spec.ephemeralContainers: is not allowed; use initContainers, or kubectl debug while the pod runs"


def _pod(spec: Mapping[str, Any], profile: Profile) -> Iterator[str]:
    context = spec.get("securityContext") or {}
    restricted = profile is Profile.RESTRICTED
    yield from _context(context, "spec.securityContext", profile)
    if (spec.get("os") or {}).get("name", "linux") != "linux":
        yield "spec.os.name: must be linux"
    if (
        restricted
        and context.get("runAsNonRoot") is not True
        and not _all_say(spec, lambda own: own.get("runAsNonRoot") is True)
    ):
        yield "spec.securityContext.runAsNonRoot: must be true"
    if restricted and not _has_profile(context) and not _all_say(spec, _has_profile):
        yield "spec.securityContext.seccompProfile.type: must be RuntimeDefault or Localhost"
    for sysctl in context.get("sysctls") or []:
        if sysctl.get("name") not in _SYSCTLS:
            yield f"spec.securityContext.sysctls: {sysctl.get('name')} is not allowed"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"spec.{field}: must be false"
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"} - _VOLUMES if restricted else set(volume) & {"hostPath"}
        for kind in sorted(kinds):
            yield f"spec.volumes[{volume.get('name')}].{kind}: is not allowed; use a persistentVolumeClaim"


def _has_profile(context: Mapping[str, Any]) -> bool:
    return (context.get("seccompProfile") or {}).get("type") in _PROFILES


def _all_say(spec: Mapping[str, Any], holds: Any) -> bool:
    """Whether every container says it itself, so that the pod need not."""
    contexts = [container.get("securityContext") or {} for kind in _CONTAINERS for container in spec.get(kind) or []]
    return bool(contexts) and all(holds(context) for context in contexts)


def _context(context: Mapping[str, Any], at: str, profile: Profile) -> Iterator[str]:
    """What a pod's and a container's security context have in common."""
    if profile is Profile.RESTRICTED and context.get("runAsUser") == 0:
        yield f"{at}.runAsUser: must not be 0"
    if (context.get("seccompProfile") or {}).get("type", _PROFILES[0]) not in _PROFILES:
        yield f"{at}.seccompProfile.type: must be RuntimeDefault or Localhost"
    if (context.get("appArmorProfile") or {}).get("type", _PROFILES[0]) not in _PROFILES:
        yield f"{at}.appArmorProfile.type: must be RuntimeDefault or Localhost"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{at}.windowsOptions.hostProcess: must be false"
    labels = context.get("seLinuxOptions") or {}
    if labels.get("type", "") not in _SELINUX_TYPES:
        yield f"{at}.seLinuxOptions.type: must be one of {', '.join(_SELINUX_TYPES[1:])}"
    for field in ("user", "role"):
        if labels.get(field):
            yield f"{at}.seLinuxOptions.{field}: must not be set"


def _containers(spec: Mapping[str, Any], kind: str, profile: Profile) -> Iterator[str]:
    for container in spec.get(kind) or []:
        at = f"spec.{kind}[{container.get('name')}]"
        context = container.get("securityContext") or {}
        yield from _context(context, f"{at}.securityContext", profile)
        if context.get("privileged"):
            yield f"{at}.securityContext.privileged: must be false"
        capabilities = context.get("capabilities") or {}
        added = set(capabilities.get("add") or [])
        if profile is Profile.RESTRICTED:
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"{at}.securityContext.allowPrivilegeEscalation: must be false"
            if context.get("runAsNonRoot") is False:
                yield f"{at}.securityContext.runAsNonRoot: must be true"
            if "ALL" not in (capabilities.get("drop") or []):
                yield f"{at}.securityContext.capabilities.drop: must hold ALL"
            if added - {"NET_BIND_SERVICE"}:
                yield f"{at}.securityContext.capabilities.add: must be empty"
        elif added - _CAPABILITIES:
            yield f"{at}.securityContext.capabilities.add: {', '.join(sorted(added - _CAPABILITIES))} is not allowed"
        if context.get("procMount", "Default") != "Default":
            yield f"{at}.securityContext.procMount: must be Default"
        if any(port.get("hostPort") for port in container.get("ports") or []):
            yield f"{at}.ports: hostPort is not allowed"
        handlers = {name: container.get(name) for name in _PROBES}
        handlers |= {f"lifecycle.{name}": (container.get("lifecycle") or {}).get(name) for name in _HOOKS}
        for name, handler in handlers.items():
            if any(((handler or {}).get(means) or {}).get("host") for means in _HANDLERS):
                yield f"{at}.{name}: host is not allowed"
