"""The sums behind a round's metrics, taken block by block while the values are in the cache.

Sums of a block are fp32 (BLAS, up to 2^17 values in many partial sums), sums over blocks fp64 and always in the order
of the stripes, so that the figures do not depend on the number of threads; nor, on x86-64, on the machine (see
``photon_aggregator.blas``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from photon.protocol.records import LearningMetrics

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def use_one_blas_thread() -> None:
    """Keep BLAS to the calling thread, for the whole process and for good.

    Threads are the merge's own; and how BLAS splits a sum over threads of its own would show in the metrics' last bits.
    """
    threadpool_limits(limits=1, user_api="blas")


@dataclass(slots=True)
class Sums:
    """What is summed over elements. K updates u_k with weights w_k, their mean m; L layers.

    ``squares`` [K] of the u_k, known from admission and set once; ``dots`` [K] of u_k with m; ``unit_square`` of the
    sum of the u_k / norm_k; ``mean`` and ``model`` [L] squares by layer of m and of the new theta; ``states`` [S]
    squares of the vectors of the outer state; ``momentum`` square of what FedMom's momentum added to the step.
    """

    squares: Float64
    dots: Float64
    mean: Float64
    model: Float64
    states: Float64
    unit_square: float = 0.0
    momentum: float = 0.0

    @classmethod
    def zeros(cls, updates: int, layers: int, states: int = 0) -> Sums:
        return cls(
            squares=np.zeros(updates),
            dots=np.zeros(updates),
            mean=np.zeros(layers),
            model=np.zeros(layers),
            states=np.zeros(states),
        )

    def add(self, other: Sums) -> None:
        self.dots += other.dots
        self.mean += other.mean
        self.model += other.model
        self.states += other.states
        self.unit_square += other.unit_square
        self.momentum += other.momentum


@dataclass(slots=True)
class OrderedSums:
    """Adds stripes' sums in the order of the stripes, whatever the order they come in."""

    total: Sums
    _next: int = 0
    _waiting: dict[int, Sums] = field(default_factory=dict)

    def add(self, index: int, sums: Sums) -> None:
        """Not thread-safe: the caller holds its lock."""
        self._waiting[index] = sums
        while self._next in self._waiting:
            self.total.add(self._waiting.pop(self._next))
            self._next += 1


def add_update_sums(sums: Sums, values: Float32, mean: Float32, inverse_norms: Float32) -> bool:
    """Add a block of updates, ``values`` [K, n] with its mean [n]. False: some value is not finite (nothing added).

    The mean pairwise cosine comes from the sum of the unit vectors (one product) and not from all pairs (K^2 products:
    at 256 updates that would cost more than the merge); so norms must be known beforehand. Values whose squares exceed
    fp32 are summed again in fp64.
    """
    dots = values @ mean
    unit = inverse_norms @ values
    unit_square = float(np.dot(unit, unit))
    if not (math.isfinite(unit_square) and np.isfinite(dots).all()):
        if not np.isfinite(values).all():
            return False
        wide = values.astype(np.float64)
        dots = wide @ mean.astype(np.float64)
        unit_square = float(np.square(inverse_norms.astype(np.float64) @ wide).sum())
    sums.dots += dots
    sums.unit_square += unit_square
    return True


def square(values: Float32) -> float:
    """Sum of squares of a block, in fp64 when fp32 overflows."""
    total = float(np.dot(values, values))
    return total if math.isfinite(total) else float(np.square(values.astype(np.float64)).sum())


def cosines(sums: Sums) -> list[float | None]:
    """Cosine of each update with the mean; None where either is zero."""
    mean = float(sums.mean.sum())
    return [
        float(np.clip(dot / math.sqrt(own * mean), -1, 1)) if own > 0 and mean > 0 else None
        for dot, own in zip(sums.dots.tolist(), sums.squares.tolist(), strict=True)
    ]


def mean_pairwise_cosine(sums: Sums) -> float | None:
    """Mean cosine over all pairs; None with fewer than two updates or with one that is zero."""
    count = sums.squares.size
    if count < 2 or not (sums.squares > 0).all():
        return None
    # |sum of unit vectors|^2 = K + the cosines of all ordered pairs
    return float(np.clip((sums.unit_square - count) / (count * (count - 1)), -1, 1))


def gradient_noise_scale(sums: Sums, weights: Sequence[float], tokens: Sequence[int]) -> float | None:
    """B_simple in tokens (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1), from updates as gradients.

    One participant's update is a gradient with batch B_small, the mean one with B_big; both expectations of a squared
    norm are |G|^2 + tr(S)/B. With unequal weights the mean's effective batch is B_small / sum(w^2). None for fewer
    than two updates, or when the estimate of |G|^2 is not positive (noise drowns it).
    """
    if len(weights) < 2 or min(tokens) < 1:
        return None
    small = sum(tokens) / len(tokens)
    big = small / math.fsum(w * w for w in weights)
    if big <= small:
        return None
    norm_small = float(np.dot(sums.squares, np.asarray(weights)))
    norm_big = float(sums.mean.sum())
    signal = (big * norm_big - small * norm_small) / (big - small)
    noise = (norm_small - norm_big) / (1 / small - 1 / big)
    if signal <= 0:
        return None
    scale = noise / signal
    return scale if math.isfinite(scale) else None


def learning_metrics(
    sums: Sums,
    *,
    layers: Sequence[str],
    weights: Sequence[float],
    clips: Sequence[float],
    tokens: Sequence[int],
    momentum: float | None,
) -> LearningMetrics:
    """The record of a round; ``train_loss`` is left to the caller, who has the manifests.

    Updates count as they were added: scaled by ``clips``. ``momentum`` is the square of the outer momentum.
    """
    sums = replace(sums, squares=sums.squares * np.square(clips))
    norms = np.sqrt(sums.squares)
    mean_norm = float(norms.mean())
    pseudo_gradient = math.sqrt(float(sums.mean.sum()))
    return LearningMetrics(
        pseudo_gradient_norm=pseudo_gradient,
        model_norm=math.sqrt(float(sums.model.sum())),
        momentum_norm=math.sqrt(momentum) if momentum is not None else None,
        consensus=pseudo_gradient / mean_norm if mean_norm > 0 else None,
        mean_pairwise_cosine=mean_pairwise_cosine(sums),
        gradient_noise_scale=gradient_noise_scale(sums, weights, tokens),
        train_loss=None,
        layer_pseudo_gradient_norms=dict(zip(layers, np.sqrt(sums.mean).tolist(), strict=True)),
        layer_model_norms=dict(zip(layers, np.sqrt(sums.model).tolist(), strict=True)),
    )
