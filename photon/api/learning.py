"""What of a job shapes learning: the immutable job.json in the bucket, whose digest every record of a round names.

It says nothing of storage, resources, images or addresses, so a run as processes and a run as pods have one digest. The
participants are named in each plan instead (they may change while a job runs), and rounds may grow: hence the length of
the schedule is resolved here, once.
"""

from __future__ import annotations

from typing import Any, Final

from photon.api.base import ApiModel
from photon.api.job import FederatedTrainingJob, JobSpec
from photon.api.model import ModelSpec, TokenizerSpec
from photon.api.participation import Weighting
from photon.api.training import (
    CLIP_TO_MEDIAN,
    ExchangeSpec,
    InnerOptimizer,
    LocalSpec,
    OuterSpec,
    WeightDecayOn,
    outer_learning_rate,
)

# Of every type, before defaults depended on it.
_FORMER_OUTER_RATE: Final = 1.0


class LearningJob(ApiModel):
    """The resolved job. ``hf_config`` is None when the model comes with a checkpoint (model.initFrom)."""

    model: ModelSpec
    hf_config: dict[str, Any] | None
    local: LocalSpec
    outer: OuterSpec
    exchange: ExchangeSpec
    cohort_size: int | None
    weighting: Weighting

    @property
    def total_steps(self) -> int:
        """Length of the learning-rate schedule in sequential steps."""
        total = self.local.learning_rate.total_steps
        assert total is not None, "resolve() sets it"
        return total


def resolve(job: FederatedTrainingJob) -> LearningJob:
    """The learning part of ``job``, with every default that depends on another field written out.

    exchange.clipToMedian is left out: it guards a job, may change while it runs, and each closing says what it was.
    """
    spec: JobSpec = job.spec
    rate = spec.local.learning_rate
    if rate.total_steps is None:
        rate = rate.model_copy(update={"total_steps": spec.rounds * spec.local.steps})
    local = spec.local.model_copy(
        update={
            "learning_rate": rate,
            "micro_batch_size": spec.local.micro_batch_size or spec.local.batch_size,
            "optimizer": _with_decay(spec.local.optimizer),
        }
    )
    return LearningJob(
        model=spec.model.model_copy(update={"tokenizer": spec.model.its_tokenizer()}),
        hf_config=spec.model.hf_config(),
        local=local,
        outer=spec.outer,
        exchange=spec.exchange.model_copy(update={"clip_to_median": CLIP_TO_MEDIAN}),
        cohort_size=spec.participation.cohort_size,
        weighting=spec.participation.weighting,
    )


def _with_decay(optimizer: InnerOptimizer) -> InnerOptimizer:
    """On what weight decay acts, written out; unset is All, as in every record of an earlier release."""
    matrices = optimizer.weight_decay > 0 and optimizer.weight_decay_on is not WeightDecayOn.ALL
    return optimizer.model_copy(update={"weight_decay_on": WeightDecayOn.MATRICES if matrices else None})


def resolve_against(job: FederatedTrainingJob, stored: LearningJob | None) -> LearningJob:
    """``resolve(job)``, but with the defaults that a running job was started with.

    Those are the length of the schedule, an outer learning rate of 1.0 where the default by type came later, weight
    decay on all weights where that on matrices came later, and the byte tokenizer beside a checkpoint, where the
    checkpoint's own came later.
    exchange.maxUpdateNorm is what the job was started with too; it guards a job and may be another by now.

    Raises:
        ValueError: The job file now says something else that shapes learning; the message names the fields.
    """
    learning = resolve(job)
    if stored is None:
        return learning
    if job.spec.local.learning_rate.total_steps is None:
        rate = learning.local.learning_rate.model_copy(update={"total_steps": stored.total_steps})
        local = learning.local.model_copy(update={"learning_rate": rate})
        learning = learning.model_copy(update={"local": local})
    if job.spec.model.tokenizer is None and stored.model.tokenizer == TokenizerSpec():
        model = learning.model.model_copy(update={"tokenizer": stored.model.tokenizer})
        learning = learning.model_copy(update={"model": model})
    if job.spec.local.optimizer.weight_decay_on is None:
        on = stored.local.optimizer.weight_decay_on
        optimizer = learning.local.optimizer.model_copy(update={"weight_decay_on": on})
        learning = learning.model_copy(update={"local": learning.local.model_copy(update={"optimizer": optimizer})})
    exchange = learning.exchange.model_copy(update={"max_update_norm": stored.exchange.max_update_norm})
    outer = learning.outer
    if outer.learning_rate == outer_learning_rate(outer.type) and stored.outer.learning_rate == _FORMER_OUTER_RATE:
        outer = outer.model_copy(update={"learning_rate": _FORMER_OUTER_RATE})
    learning = learning.model_copy(update={"exchange": exchange, "outer": outer})
    if learning != stored:
        changed = [name for name in LearningJob.model_fields if getattr(learning, name) != getattr(stored, name)]
        raise ValueError(
            f"this prefix holds a job with other settings of {', '.join(changed)}: what shapes learning cannot "
            "change once a job has started; use another storage.prefix (or another run directory) for a new job"
        )
    return learning
