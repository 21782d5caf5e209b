"""What the administrator gives the pods and objects of all jobs: the chart's ``jobs``, as JSON in one variable.

None of it is in a digest: a setting that is changed counts for pods that are made from then on, and restarts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from photon.api import pod_fields
from photon.api.document import spell
from photon.errors import UserError
from photon_operator.errors import OperatorError

VARIABLE: Final = "PHOTON_JOB_DEFAULTS"
# Who a container runs as where no cluster decides it; the images are made for this user.
USER: Final[Mapping[str, int]] = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}


class Profile(StrEnum):
    """A Pod Security Standard."""

    RESTRICTED = "restricted"
    BASELINE = "baseline"
    PRIVILEGED = "privileged"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSecurity:
    """The profile that pods of jobs must keep to, by namespace; ``default`` in all others."""

    default: Profile = Profile.RESTRICTED
    namespaces: Mapping[str, Profile] = field(default_factory=dict)

    def of(self, namespace: str) -> Profile:
        return self.namespaces.get(namespace, self.default)

    @classmethod
    def parse(cls, given: Any) -> PodSecurity:
        """Raises DefaultsError: A profile is unknown."""
        if not isinstance(given, dict) or not isinstance(given.get("namespaces") or {}, dict):
            raise DefaultsError("jobs.podSecurity: must be {default: PROFILE, namespaces: {NAMESPACE: PROFILE}}")
        return cls(
            default=_profile("default", given.get("default") or Profile.RESTRICTED),
            namespaces={
                name: _profile(f"namespaces.{name}", value) for name, value in (given.get("namespaces") or {}).items()
            },
        )


def _profile(at: str, value: Any) -> Profile:
    try:
        return Profile(value)
    except ValueError as error:
        known = ", ".join(each.value for each in Profile)
        raise DefaultsError(f"jobs.podSecurity.{at}: {value!r} is no profile; there are {known}") from error


class DefaultsError(OperatorError, UserError):
    """The variable cannot be used; the message names the field of the chart and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefaults:
    """What a job's own settings are added to, and may override.

    ``extra_env``, ``extra_env_from``: of every container, as Kubernetes has them. ``labels``, ``annotations``: of every
    object and every pod. ``inherited_metadata``: ``labels`` and ``annotations`` that objects take over from their job:
    keys, or beginnings of keys and ``*``. ``resources``: ``requests`` and ``limits`` of every container.
    ``pod_template_patch``: applied before that of the job. ``security_context``: user and groups; empty where the
    cluster assigns them. ``pod_security``: what no patch may take pods below.
    ``memory_by_model``: pods ask for memory by the size of the model where nothing else says how much.
    """

    extra_env: Sequence[Mapping[str, Any]] = ()
    extra_env_from: Sequence[Mapping[str, Any]] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    priority_class_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    inherited_metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pod_template_patch: Mapping[str, Any] = field(default_factory=dict)
    security_context: Mapping[str, int] = field(default_factory=lambda: dict(USER))
    pod_security: PodSecurity = field(default_factory=PodSecurity)
    memory_by_model: bool = True

    @classmethod
    def of(cls, given: Any) -> JobDefaults:
        """The defaults that the chart states.

        Raises:
            DefaultsError: A field is unknown or not as Kubernetes has it.
        """
        if not isinstance(given, dict):
            raise DefaultsError(f"{VARIABLE} must be a JSON object, as the chart writes it of its value jobs")
        given = dict(given)
        security = PodSecurity.parse(given.pop("podSecurity", None) or {})
        unknown = sorted(set(given) - set(_FIELDS))
        if unknown:
            raise DefaultsError(f"{VARIABLE}: {unknown[0]} is unknown; there are {', '.join(sorted(_FIELDS))}")
        for name, value in given.items():
            for path, problem in pod_fields.misshapen(value, _FIELDS[name][1]):
                raise DefaultsError(f"jobs.{spell((name, *path))}: {problem}")
        # A null takes a value of the chart away.
        known = {_FIELDS[name][0]: _without_null(value) for name, value in given.items() if value is not None}
        return cls(**known, pod_security=security)


_FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "extraEnv": ("extra_env", "[V1EnvVar]"),
    "extraEnvFrom": ("extra_env_from", "[V1EnvFromSource]"),
    "nodeSelector": ("node_selector", "{scalar}"),
    "tolerations": ("tolerations", f"[{pod_fields.TOLERATION}]"),
    "priorityClassName": ("priority_class_name", "scalar"),
    "labels": ("labels", "{scalar}"),
    "annotations": ("annotations", "{scalar}"),
    "inheritedMetadata": ("inherited_metadata", "{[scalar]}"),
    "resources": ("resources", "V1ResourceRequirements"),
    "podTemplatePatch": ("pod_template_patch", pod_fields.POD_TEMPLATE),
    "memoryByModel": ("memory_by_model", "scalar"),
    "securityContext": ("security_context", "V1PodSecurityContext"),
}


def _without_null(value: Any) -> Any:
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value
