"""FederatedTrainingJob, v1alpha1: the one document that runs on a laptop, in a cluster and across clusters."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from photon.api.base import ApiModel, CelRule, Name, ShortText
from photon.api.model import ModelSpec
from photon.api.participation import EvaluationSpec, ParticipationSpec, StopSpec
from photon.api.placement import AggregatorSpec, ClaimRetentionSpec, Participant, StorageSpec
from photon.api.status import JobStatus
from photon.api.training import ExchangeSpec, LocalSpec, OuterSpec, ParallelStrategy

GROUP: Final = "photon.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "FederatedTrainingJob"
PLURAL: Final = "federatedtrainingjobs"
MAX_PARTICIPANTS: Final = 256
# An annotation of a job in a cluster: another value asks for what failed to be tried again, once.
RETRY: Final = f"{GROUP}/retry"


class JobSpec(ApiModel):
    """What is trained, by whom, how, and where."""

    model: ModelSpec
    storage: StorageSpec = StorageSpec()
    rounds: Annotated[
        int, Field(ge=1, le=10**6, description="Number of rounds to train. May be raised while the job runs.")
    ]
    stop: StopSpec = StopSpec()
    participation: ParticipationSpec = ParticipationSpec()
    local: LocalSpec = LocalSpec()
    outer: OuterSpec = OuterSpec.model_validate({})
    exchange: ExchangeSpec = ExchangeSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    aggregator: AggregatorSpec = AggregatorSpec()
    participants: Annotated[
        list[Participant],
        Field(
            min_length=1,
            max_length=MAX_PARTICIPANTS,
            description="The participants. May be added and removed while the job runs.",
        ),
    ]
    suspend: Annotated[
        bool, Field(description="Stop at the next round boundary. Nothing is lost; false resumes the job.")
    ] = False
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**9,
            description="Seconds the job may run before it fails. In a cluster, time while it is suspended or queued "
            "does not count, and a job that is resumed, retried or extended starts from zero.",
        ),
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(ge=0, le=10**9, description="In a cluster: seconds after completion until the job is deleted."),
    ] = None
    # Omitted when unset: nothing that programs need.
    persistent_volume_claim_retention_policy: Annotated[
        ClaimRetentionSpec | None,
        Field(
            exclude_if=lambda value: value is None,
            description="In a cluster: whether volume claims of workers are deleted before the job is. Default: no.",
        ),
    ] = None
    managed_by: Annotated[
        ShortText | None,
        Field(description="Name of another controller that manages this job. Photon's operator ignores the job."),
    ] = None
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule("self.model == oldSelf.model", "model is immutable", transition=True),
        CelRule(
            "self.storage.bucket == oldSelf.storage.bucket && self.storage.prefix == oldSelf.storage.prefix",
            "storage.bucket and storage.prefix are immutable",
            transition=True,
        ),
        CelRule("self.rounds >= oldSelf.rounds", "rounds may only grow", transition=True),
        CelRule(
            "!has(self.participation.cohortSize) || self.participation.cohortSize <= self.participants.size()",
            "participation.cohortSize must not be larger than the number of participants",
        ),
        CelRule(
            "!has(self.participation.quorum) || self.participation.quorum <= self.participants.size()",
            "participation.quorum must not be larger than the number of participants",
        ),
        CelRule(
            "self.local.strategy == 'FSDP' || self.participants.all(p, !has(p.worker) || "
            "(p.worker.nodes == 1 && (!has(p.worker.processesPerNode) || p.worker.processesPerNode == 1)))",
            "a participant with several nodes or processes needs local.strategy FSDP",
        ),
        CelRule(
            "has(self.managedBy) == has(oldSelf.managedBy) && "
            "(!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
            "managedBy is immutable",
            transition=True,
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [p.name for p in self.participants]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"participants: the name {twice[0]!r} is given twice")
        for field in ("cohort_size", "quorum"):
            value = getattr(self.participation, field)
            if value is not None and value > len(names):
                index = 3 if field == "cohort_size" else 4
                raise ValueError(f"{JobSpec.__cel_rules__[index].message} ({value} > {len(names)})")
        if self.local.strategy is ParallelStrategy.SINGLE:
            for p in self.participants:
                if p.worker is not None and (p.worker.nodes > 1 or p.worker.processes(self.local.strategy) > 1):
                    raise ValueError(f"{JobSpec.__cel_rules__[5].message} ({p.name})")
        return self

    @property
    def cohort_size(self) -> int:
        """Participants sampled for each round."""
        return self.participation.cohort_size or len(self.participants)

    @property
    def quorum(self) -> int:
        """Fewest accepted updates with which a round may commit."""
        return min(self.participation.quorum or self.cohort_size, self.cohort_size)


def _held(path: str, same: str) -> CelRule:
    """A rule for what ``learning.resolve`` holds: the aggregator of a job that has begun refuses another value of it.

    The digest is in the status from the first reconcile on that finds the job valid; until then all may be edited.
    """
    return CelRule(
        f"!has(self.status) || !has(self.status.documentDigest) || {same}",
        f"{path} cannot change once the job has started: apply a new job with another storage.prefix",
        transition=True,
        path=f".spec.{path}",
    )


def _same(path: str) -> str:
    return f"self.spec.{path} == oldSelf.spec.{path}"


class ObjectMeta(ApiModel):
    """The part of Kubernetes' metadata that a job file may state."""

    name: Name
    namespace: Name | None = None
    labels: Annotated[dict[str, str], Field(max_length=64)] = {}
    annotations: Annotated[dict[str, str], Field(max_length=64)] = {}


class FederatedTrainingJob(ApiModel):
    """A job."""

    api_version: Literal["photon.dev/v1alpha1"]
    kind: Literal["FederatedTrainingJob"]
    metadata: ObjectMeta
    spec: JobSpec
    status: JobStatus | None = None
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        *(_held(path, _same(path)) for path in ("local", "outer", "exchange.codec", "exchange.partBytes")),
        _held("participation.weighting", _same("participation.weighting")),
        _held(
            "participation.cohortSize",
            "(has(self.spec.participation.cohortSize) ? self.spec.participation.cohortSize : 0) == "
            "(has(oldSelf.spec.participation.cohortSize) ? oldSelf.spec.participation.cohortSize : 0)",
        ),
    )
