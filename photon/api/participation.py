"""``spec.participation``, ``spec.stop``, ``spec.evaluation``: who takes part, when the job ends, how it is judged."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from photon.api.base import ApiModel, CelRule


class Weighting(StrEnum):
    """Weight of a participant's update in the mean."""

    TOKENS = "Tokens"
    UNIFORM = "Uniform"


class SampleFrom(StrEnum):
    """From whom a round's cohort is sampled."""

    ALL = "All"
    PRESENT = "Present"


class WhenQuorumLost(StrEnum):
    """What becomes of a round whose deadline is over without its quorum."""

    WAIT = "Wait"
    FAIL = "Fail"


class ParticipationSpec(ApiModel):
    """Who trains in a round and how long the round waits for them."""

    cohort_size: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="Participants sampled for each round; default all of them."),
    ] = None
    sample: Annotated[
        SampleFrom,
        Field(
            description="All: the cohort is sampled from all participants. Present: from those that the aggregator has "
            "heard of lately, if they are enough for the quorum; the plan names who was left out."
        ),
    ] = SampleFrom.ALL
    quorum: Annotated[
        int | None,
        Field(
            ge=1,
            le=10_000,
            description="Fewest accepted updates with which a round may commit; default the cohort.",
        ),
    ] = None
    round_deadline_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=10**7,
            description="A round that has its quorum commits at the latest then; without it, see whenQuorumLost.",
        ),
    ] = 3600
    when_quorum_lost: Annotated[
        WhenQuorumLost,
        Field(
            description="A round without its quorum at the deadline. Wait: it stays open and commits as soon as the "
            "quorum is there. Fail: the job fails."
        ),
    ] = WhenQuorumLost.WAIT
    grace_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=10**7,
            description="Wait so long for the rest of the cohort once the quorum is there; default until the deadline.",
        ),
    ] = None
    weighting: Annotated[
        Weighting,
        Field(
            description="Tokens: by tokens trained on. Uniform: all alike. One and the same as long as all train "
            "the same number of steps, as they do now."
        ),
    ] = Weighting.TOKENS
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!has(self.quorum) || !has(self.cohortSize) || self.quorum <= self.cohortSize",
            "quorum must not be larger than cohortSize",
        ),
    )

    @model_validator(mode="after")
    def _quorum_fits(self) -> Self:
        if self.quorum is not None and self.cohort_size is not None and self.quorum > self.cohort_size:
            raise ValueError(ParticipationSpec.__cel_rules__[0].message)
        return self


class PlateauSpec(ApiModel):
    """Stop when the validation loss no longer falls for more than half of the participants.

    A participant without a result counts as one whose loss falls.
    """

    evaluations: Annotated[int, Field(ge=1, le=10_000, description="So many evaluations without improvement.")] = 5
    min_improvement: Annotated[
        float, Field(ge=0, le=100, description="Improvement of the loss that counts, in nats.")
    ] = 0.0


class DivergenceSpec(ApiModel):
    """When training counts as diverged, so that the job returns to an earlier model."""

    window: Annotated[int, Field(ge=4, le=32, description="Rounds before that a round is compared with.")] = 8
    factor: Annotated[
        float,
        Field(
            ge=1,
            le=1000,
            description="A loss is too high when it is above the median of the window by more than this many standard "
            "deviations (from the median absolute deviation), twice running.",
        ),
    ] = 6.0
    floor: Annotated[
        float, Field(ge=0, le=100, description="Nats a token by which it must be above the median at least.")
    ] = 0.2


def _usual_divergence(value: object) -> bool:
    return value == DivergenceSpec()


class StopSpec(ApiModel):
    """Reasons to end before spec.rounds; the first that holds ends the job after the running round."""

    tokens: Annotated[int | None, Field(ge=1, le=10**18, description="Tokens trained on by all together.")] = None
    target_perplexity: Annotated[
        float | None,
        Field(
            gt=1,
            le=1e9,
            description="Validation perplexity that more than half of the participants have reached; one without a"
            " result has not.",
        ),
    ] = None
    plateau: PlateauSpec | None = None
    wall_clock_seconds: Annotated[int | None, Field(ge=1, le=10**9, description="Time since the first plan.")] = None
    # Omitted when it is the default: what releases before it wrote, and read, stays as it is.
    divergence: Annotated[
        DivergenceSpec | None,
        Field(
            exclude_if=_usual_divergence,
            description="When the job returns to an earlier model by itself; null: never. It needs "
            "storage.retention.keepLastRounds of 4 or more, or null. May change while a job runs.",
        ),
    ] = DivergenceSpec()

    @property
    def looks_at_evaluations(self) -> bool:
        """Whether an evaluation may end the job."""
        return self.target_perplexity is not None or self.plateau is not None


class EvaluationSpec(ApiModel):
    """Perplexity on held-out text that every participant keeps at home."""

    every_rounds: Annotated[
        int,
        Field(
            ge=0,
            le=10**6,
            description="Evaluate every N rounds; 0: only the last, or every round if a stop rule needs it. Unless 0, a"
            " checkpoint in model.initFrom is evaluated before any training, too.",
        ),
    ] = 1
    max_tokens: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**12,
            description="At most N held-out tokens of each data folder, sampled over all of it. Default: as many as"
            " take a tenth of the time of the training between two evaluations.",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        Field(ge=1, le=10**6, description="Rows of one process. Default: the rows of its micro batch in training."),
    ] = None
