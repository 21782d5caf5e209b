"""A later release of the operator: its document has more fields, and a default is another."""

from __future__ import annotations

from typing import Annotated, Any
from unittest import mock

from pydantic import Field

from photon.api import placement
from photon.api.base import ApiModel, ShortText
from photon.api.job import MAX_PARTICIPANTS, FederatedTrainingJob, JobSpec
from photon.api.placement import AggregatorSpec, StorageSpec, WorkerSpec
from photon.api.training import LocalSpec
from photon_operator.decide import reconcile
from tools import crd


class Privacy(ApiModel):
    """New."""

    mode: ShortText = "Off"
    budget: float | None = None


class LaterWorker(WorkerSpec):
    """With two more fields."""

    network: ShortText | None = None
    runtime: Privacy = Privacy()


class Participant(placement.Participant):
    """With that worker; of the same name, by which the CRD knows the key of its list."""

    worker: LaterWorker | None = None


class LaterAggregator(AggregatorSpec):
    """With one more field."""

    replicas: Annotated[int, Field(ge=1, le=8)] = 1


class LaterStorage(StorageSpec):
    """With one more field."""

    path_style: bool = True


class LaterLocal(LocalSpec):
    """With another default."""

    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 4096


class LaterSpec(JobSpec):
    """With one more field, and all of those."""

    privacy: Privacy = Privacy()
    storage: LaterStorage = LaterStorage()
    local: LaterLocal = LaterLocal()
    aggregator: LaterAggregator = LaterAggregator()
    participants: Annotated[list[Participant], Field(min_length=1, max_length=MAX_PARTICIPANTS)]  # type: ignore[assignment]


class LaterJob(FederatedTrainingJob):
    """The document of that release."""

    spec: LaterSpec


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition of that release."""
    with mock.patch.object(crd, "JobSpec", LaterSpec):
        return crd.definition()


def main() -> None:
    """photon-operator of that release."""
    from photon_operator.main import main as program

    reconcile.FederatedTrainingJob = LaterJob  # type: ignore[misc]
    program()
