"""``spec.storage``, ``spec.aggregator``, ``spec.participants``: where processes run and where objects are stored.

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
    "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and for temporary ones AWS_SESSION_TOKEN. `photon run` "
    "reads the environment instead."
)
LabelValue = Annotated[str, Field(max_length=63)]


class SecretRef(ApiModel):
    """A Secret in the job's namespace."""

    name: Annotated[ShortText, Field(description="Name of the Secret.")]


class RetentionSpec(ApiModel):
    """What is kept in the bucket. Commits, plans and manifests are always kept."""

    keep_last_rounds: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**6,
            description="Number of most recent rounds whose model and updates are kept. Default: all, so the bucket "
            "grows every round.",
        ),
    ] = None
    keep_every_rounds: Annotated[
        int | None, Field(ge=1, le=10**6, description="Also keep every Nth round's global model.")
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
            description="URL of the S3 API. Default: `photon run` starts SeaweedFS, a cluster uses AWS.",
        ),
    ] = None
    bucket: Annotated[
        str,
        Field(
            min_length=3,
            max_length=63,
            pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$",
            description="Must already exist, unless `photon run` starts its own SeaweedFS.",
        ),
    ] = "photon"
    prefix: Annotated[
        str,
        Field(
            max_length=512,
            pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$",
            description="Key prefix. Must be unique per job.",
        ),
    ] = ""
    region: Annotated[ShortText, Field(description="Region of the bucket, used to sign requests.")] = "us-east-1"
    credentials_secret_ref: Annotated[
        SecretRef | None,
        Field(description=_SECRET),
    ] = None
    retention: RetentionSpec = RetentionSpec()
    deletion_policy: Annotated[
        DeletionPolicy,
        Field(description="In a cluster: whether deleting the job also deletes what it wrote below its prefix."),
    ] = DeletionPolicy.RETAIN


class Resources(ApiModel):
    """What one process may use."""

    cpus: Annotated[int, Field(ge=1, le=1024, description="CPU cores. Also the number of compute threads.")] = 1
    memory: Annotated[Quantity | None, Field(description="Memory, for example 16Gi.")] = None
    gpus: Annotated[int, Field(ge=0, le=64, description="GPUs per node.")] = 0
    gpu_resource: Annotated[ShortText, Field(description="Resource name of a GPU.")] = "nvidia.com/gpu"


class PodSettings(ApiModel):
    """How pods are placed. Ignored by `photon run`."""

    resources: Resources = Resources()
    image: Annotated[
        LongText | None, Field(description="Container image. Default: the image that the operator was installed with.")
    ] = None
    node_selector: Annotated[
        dict[str, LabelValue], Field(max_length=64, description="Labels that a node must have.")
    ] = {}
    priority_class_name: Annotated[ShortText | None, Field(description="PriorityClass of the pods.")] = None
    # Omitted when unset: programs of an earlier release still read the document.
    service_account_name: Annotated[
        str | None,
        Field(
            max_length=253,
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
            exclude_if=lambda value: value is None,
            description="ServiceAccount of the pods, for the identity that a cloud gives it. One that the "
            "administrator allows in jobs.serviceAccounts of the chart. Default: none, so pods have no identity.",
        ),
    ] = None
    tolerations: Annotated[list[dict[str, Any]], Field(max_length=64, description="Tolerations of the pods.")] = []
    pod_template_patch: Annotated[
        dict[str, Any] | None, Field(description="Strategic merge patch of the pod template, applied last.")
    ] = None


class AggregatorSpec(PodSettings):
    """The job's one aggregator."""

    resources: Resources = Resources(cpus=2)


