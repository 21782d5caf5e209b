"""``spec.local``, ``spec.outer``, ``spec.exchange``: how participants train, how updates merge and travel."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from photon.api.base import ApiModel, CelRule


class Schedule(StrEnum):
    """Shape of the learning rate over the global sequential step clock."""

    COSINE = "Cosine"
    WSD = "WSD"
    CONSTANT = "Constant"


class LearningRate(ApiModel):
    """The inner learning rate by global step: a participant that was not in a round stays on schedule."""

    max: Annotated[float, Field(gt=0, le=10, description="Peak learning rate, reached after warmup.")] = 6e-4
    schedule: Annotated[
        Schedule,
        Field(description="Shape after warmup: Cosine, WSD (stable, then linear decay) or Constant."),
    ] = Schedule.COSINE
    warmup_steps: Annotated[int, Field(ge=0, le=10**9, description="Steps of linear warmup from 0.")] = 100
    total_steps: Annotated[
        int | None,
        Field(ge=1, le=10**12, description="Length of the schedule in sequential steps. Default: rounds x steps."),
    ] = None
    decay_steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**12,
            description="WSD only: length of the final decay in steps. Default: a fifth of the total.",
        ),
    ] = None
    final_fraction: Annotated[float, Field(ge=0, le=1, description="Final learning rate, as a fraction of max.")] = 0.1


class WeightDecayOn(StrEnum):
    """Which weights weight decay acts on."""

    MATRICES = "Matrices"
    ALL = "All"


class InnerOptimizer(ApiModel):
    """AdamW, as defined by torch.optim.AdamW."""

    beta1: Annotated[float, Field(ge=0, lt=1, description="Decay rate of the running mean of the gradients.")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="Decay rate of the running mean of their squares.")] = 0.95
    eps: Annotated[float, Field(gt=0, le=1, description="Term added to the denominator for numerical stability.")] = (
        1e-8
    )
    weight_decay: Annotated[float, Field(ge=0, le=1, description="Decoupled weight decay.")] = 0.0
    # Omitted when unset: so it is in the records of jobs that began before it was there.
    weight_decay_on: Annotated[
        WeightDecayOn | None,
        Field(
            exclude_if=lambda value: value is None,
            description="Matrices: neither norms and biases nor embeddings decay, as is usual. All: every weight does. "
            "Default Matrices; a job that an earlier release began goes on with All.",
        ),
    ] = None
    clip_norm: Annotated[
        float | None,
        Field(gt=0, le=1e6, description="Clip the gradient to this norm at every step. Null: no clipping."),
    ] = 1.0


class InnerState(StrEnum):
    """What happens to the inner optimizer's state between a participant's rounds."""

    KEEP = "Keep"
    RESET = "Reset"


class Precision(StrEnum):
    """Arithmetic of forward and backward; weights and optimizer state are always fp32."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"


class ParallelStrategy(StrEnum):
    """How one participant's processes share the model."""

    SINGLE = "Single"
    FSDP = "FSDP"


