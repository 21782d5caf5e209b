"""Whose a prefix is: owner.json, created if absent by the first program of a job that writes there, never changed.

It is in no digest: a job may move, and what it trained does not depend on where. A job is known by its name and
namespace, not by a uid: one that is deleted and applied again goes on with its data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field

from photon.api.base import ApiModel, Name
from photon.api.job import FederatedTrainingJob

# Environment of a program in a cluster: the namespace of its job.
NAMESPACE_VARIABLE: Final = "PHOTON_JOB_NAMESPACE"

Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class Owner(ApiModel):
    """The job that owns a prefix. ``namespace``: None of a job that names none, as most that ``photon run`` runs."""

    # What a later release adds is not to make a prefix somebody else's.
    model_config = ConfigDict(extra="ignore")

    job: Name
    namespace: Namespace | None = None

    @classmethod
    def of(cls, job: FederatedTrainingJob, environ: Mapping[str, str]) -> Self:
        """``job`` as an owner; in a cluster the environment has its namespace."""
        return cls(job=job.metadata.name, namespace=environ.get(NAMESPACE_VARIABLE) or job.metadata.namespace)

    def covers(self, other: Owner) -> bool:
        """Whether it is the same job, as far as both say."""
        return self.job == other.job and (
            self.namespace is None or other.namespace is None or self.namespace == other.namespace
        )

    def __str__(self) -> str:
        return self.job if self.namespace is None else f"{self.namespace}/{self.job}"
