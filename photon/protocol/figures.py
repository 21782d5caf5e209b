"""Figures that people read, each computed in one place: what status, page, report, trackers and metrics show is equal.

Losses are in nats a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from photon.protocol.records import HeldOutSums, LearningMetrics
from photon.telemetry import metric_names as names
from photon.telemetry.metric_names import Metric

# exp overflows from 710 nats on, and JSON cannot say infinity; a model of so great a loss is noise anyway.
_MOST_NATS: Final = 700.0


def perplexity(loss: float) -> float:
    """exp(loss), held within what JSON can say: a model that diverged has a huge perplexity, not an infinite one."""
    return math.exp(min(loss, _MOST_NATS))


def mean_loss(results: Iterable[HeldOutSums]) -> float | None:
    """Loss over all predicted tokens of ``results`` together, in whatever order they come; None without any."""
    held = list(results)
    tokens = sum(result.tokens for result in held)
    return math.fsum(result.loss_sum for result in held) / tokens if tokens else None


def pooled_perplexity(results: Iterable[HeldOutSums]) -> float | None:
    """Of all predicted tokens of ``results`` together; None without any."""
    loss = mean_loss(results)
    return perplexity(loss) if loss is not None else None


def bits_per_byte(results: Iterable[HeldOutSums]) -> float | None:
    """Loss in bits over all bytes of ``results``, comparable between tokenizers; None without text."""
    held = list(results)
    size = sum(result.bytes for result in held)
    return math.fsum(result.loss_sum for result in held) / size / math.log(2) if size else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningFigure:
    """A figure of a committed round. ``field``: in LearningMetrics and in the report; ``curve``: on the page;
    ``tracker``: in TensorBoard and W&B; ``metric``: in Prometheus."""

    field: str
    curve: str
    tracker: str
    metric: Metric

    def of(self, metrics: LearningMetrics) -> float | None:
        value: float | None = getattr(metrics, self.field)
        return value


LEARNING: Final = tuple(
    LearningFigure(field=field, curve=curve, tracker=tracker, metric=metric)
    for field, curve, tracker, metric in (
        ("train_loss", "trainLoss", "loss/train", names.TRAIN_LOSS),
        ("pseudo_gradient_norm", "pseudoGradientNorm", "norm/pseudo_gradient", names.PSEUDO_GRADIENT_NORM),
        ("model_norm", "modelNorm", "norm/model", names.MODEL_NORM),
        ("momentum_norm", "momentumNorm", "norm/momentum", names.MOMENTUM_NORM),
        ("consensus", "consensus", "agreement/consensus", names.CONSENSUS),
        ("mean_pairwise_cosine", "pairwiseCosine", "agreement/mean_pairwise_cosine", names.PAIRWISE_COSINE),
        ("gradient_noise_scale", "noiseScale", "gradient_noise_scale", names.NOISE_SCALE),
    )
)