class LocalSpec(ApiModel):
    """What a participant does in a round."""

    steps: Annotated[int, Field(ge=1, le=10**6, description="Optimizer steps between two exchanges.")] = 64
    batch_size: Annotated[
        int,
        Field(ge=1, le=10**6, description="Sequences per step of one participant, over all its processes."),
    ] = 32
    micro_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**6,
            description="Sequences per forward pass; gradients accumulate. Default: batchSize.",
        ),
    ] = None
    sequence_length: Annotated[int, Field(ge=8, le=10**6, description="Tokens per sequence.")] = 2048
    learning_rate: LearningRate = LearningRate()
    optimizer: InnerOptimizer = InnerOptimizer()
    state: Annotated[
        InnerState,
        Field(
            description="Optimizer state between rounds. Keep: it stays at the participant. Reset: fresh every round."
        ),
    ] = InnerState.KEEP
    precision: Annotated[
        Precision,
        Field(
            description="Precision of matrix products. bf16: autocast. fp32: all 32 bits. tf32: fp32 whose products "
            "round their inputs to 10 bits on GPUs that can (several times faster there, the same as fp32 "
            "elsewhere)."
        ),
    ] = Precision.BF16
    compile: Annotated[
        bool,
        Field(
            description="Whether to compile the model with torch.compile: about half a minute at the start, faster "
            "afterwards."
        ),
    ] = False
    strategy: Annotated[
        ParallelStrategy,
        Field(description="Single: one process. FSDP: sharded over all processes, started by torchrun."),
    ] = ParallelStrategy.SINGLE
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!has(self.microBatchSize) || self.batchSize % self.microBatchSize == 0",
            "batchSize must be a multiple of microBatchSize",
        ),
    )

    @model_validator(mode="after")
    def _micro_divides(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(LocalSpec.__cel_rules__[0].message)
        return self


class OuterType(StrEnum):
    """The outer optimizer, which applies the mean update to the global model."""

    FEDAVG = "FedAvg"
    FEDMOM = "FedMom"
    NESTEROV = "Nesterov"
    FEDADAM = "FedAdam"
    FEDYOGI = "FedYogi"
    FEDADAGRAD = "FedAdagrad"


# A step of an adaptive optimizer is about its learning rate for every weight, and weights are about 0.02: with 1.0 the
# first round would destroy the model. Nesterov's is DiLoCo's (arXiv 2311.08105).
_OUTER_LEARNING_RATES: Final = {
    OuterType.FEDAVG: 1.0,
    OuterType.FEDMOM: 1.0,
    OuterType.NESTEROV: 0.7,
    OuterType.FEDADAM: 1e-3,
    OuterType.FEDYOGI: 1e-3,
    OuterType.FEDADAGRAD: 1e-3,
}


def outer_learning_rate(kind: OuterType) -> float:
    """The default of outer.learningRate for a type."""
    return _OUTER_LEARNING_RATES[kind]


class OuterSpec(ApiModel):
    """How the mean update moves the global model."""

    type: OuterType = OuterType.FEDAVG
    learning_rate: Annotated[
        float,
        Field(
            gt=0,
            le=100,
            default_factory=lambda data: outer_learning_rate(data.get("type", OuterType.FEDAVG)),
            description="Learning rate of the outer optimizer; 1.0 with FedAvg is the mean. Default by type: FedAvg "
            "and FedMom 1.0, Nesterov 0.7, FedAdam, FedYogi and FedAdagrad 0.001.",
        ),
    ]
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum of FedMom and Nesterov.")] = 0.9
    beta1: Annotated[float, Field(ge=0, lt=1, description="Decay rate of the first moment; FedAdam and FedYogi.")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="Decay rate of the second moment; FedAdam and FedYogi.")] = (
        0.99
    )
    eps: Annotated[float, Field(gt=0, le=1, description="Adaptivity tau; FedAdam, FedYogi and FedAdagrad.")] = 1e-3


class Codec(StrEnum):
    """How the values of an update are encoded."""

    DENSE_FP32 = "DenseFP32"
    DENSE_BF16 = "DenseBF16"
    BLOCK_INT8 = "BlockInt8"


# Updates of honest participants differ by less: their rounds keep their bits.
CLIP_TO_MEDIAN = 8.0


def _usual_clip(value: object) -> bool:
    return value == CLIP_TO_MEDIAN


class ExchangeSpec(ApiModel):
    """How updates are transferred."""

    codec: Annotated[Codec, Field(description="Encoding of updates. The global model is transferred as fp32.")] = (
        Codec.DENSE_FP32
    )
    part_bytes: Annotated[
        int,
        Field(
            ge=2**16,
            le=2**30,
            description="Bytes of the fp32 model that one part covers. A part is one object.",
        ),
    ] = 64 * 2**20
    max_update_norm: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e12,
            description="An update with a larger L2 norm is refused. Null: 1e12. May change while the job runs.",
        ),
    ] = None
    # Omitted when it is the default: what releases before it wrote, and read, stays as it is.
    clip_to_median: Annotated[
        float | None,
        Field(
            ge=1,
            le=1e9,
            description="An update whose L2 norm is more than this many times the median of its round is scaled down "
            "to that norm before it is merged. Null: never. May change while the job runs.",
            exclude_if=_usual_clip,
        ),
    ] = CLIP_TO_MEDIAN
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule("!has(self.partBytes) || self.partBytes % 4096 == 0", "partBytes must be a multiple of 4096"),
    )

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if self.part_bytes % 4096:
            raise ValueError(ExchangeSpec.__cel_rules__[0].message)
        return self
