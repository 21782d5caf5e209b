"""The inner learning rate: a pure function of the global sequential step, so every participant agrees on it.

Step s (from 0) of a job of ``total_steps``. Warm-up is linear and reaches ``max`` at step ``warmup_steps``:
lr(s) = max * (s + 1) / (warmup_steps + 1), so that no step is wasted on a rate of exactly 0. Then

    Cosine    max -> final_fraction * max along half a cosine over the rest of the schedule
    WSD       max until ``decay_steps`` before the end, then linearly down to final_fraction * max (arXiv 2405.18392)
    Constant  max

Past the end of the schedule (rounds may grow) the rate stays at its last value.
"""

from __future__ import annotations

import math

from photon.api.training import LearningRate, Schedule


def learning_rate(step: int, rate: LearningRate) -> float:
    """The learning rate of global sequential step ``step`` (from 0).

    Args:
        step: Steps done before this one, over all rounds.
        rate: Its ``total_steps`` must be set, as ``photon.api.learning.resolve`` does.
    """
    if step < rate.warmup_steps:
        return rate.max * (step + 1) / (rate.warmup_steps + 1)
    if rate.schedule is Schedule.CONSTANT:
        return rate.max
    assert rate.total_steps is not None, "resolve() sets it"
    last = rate.total_steps - 1
    final = rate.max * rate.final_fraction
    if rate.schedule is Schedule.COSINE:
        begin = rate.warmup_steps
    else:
        begin = max(rate.warmup_steps, last - (rate.decay_steps or max(1, rate.total_steps // 5)))
    done = 1.0 if last <= begin else min(1.0, max(0, step - begin) / (last - begin))
    if rate.schedule is Schedule.COSINE:
        return final + (rate.max - final) * 0.5 * (1.0 + math.cos(math.pi * done))
    return rate.max + (final - rate.max) * done
