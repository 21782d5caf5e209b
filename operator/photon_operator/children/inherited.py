"""Labels and annotations of a job's objects beside the operator's: the chart's, and those of the job it lets pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from photon.api.job import GROUP
from photon_operator.job_defaults import JobDefaults

# How other programs know the job itself again: on a child they would take it for theirs, and delete or change it.
_NEVER: Final = (
    *(f"{GROUP}/", "app.kubernetes.io/", "argocd.argoproj.io/", "helm.sh/", "kubectl.kubernetes.io/"),
    *("kustomize.toolkit.fluxcd.io/", "meta.helm.sh/"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What every object and pod of a job has."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def inherited(defaults: JobDefaults, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Inherited:
    """``labels`` and ``annotations``: the job's own; of them those that the administrator lets its objects have."""
    passing = defaults.inherited_metadata
    return Inherited(
        labels={**_passing(labels, passing.get("labels", ())), **defaults.labels},
        annotations={**_passing(annotations, passing.get("annotations", ())), **defaults.annotations},
    )


def _passing(given: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    allowed = tuple(patterns)
    return {
        key: value for key, value in given.items() if not key.startswith(_NEVER) and any(_fits(key, p) for p in allowed)
    }


def _fits(key: str, pattern: str) -> bool:
    """A pattern is a key, or the beginning of one and ``*``."""
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern
