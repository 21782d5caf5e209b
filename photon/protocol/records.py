"""The records of a round, as they are stored in the bucket.

Plan, UpdateManifest, Closing and Commit say nothing of when or where, so they are the same however often they are made.
RoundLog and Evaluation are stored next to them and are not part of the chain: they may hold times.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from photon.api.base import ApiModel, Name
from photon.api.participation import PlateauSpec
from photon.api.placement import MAX_DATA_SOURCES
from photon.api.training import CLIP_TO_MEDIAN, Codec
from photon.protocol.ranges import (
    MAX_LOSS,
    MAX_PARTS,
    MAX_TOKENS,
    Bytes,
    Count,
    Elements,
    Finite,
    Fraction,
    Loss,
    Norm,
    PartIndex,
    RoundNumber,
    Step,
    Tokens,
)

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
ElementName = Annotated[str, Field(min_length=1, max_length=256)]


def _unset(value: object) -> bool:
    """Optional fields that came later are omitted when unset, so the bytes of a record stay what they were."""
    return value is None


def _zero(value: object) -> bool:
    return not value


def _empty(value: object) -> bool:
    return not value


def _usual_clip(value: object) -> bool:
    return value == CLIP_TO_MEDIAN


def _whole(value: object) -> bool:
    return value == 1.0


class LeftOut(StrEnum):
    """Why a participant was not sampled although the job names it."""

    QUARANTINED = "Quarantined"
    ABSENT = "Absent"
    NOT_A_MEMBER = "NotAMember"


class Plan(ApiModel):
    """rounds/00012/plan.json: who trains from which global model, how far. Created if absent, never changed.

    ``base`` is the digest of the commit whose model everyone starts from (round - 1). ``participants`` are all that
    the job names, ``cohort`` those sampled; both sorted. ``left_out``: who could not be sampled, and why.
    ``outer_scale``: factor on the outer optimizer's learning rate in this round. ``end``: the round is not trained,
    since evaluations ended the job with the one before. All three are omitted when unset.
    """

    job: Sha256
    round: Count
    base: Sha256
    participants: list[Name]
    cohort: list[Name]
    first_step: Annotated[Count, Field(description="Global sequential step at the start of the round.")]
    local_steps: Count
    left_out: Annotated[dict[Name, LeftOut], Field(exclude_if=_empty)] = {}
    outer_scale: Annotated[float | None, Field(gt=0, le=1, exclude_if=_unset)] = None
    end: Annotated[End | None, Field(exclude_if=_unset)] = None


class Part(ApiModel):
    """One object of an update: elements [start, stop) of the flat model vector, encoded as a small safetensors file."""

    index: PartIndex
    start: Elements
    stop: Elements
    size_bytes: Bytes
    sha256: Sha256


class UpdateMetrics(ApiModel):
    """What the worker measured while it trained; nothing of time or place. Losses in nats a token.

    Fields that came later are omitted when they say nothing, and sent only to an aggregator that knows them
    (photon.protocol.messages.ACCEPTS).
    """

    loss_mean: Loss
    loss_last: Loss
    grad_norm_mean: Norm
    grad_norm_max: Norm
    clipped_fraction: Fraction
    skipped_steps: Annotated[
        Step,
        Field(
            exclude_if=_zero,
            description="Steps that changed nothing because loss or gradient was not finite; means are of the others.",
        ),
    ] = 0
    balance_loss_mean: Annotated[
        Loss | None,
        Field(
            exclude_if=_unset,
            description="Of a mixture of experts: its load-balancing loss before router_aux_loss_coef. It is trained "
            "on, and is not in the losses.",
        ),
    ] = None
    fresh_optimizer: Annotated[
        bool,
        Field(
            exclude_if=_zero,
            description="local.state is Keep, and yet the round began with AdamW's moments at zero: the participant is "
            "new, or has lost its work directory.",
        ),
    ] = False


class UpdateManifest(ApiModel):
    """rounds/00012/updates/<participant>/manifest.json: written last, so an update exists exactly when this does."""

    job: Sha256
    round: RoundNumber
    plan: Sha256
    participant: Name
    codec: Codec
    elements: Elements
    tokens: Tokens
    local_steps: Step
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
    metrics: UpdateMetrics


class Closing(ApiModel):
    """rounds/00012/closing.json: which updates the round takes. Created if absent before they are merged.

    When a round is closed is a matter of clocks; once this record exists it is decided, whatever dies meanwhile.
    ``updates`` are digests of manifests by participant.

    An update that cannot be merged is dropped by the next closing of the round (closing-2.json, ...): ``supersedes`` is
    the digest of the one before it, ``dropped`` says why by participant. ``clip_to_median`` is exchange.clipToMedian
    when the round was closed. All three are omitted when they are the default.
    """

    job: Sha256
    round: Count
    plan: Sha256
    updates: dict[Name, Sha256]
    clip_to_median: Annotated[float | None, Field(ge=1, le=1e9, exclude_if=_usual_clip)] = CLIP_TO_MEDIAN
    supersedes: Annotated[Sha256 | None, Field(exclude_if=_unset)] = None
    dropped: Annotated[
        dict[Name, Annotated[str, Field(max_length=64, pattern="^[A-Za-z]+$")]], Field(exclude_if=_empty)
    ] = {}


# Files of a global model: weights, and small ones that are data. A name that is none of these, such as that of a Python
# module, is refused where a model is received, for transformers may run what it finds beside a config.
MODEL_FILES: Final = frozenset(
    {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    }
)


class FileRecord(ApiModel):
    """A file of the global model's folder."""

    name: ElementName
    size_bytes: Count
    sha256: Sha256


class AcceptedUpdate(ApiModel):
    """An update that the round took. ``weight`` is its share of the mean; they sum to 1.

    ``clip``: the factor by which it was scaled before, because it was much longer than the others; omitted when 1.
    """

    participant: Name
    manifest: Sha256
    weight: Finite
    tokens: Count
    norm: Finite
    cosine_to_mean: Finite | None
    loss_mean: Finite
    clip: Annotated[float, Field(gt=0, le=1, exclude_if=_whole)] = 1.0


class LearningMetrics(ApiModel):
    """Computed by the pass that merged. L2 norms; ``layers`` by the name of the layer (model.layers.0, ...)."""

    pseudo_gradient_norm: Finite
    model_norm: Finite
    momentum_norm: Finite | None
    consensus: Annotated[Finite | None, Field(description="Norm of the mean update over mean norm of the updates.")]
    mean_pairwise_cosine: Annotated[Finite | None, Field(description="None with fewer than two updates.")]
    gradient_noise_scale: Annotated[
        Finite | None,
        Field(description="B_simple in tokens (McCandlish 2018), from 1 and K updates; None if K < 2."),
    ]
    train_loss: Annotated[Finite | None, Field(description="Mean of the updates' loss_mean by tokens.")]
    layer_pseudo_gradient_norms: dict[ElementName, Finite] = {}
    layer_model_norms: dict[ElementName, Finite] = {}


class RollbackReason(StrEnum):
    """Why an earlier model became the head again."""

    OPERATOR = "Operator"  # `photon rollback`
    DIVERGED = "Diverged"  # spec.stop.divergence
    NOT_FINITE = "NotFinite"  # the merge of a round gave no finite model
    NO_QUORUM = "NoQuorum"  # of the updates that a round had decided to take, too few could be merged


class Rollback(ApiModel):
    """What makes a commit a rollback: it names the model and state of round ``to`` (whose commit has ``digest``).

    ``offenders`` are the participants whose updates stood out in the rounds that were given up.
    """

    to: Count
    digest: Sha256
    reason: RollbackReason
    message: Annotated[str, Field(max_length=1024)] = ""
    offenders: list[Name] = []


class Commit(ApiModel):
    """rounds/00012/commit.json: the round exists exactly when this does. Round 0 is the initial model.

    ``folder`` is the key of the model's folder below the prefix; it is named by what went into it, so two aggregators
    that merge different updates never overwrite each other. ``state`` are files of the outer optimizer in that folder.

    A commit with ``rollback`` merges nothing: folder, files, state and both step counters are those of an earlier
    round (see photon.protocol.rollback). All fields from there on are omitted when unset.
    """

    job: Sha256
    round: Count
    previous: Sha256 | None
    plan: Sha256 | None
    folder: ElementName
    files: list[FileRecord]
    state: list[FileRecord] = []
    outer_steps: Annotated[Count, Field(description="Outer steps taken so far (bias correction of adaptive kinds).")]
    accepted: list[AcceptedUpdate] = []
    tokens: Annotated[Count, Field(description="All tokens of all accepted updates so far.")]
    sequential_steps: Annotated[Count, Field(description="The global step clock after this round.")]
    metrics: LearningMetrics | None = None
    rollback: Annotated[Rollback | None, Field(exclude_if=_unset)] = None
    quarantine: Annotated[
        dict[Name, Count],
        Field(exclude_if=_empty, description="Of a rollback: who is left out, and up to which round."),
    ] = {}
    outer_scale: Annotated[
        float | None,
        Field(
            gt=0, le=1, exclude_if=_unset, description="Of a rollback: plans of the rounds after it take this factor."
        ),
    ] = None
    since: Annotated[
        Count | None, Field(exclude_if=_unset, description="Round of the last rollback before this commit.")
    ] = None


class HeldOutSums(ApiModel):
    """Sums over held-out text, so that those of many texts add up exactly.

    ``held_out``: tokens that could be predicted, of which ``tokens`` is a sample; unset in records of earlier releases.
    """

    loss_sum: Annotated[
        float,
        Field(
            ge=0,
            le=MAX_LOSS * MAX_TOKENS,
            allow_inf_nan=False,
            description="Negative log-likelihood, nats, summed over predicted tokens.",
        ),
    ]
    tokens: Tokens
    bytes: Annotated[Bytes, Field(description="Bytes of text that those tokens stand for.")]
    held_out: Annotated[
        Tokens | None, Field(exclude_if=_unset, description="Tokens that could be predicted; tokens is a sample.")
    ] = None


class HeldOutResult(HeldOutSums):
    """What one participant measured. ``sources``: of each of its data folders; unset in records of earlier releases."""

    sources: Annotated[dict[Name, HeldOutSums], Field(max_length=MAX_DATA_SOURCES, exclude_if=_empty)] = {}

    def sums(self) -> HeldOutResult:
        """The figures that every release knows."""
        return HeldOutResult(loss_sum=self.loss_sum, tokens=self.tokens, bytes=self.bytes)


def coverage_of(results: Iterable[HeldOutSums]) -> float | None:
    """Share of the held-out text of all ``results`` that was measured; None where one of them does not say."""
    known = list(results)
    there = [one.held_out for one in known if one.held_out is not None]
    if not there or len(there) < len(known) or not sum(there):
        return None
    return sum(one.tokens for one in known) / sum(there)


class Evaluation(ApiModel):
    """rounds/00012/evaluations/<participant>.json: the model of that round on the participant's held-out text."""

    job: Sha256
    round: RoundNumber
    commit: Sha256
    participant: Name
    result: HeldOutResult


class End(ApiModel):
    """A stop rule that looks at evaluations ended the job with this round: a part of the next round's plan.

    Which evaluations are in is a matter of seconds, so the decision is a record: a restart and a second aggregator end
    the same way. It holds for the limits that it names; with others the job goes on. ``results``: those of the round.
    Earlier releases wrote it as rounds/00012/end.json.
    """

    job: Sha256
    round: RoundNumber
    commit: Sha256
    reason: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=1024)] = ""
    target_perplexity: float | None = None
    plateau: PlateauSpec | None = None
    results: dict[Name, HeldOutResult] = {}


Phase = Literal["wait", "pull", "train", "encode", "push", "admit", "merge", "commit", "evaluate"]


class ParticipantLog(ApiModel):
    """What one participant did in a round, for people: times in seconds."""

    outcome: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=1024)] = ""
    seconds: dict[Phase, Finite] = {}
    tokens: Count = 0
    tokens_per_second: Finite | None = None
    mfu: Finite | None = None
    memory_bytes: Count | None = None
    bytes_up: Count = 0
    bytes_down: Count = 0
    retries: dict[Phase, Count] = {}


class RoundLog(ApiModel):
    """rounds/00012/log.json: times and bytes of a round. Not hashed; may be missing after a crash."""

    round: Count
    started_at: Annotated[str, Field(max_length=40, description="ISO 8601, UTC, the aggregator's clock.")]
    committed_at: Annotated[str, Field(max_length=40)]
    seconds: dict[Phase, Finite] = {}
    participants: dict[Name, ParticipantLog] = {}
    bytes_up: Count = 0
    bytes_down: Count = 0
    update_bytes: Annotated[Count, Field(description="Size of the accepted updates as they were encoded.")] = 0


Plan.model_rebuild()
