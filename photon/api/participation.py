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
    """Which participants train in a round, and how long the round waits for them."""

    cohort_size: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="Number of participants sampled for each round. Default: all."),
    ] = None
    sample: Annotated[
        SampleFrom,
        Field(
            description="All: the cohort is sampled from all participants. Present: from those with a recent "
            "heartbeat, if they suffice for the quorum; the plan records who was left out."
        ),
    ] = SampleFrom.ALL
    quorum: Annotated[
        int | None,
        Field(
            ge=1,
            le=10_000,
            description="Minimum number of accepted updates for a round to commit. Default: the cohort.",
        ),
    ] = None
    min_participants: Annotated[
        int | None,
        Field(
            ge=1,
            le=10_000,
            exclude_if=lambda value: value is None,
            description="Number of participants that must be members before the first round begins. Counts only where "
            "some join from elsewhere (remote). Default: all.",
        ),
    ] = None
    round_deadline_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=10**7,
            description="Seconds after which a round that has its quorum commits, from when training can begin: "
            "evaluation of the previous model does not count. For a round without quorum see whenQuorumLost.",
        ),
    ] = 3600
    when_quorum_lost: Annotated[
        WhenQuorumLost,
        Field(
            description="What happens to a round without quorum at its deadline. Wait: it stays open and commits when "
            "quorum is reached. Fail: the job fails."
        ),
    ] = WhenQuorumLost.WAIT
    grace_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=10**7,
            description="Seconds to wait for stragglers after quorum is reached. Default: until the deadline.",
        ),
    ] = None
    weighting: Annotated[
        Weighting,
        Field(
            description="Weight of an update. Tokens: the number of tokens it was trained on. Uniform: the same for "
            "all. Equivalent while all participants train the same number of steps, as they do now."
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
    """Ends the job when the validation loss no longer decreases for more than half of the participants.

    A participant without a result counts as one whose loss falls.
    """

    evaluations: Annotated[int, Field(ge=1, le=10_000, description="Number of evaluations without improvement.")] = 5
    min_improvement: Annotated[
        float,
        Field(
            ge=0, le=100, description="Minimum decrease of the loss that counts as an improvement, in nats per token."
        ),
    ] = 0.0


class DivergenceSpec(ApiModel):
    """When training counts as diverged, so that the job returns to an earlier model."""

    window: Annotated[
        int, Field(ge=4, le=32, description="Number of previous rounds that a round is compared with.")
    ] = 8
    factor: Annotated[
        float,
        Field(
            ge=1,
            le=1000,
            description="A loss is too high when it exceeds the median of the window by more than this many standard "
            "deviations (from the median absolute deviation) in two consecutive rounds.",
        ),
    ] = 6.0
    floor: Annotated[float, Field(ge=0, le=100, description="Minimum distance from the median, in nats per token.")] = (
        0.2
    )


def _usual_divergence(value: object) -> bool:
    return value == DivergenceSpec()


class StopSpec(ApiModel):
    """Conditions that end the job before spec.rounds. The first that is met ends it after the current round."""

    tokens: Annotated[
        int | None, Field(ge=1, le=10**18, description="Total number of tokens trained on by all participants.")
    ] = None
    target_perplexity: Annotated[
        float | None,
        Field(
            gt=1,
            le=1e9,
            description="Ends the job when more than half of the participants have reached this validation "
            "perplexity. A participant without a result has not.",
        ),
    ] = None
    plateau: PlateauSpec | None = None
    wall_clock_seconds: Annotated[int | None, Field(ge=1, le=10**9, description="Seconds since the first plan.")] = None
    # Omitted when it is the default: what releases before it wrote, and read, stays as it is.
    divergence: Annotated[
        DivergenceSpec | None,
        Field(
            exclude_if=_usual_divergence,
            description="When the job returns to an earlier model without being asked. Null: never. It needs "
            "storage.retention.keepLastRounds of 4 or more, or null. May change while a job runs.",
        ),
    ] = DivergenceSpec()

    @property
    def looks_at_evaluations(self) -> bool:
        """Whether an evaluation may end the job."""
        return self.target_perplexity is not None or self.plateau is not None


class EvaluationSpec(ApiModel):
    """Perplexity on held-out text that never leaves the participants."""

    every_rounds: Annotated[
        int,
        Field(
            ge=0,
            le=10**6,
            description="Evaluate every N rounds. 0 evaluates only the final model, or every round if a stop rule "
            "needs it. Unless 0, a checkpoint in model.initFrom is also evaluated before training.",
        ),
    ] = 1
    max_tokens: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**12,
            description="Maximum number of held-out tokens per data folder, sampled over all of it. Default: as many as"
            " take a tenth of the training time between two evaluations.",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**6,
            description="Rows per process in one forward pass. Default: the rows of its micro-batch in training.",
        ),
    ] = None