class DataSource(ApiModel):
    """One prepared folder of a mixture, read in the order in which a participant of this name would read it."""

    name: Annotated[Name, Field(description="Seed of the order in which the folder is read.")]
    uri: Annotated[Location, Field(description="Folder with index.json, as in data.uri.")]


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
            description="Several folders. Each contributes an equal share of every batch, so batchSize must be a "
            "multiple of their number.",
        ),
    ] = None
    endpoint: Annotated[
        LongText | None,
        Field(
            pattern=r"^https?://",
            description="URL of the S3 API for s3:// data. Default: AWS; with `photon run`, AWS_ENDPOINT_URL if set.",
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
    """In a cluster: the volume of a worker's folder."""

    CLAIM = "Claim"
    EMPTY_DIR = "EmptyDir"


class AccessMode(StrEnum):
    """Who may mount a claim at a time, as Kubernetes names it."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"


class ClaimRetention(StrEnum):
    """What becomes of the volume claims of workers."""

    RETAIN = "Retain"
    DELETE = "Delete"


class ClaimRetentionSpec(ApiModel):
    """When the volume claims of workers are deleted before the job itself is, as a StatefulSet has it."""

    when_finished: Annotated[
        ClaimRetention,
        Field(
            description="Whether the claims are deleted when the job is complete. More rounds then start with a fresh "
            "state of the optimizer. The claims of a failed job are always kept."
        ),
    ] = ClaimRetention.RETAIN
    when_removed: Annotated[
        ClaimRetention,
        Field(
            description="Whether the claim of a participant is deleted when the participant is removed from the job. "
            "Retain: if it is added again, it continues with its state of the optimizer."
        ),
    ] = ClaimRetention.RETAIN


class WorkDirSpec(ApiModel):
    """The folder of a worker's local checkpoints, cached models and data. Of a run on one machine: in its folder."""

    type: Annotated[
        WorkDirType,
        Field(
            description="Claim: a volume claim that outlives the worker's pods and is deleted with the job. EmptyDir: "
            "lost with the pod; with local.state Keep the optimizer's state is lost, too, which changes "
            "the final model."
        ),
    ] = WorkDirType.CLAIM
    size: Annotated[
        Quantity | None,
        Field(
            description="Size of the claim. Default: 10Gi and 48 bytes for each parameter of the model that "
            "model.preset or model.config describes, at least 20Gi; 20Gi for one from a checkpoint. Data "
            "from S3 is cached here, too: add its size."
        ),
    ] = None
    storage_class_name: Annotated[
        ShortText | None, Field(description="StorageClass of the claim. Default: the cluster's default.")
    ] = None
    access_mode: Annotated[
        AccessMode | None,
        Field(
            description="Access mode of the claim. Default: ReadWriteOnce for one node; ReadWriteMany for several, "
            "which share it."
        ),
    ] = None


class WorkerSpec(PodSettings):
    """A participant that runs here."""

    data: DataSpec
    work_dir: Annotated[
        WorkDirSpec, Field(description="In a cluster: the volume of the worker's working directory.")
    ] = WorkDirSpec()
    nodes: Annotated[int, Field(ge=1, le=4096, description="Number of pods. More than one requires FSDP.")] = 1
    # Omitted when unset: programs of an earlier release, which know only numbers, still read the document.
    processes_per_node: Annotated[
        int | None,
        Field(
            ge=1,
            le=64,
            exclude_if=lambda value: value is None,
            description="Processes per node, one per GPU. Default: resources.gpus with FSDP, otherwise 1.",
        ),
    ] = None
    checkpoint_every_steps: Annotated[
        int,
        Field(ge=1, le=10**6, description="Steps between local checkpoints. A killed worker loses at most this many."),
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

    name: Annotated[Name, Field(description="Name, unique within the job. Part of the names of its pods.")]
    worker: Annotated[WorkerSpec | None, Field(description="Trains here, as processes or pods of this launcher.")] = (
        None
    )
    remote: Annotated[
        RemoteSpec | None, Field(description="Trains elsewhere, and asks this job's aggregator for tasks.")
    ] = None
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule("has(self.worker) != has(self.remote)", "a participant has either worker or remote"),
    )

    @model_validator(mode="after")
    def _here_or_elsewhere(self) -> Self:
        if (self.worker is None) == (self.remote is None):
            raise ValueError(Participant.__cel_rules__[0].message)
        return self
