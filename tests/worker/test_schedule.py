"""The learning rate on the global clock: exact values at the corners, and nothing but the step decides."""

from __future__ import annotations

import math

import pytest

from photon.api.training import LearningRate, Schedule
from photon_worker.training.schedule import learning_rate


def rate(schedule: Schedule, **more: float) -> LearningRate:
    values = {"max": 1.0, "schedule": schedule, "warmup_steps": 10, "total_steps": 111, "final_fraction": 0.1}
    return LearningRate.model_validate(values | more)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_warm_up_is_linear_and_never_zero(schedule: Schedule) -> None:
    r = rate(schedule)
    assert learning_rate(0, r) == pytest.approx(1 / 11)
    assert learning_rate(4, r) == pytest.approx(5 / 11)
    assert learning_rate(9, r) == pytest.approx(10 / 11)
    assert learning_rate(10, r) == 1.0


def test_without_warm_up_the_first_step_has_the_highest_rate() -> None:
    assert learning_rate(0, rate(Schedule.COSINE, warmup_steps=0)) == 1.0


def test_cosine_falls_from_max_to_its_final_fraction() -> None:
    r = rate(Schedule.COSINE)
    assert learning_rate(60, r) == pytest.approx(0.55)  # half way: the mean of 1 and 0.1
    assert learning_rate(35, r) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(110, r) == pytest.approx(0.1)


def test_wsd_stays_and_then_decays_linearly() -> None:
    r = rate(Schedule.WSD, decay_steps=20)
    assert learning_rate(11, r) == learning_rate(90, r) == 1.0
    assert learning_rate(100, r) == pytest.approx(0.55)
    assert learning_rate(110, r) == pytest.approx(0.1)


def test_wsd_decays_over_a_fifth_of_the_schedule_by_default() -> None:
    r = rate(Schedule.WSD)
    assert learning_rate(110 - 22, r) == 1.0
    assert learning_rate(110 - 21, r) < 1.0


def test_constant_stays_at_max() -> None:
    assert learning_rate(10**6, rate(Schedule.CONSTANT)) == 1.0


@pytest.mark.parametrize("schedule", [Schedule.COSINE, Schedule.WSD])
def test_past_its_end_the_rate_stays_at_the_last_value(schedule: Schedule) -> None:
    assert learning_rate(5000, rate(schedule)) == pytest.approx(0.1)


def test_a_warm_up_longer_than_the_schedule_is_no_error() -> None:
    r = rate(Schedule.COSINE, warmup_steps=200)
    assert learning_rate(110, r) == pytest.approx(111 / 201)
    assert learning_rate(201, r) == pytest.approx(0.1)
