"""What a round takes and how much of it: pure rules that the aggregator follows and the audit checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from photon.api.participation import Weighting
from photon.api.training import OuterSpec
from photon.protocol.canonical import digest
from photon.protocol.records import AcceptedUpdate, Plan


def inputs_digest(plan: str, manifests: Mapping[str, str], clips: Mapping[str, float]) -> str:
    """Digest of what goes into a merge: the plan (hence the base), the manifests, and how some were scaled down.

    ``plan`` and ``manifests``, by participant, are digests.
    """
    clipped = {name: clip for name, clip in clips.items() if clip != 1.0}
    return digest({"plan": plan, "manifests": dict(manifests)} | ({"clips": clipped} if clipped else {}))


def clip_factors(norms: Mapping[str, float], clip_to_median: float | None) -> dict[str, float]:
    """By what each update is scaled before it is averaged: down to ``clip_to_median`` times the round's median norm.

    ``norms``: L2 norms by participant. The lower median: of two updates the longer must not set the measure for itself.
    Updates of zeros set none.
    """
    lengths = sorted(norm for norm in norms.values() if norm > 0)
    if clip_to_median is None or not lengths:
        return dict.fromkeys(norms, 1.0)
    longest = clip_to_median * lengths[(len(lengths) - 1) // 2]
    return {name: min(1.0, longest / norm) if norm > 0 else 1.0 for name, norm in norms.items()}


def weight_of(tokens: int, weighting: Weighting) -> float:
    """The weight of an update in the mean, up to a common factor."""
    return float(tokens) if weighting is Weighting.TOKENS else 1.0


def outer_of(plan: Plan, outer: OuterSpec) -> OuterSpec:
    """The outer optimizer of the round: after a rollback its plan may lower the learning rate."""
    scale = plan.outer_scale
    return outer if scale is None else outer.model_copy(update={"learning_rate": outer.learning_rate * scale})


def train_loss(accepted: Sequence[AcceptedUpdate]) -> float:
    """Mean training loss by tokens, nats a token."""
    tokens = sum(update.tokens for update in accepted)
    return math.fsum(update.loss_mean * update.tokens for update in accepted) / tokens
