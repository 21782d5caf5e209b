"""``spec.storage``, ``spec.aggregator``, ``spec.participants``: where things run and where bytes lie.

None of it shapes learning, so none of it is in the job's digest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from photon.api.base import ApiModel, CelRule, Location, LongText, Name, ShortText
from photon.api.training import ParallelStrategy

MAX_DATA_SOURCES = 256

Quantity = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
_SECRET = (
    "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN where they are temporary; on a "
    "laptop the environment's."
)
LabelValue = Annotated[str, Field(max_length=63)]


class SecretRef(ApiModel):
    """A Secret in the job's namespace."""

    name: Annotated[ShortText, Field(description="Name of the Secret.")]


class RetentionSpec(ApiModel):
    """What stays in the bucket; commits, plans and manifests always do."""

    keep_last_rounds: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**6,
            description="Keep global models and updates of the last N rounds; default all: the bucket grows with each.",
        ),
    ] = None
    keep_every_rounds: Annotated[
        int | None, Field(ge=1, le=10**6, description="Keep besides each so-many-th global model.")
    ] = None


class DeletionPolicy(StrEnum):
    """What becomes of what a job wrote when the job is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class StorageSpec(ApiModel):
    """S3-compatible object storage of the coordinating institution."""

    endpoint: Annotated[
        LongText | None,
        Field(
            pattern=r"^https?://",
            description="URL of the S3 API; without it `photon run` starts SeaweedFS, and a cluster uses AWS.",
        ),
    ] = None
    bucket: Annotated[
        str,
        Field(
            min_length=3,
            max_length=63,
            pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$",
            description="It must be there; `photon run` with its own SeaweedFS makes it.",
        ),
    ] = "photon"
    prefix: Annotated[
        str,
        Field(
            max_length=512,
            pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$",
            description="What the job's keys begin with: one of its own for each job.",
        ),
    ] = ""
    region: Annotated[ShortText, Field(description="Region of the bucket, which requests are signed for.")] = (
        "us-east-1"
    )
    credentials_secret_ref: Annotated[
        SecretRef | None,
        Field(description=_SECRET),
    ] = None
    retention: RetentionSpec = RetentionSpec()
    deletion_policy: Annotated[
        DeletionPolicy,
        Field(description="Whether deleting the job in a cluster also deletes what it wrote below its prefix."),
    ] = DeletionPolicy.RETAIN


class Resources(ApiModel):
    """What one process may use."""

    cpus: Annotated[int, Field(ge=1, le=1024, description="CPU cores; also the number of compute threads.")] = 1
    memory: Annotated[Quantity | None, Field(description="For example 16Gi.")] = None
    gpus: Annotated[int, Field(ge=0, le=64, description="GPUs per node.")] = 0
    gpu_resource: Annotated[ShortText, Field(description="Resource name that a GPU is asked for by.")] = (
        "nvidia.com/gpu"
    )


class PodSettings(ApiModel):
    """How pods are placed; ignored on a laptop."""

    resources: Resources = Resources()
    image: Annotated[LongText | None, Field(description="Default: the image that the operator was installed with.")] = (
        None
    )
    node_selector: Annotated[
        dict[str, LabelValue], Field(max_length=64, description="Labels that a node must have.")
    ] = {}
    priority_class_name: Annotated[ShortText | None, Field(description="PriorityClass of the pods.")] = None
    tolerations: Annotated[
        list[dict[str, Any]], Field(max_length=64, description="Taints of nodes that the pods tolerate, as in a pod.")
    ] = []
    pod_template_patch: Annotated[
        dict[str, Any] | None, Field(description="Strategic merge patch of the pod template, applied last.")
    ] = None


class AggregatorSpec(PodSettings):
    """The job's one aggregator."""

    resources: Resources = Resources(cpus=2)


class DataSource(ApiModel):
    """One prepared folder of a mixture, read in the order that the participant of this name would read it in."""

    name: Annotated[Name, Field(description="Decides the order in which the folder is read.")]
    uri: Annotated[Location, Field(description="As data.uri.")]


