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
    """The inner learning rate on the global sequential clock: a participant that sat out a round stays on schedule."""

    max: Annotated[float, Field(gt=0, le=10, description="Highest learning rate, after warm-up.")] = 6e-4
    schedule: Annotated[
        Schedule,
        Field(description="Cosine; WSD (warm up, stay, decay linearly); or Constant after warm-up."),
    ] = Schedule.COSINE
    warmup_steps: Annotated[int, Field(ge=0, le=10**9, description="Steps of linear warm-up from 0.")] = 100
    total_steps: Annotated[
        int | None,
        Field(ge=1, le=10**12, description="Length of the schedule in sequential steps; default rounds x steps."),
    ] = None
    decay_steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**12,
            description="WSD: length of the final decay in steps; default a fifth of the total.",
        ),
    ] = None
    final_fraction: Annotated[
        float, Field(ge=0, le=1, description="Learning rate at the end, as a fraction of max.")
    ] = 0.1


class WeightDecayOn(StrEnum):
    """Which weights weight decay acts on."""

    MATRICES = "Matrices"
    ALL = "All"


class InnerOptimizer(ApiModel):
    """AdamW, as torch.optim.AdamW defines it."""

    beta1: Annotated[float, Field(ge=0, lt=1, description="Decay of the gradients' running mean.")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="Decay of their squares' running mean.")] = 0.95
    eps: Annotated[float, Field(gt=0, le=1, description="Added to the denominator.")] = 1e-8
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
        Field(gt=0, le=1e6, description="Clip the gradient to this norm at each step; null: no clipping."),
    ] = 1.0


class InnerState(StrEnum):
    """What becomes of the inner optimiser's state between a participant's rounds."""

    KEEP = "Keep"
    RESET = "Reset"


class Precision(StrEnum):
    """Arithmetic of forward and backward; weights and optimiser state are fp32 always."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"


class ParallelStrategy(StrEnum):
    """How one participant's processes share the model."""

    SINGLE = "Single"
    FSDP = "FSDP"


class LocalSpec(ApiModel):
    """What a participant does in a round."""

    steps: Annotated[int, Field(ge=1, le=10**6, description="Optimiser steps between two exchanges (tau).")] = 64
    batch_size: Annotated[
        int,
        Field(ge=1, le=10**6, description="Sequences in a step of one participant, over all its processes."),
    ] = 32
    micro_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**6,
            description="Sequences in one forward pass (gradients accumulate); default batchSize.",
        ),
    ] = None
    sequence_length: Annotated[int, Field(ge=8, le=10**6, description="Tokens of a sequence.")] = 2048
    learning_rate: LearningRate = LearningRate()
    optimizer: InnerOptimizer = InnerOptimizer()
    state: Annotated[
        InnerState,
        Field(description="Keep: the optimiser's moments stay at the participant. Reset: fresh each round."),
    ] = InnerState.KEEP
    precision: Annotated[
        Precision,
        Field(
            description="Of matrix products. bf16: autocast. fp32: all 32 bits. tf32: fp32 whose products round their "
            "inputs to 10 bits on GPUs that can (several times faster there, the same as fp32 elsewhere)."
        ),
    ] = Precision.BF16
    compile: Annotated[bool, Field(description="torch.compile the model (half a minute to start, then faster).")] = (
        False
    )
    strategy: Annotated[
        ParallelStrategy,
        Field(description="Single: one process. FSDP: sharded over all processes (torchrun)."),
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
    """The outer optimiser; definitions in science.md and photon_aggregator.merge.outer."""

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
            description="Step size of the server's optimizer; 1.0 with FedAvg is the mean. Default by type: FedAvg and "
            "FedMom 1.0, Nesterov 0.7, FedAdam, FedYogi and FedAdagrad 0.001.",
        ),
    ]
    momentum: Annotated[float, Field(ge=0, lt=1, description="FedMom and Nesterov.")] = 0.9
    beta1: Annotated[float, Field(ge=0, lt=1, description="FedAdam and FedYogi.")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="FedAdam and FedYogi.")] = 0.99
    eps: Annotated[float, Field(gt=0, le=1, description="FedAdam, FedYogi, FedAdagrad: the adaptivity tau.")] = 1e-3


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
    """How updates travel."""

    codec: Annotated[Codec, Field(description="Encoding of updates. The global model travels as fp32.")] = (
        Codec.DENSE_FP32
    )
    part_bytes: Annotated[
        int,
        Field(
            ge=2**16,
            le=2**30,
            description="fp32 bytes of the model that one part covers; a part is one object.",
        ),
    ] = 64 * 2**20
    max_update_norm: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e12,
            description="An update with a larger L2 norm is refused; null: 1e12. May change while a job runs.",
        ),
    ] = None
    # Omitted when it is the default: what releases before it wrote, and read, stays as it is.
    clip_to_median: Annotated[
        float | None,
        Field(
            ge=1,
            le=1e9,
            description="An update whose L2 norm is more than this many times the median of its round is scaled down "
            "to that length before it is merged; null: never. May change while a job runs.",
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