class DataSpec(ApiModel):
    """A participant's prepared data: the output folder of `photon data prepare`, or an even mixture of several."""

    uri: Annotated[
        Location | None,
        Field(description="Folder with index.json: a path (relative to the job file) or s3://bucket/prefix."),
    ] = None
    sources: Annotated[
        list[DataSource] | None,
        Field(
            min_length=1,
            max_length=MAX_DATA_SOURCES,
            description="Several folders; each gives an equal share of every batch. batchSize must be a multiple.",
        ),
    ] = None
    endpoint: Annotated[
        LongText | None,
        Field(
            pattern=r"^https?://",
            description="URL of the S3 API that holds s3:// data; default AWS, or AWS_ENDPOINT_URL on a laptop.",
        ),
    ] = None
    credentials_secret_ref: Annotated[
        SecretRef | None,
        Field(description=_SECRET),
    ] = None
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule("has(self.uri) != has(self.sources)", "data needs either uri or sources"),
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.uri is None) == (self.sources is None):
            raise ValueError(DataSpec.__cel_rules__[0].message)
        return self


class WorkDirType(StrEnum):
    """What a worker's folder lies on in a cluster."""

    CLAIM = "Claim"
    EMPTY_DIR = "EmptyDir"


class AccessMode(StrEnum):
    """Who may mount a claim at a time, as Kubernetes names it."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"


class WorkDirSpec(ApiModel):
    """The folder of a worker's local checkpoints, cached models and data; on a laptop it is within the run's folder."""

    type: Annotated[
        WorkDirType,
        Field(
            description="Claim: a volume claim that outlives the worker's pods and goes with the job. EmptyDir: goes"
            " with the pod; with local.state Keep so does AdamW's state, and then the final model is another."
        ),
    ] = WorkDirType.CLAIM
    size: Annotated[
        Quantity | None,
        Field(
            description="Of the claim. Default: 10Gi and 48 bytes for each parameter of the model that model.preset or"
            " model.config describes, at least 20Gi; 20Gi for one from a checkpoint. Data that comes from S3 lies here"
            " too: count it."
        ),
    ] = None
    storage_class_name: Annotated[ShortText | None, Field(description="Default: the cluster's.")] = None
    access_mode: Annotated[
        AccessMode | None,
        Field(description="Default: ReadWriteOnce for one node, ReadWriteMany for several, which share the claim."),
    ] = None


class WorkerSpec(PodSettings):
    """A participant that runs here."""

    data: DataSpec
    work_dir: Annotated[WorkDirSpec, Field(description="Where a worker's folder lies in a cluster.")] = WorkDirSpec()
    nodes: Annotated[int, Field(ge=1, le=4096, description="Pods of the participant; more than one needs FSDP.")] = 1
    # Omitted when unset: programs of an earlier release, which know only numbers, still read the document.
    processes_per_node: Annotated[
        int | None,
        Field(
            ge=1,
            le=64,
            exclude_if=lambda value: value is None,
            description="Processes on each node, one for each of its GPUs. Default: with FSDP resources.gpus, else 1.",
        ),
    ] = None
    checkpoint_every_steps: Annotated[
        int,
        Field(ge=1, le=10**6, description="A local checkpoint each so many steps: what a killed worker loses."),
    ] = 50

    def processes(self, strategy: ParallelStrategy) -> int:
        """Processes on each node."""
        if self.processes_per_node is not None:
            return self.processes_per_node
        return max(1, self.resources.gpus) if strategy is ParallelStrategy.FSDP else 1


class RemoteSpec(ApiModel):
    """A participant that joins from elsewhere."""


class Participant(ApiModel):
    """An institution's share in a job."""

    name: Annotated[Name, Field(description="Unique in the job; also in the names of its pods.")]
    worker: Annotated[WorkerSpec | None, Field(description="Runs here.")] = None
    remote: Annotated[
        RemoteSpec | None, Field(description="Runs elsewhere and asks this job's aggregator for work.")
    ] = None
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule("has(self.worker) != has(self.remote)", "a participant has either worker or remote"),
    )

    @model_validator(mode="after")
    def _here_or_elsewhere(self) -> Self:
        if (self.worker is None) == (self.remote is None):
            raise ValueError(Participant.__cel_rules__[0].message)
        return self
