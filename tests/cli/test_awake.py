"""Sleep and SIGSTOP use up nobody's time."""

from __future__ import annotations

from photon.local.awake import LONGEST_GAP_SECONDS, AwakeClock


def test_it_is_an_ordinary_clock_while_somebody_looks() -> None:
    looks = iter([100.0, 100.2, 101.0, 108.0])
    clock = AwakeClock(lambda: next(looks))
    assert [round(clock(), 6) for _ in range(3)] == [0.2, 1.0, 8.0]


def test_a_gap_of_hours_counts_as_seconds() -> None:
    looks = iter([0.0, 1.0, 7201.0, 7202.0])
    clock = AwakeClock(lambda: next(looks))
    assert [clock() for _ in range(3)] == [1.0, 1.0 + LONGEST_GAP_SECONDS, 2.0 + LONGEST_GAP_SECONDS]


def test_a_clock_that_goes_back_does_not_take_time_back() -> None:
    looks = iter([50.0, 40.0, 41.0])
    clock = AwakeClock(lambda: next(looks))
    assert [clock(), clock()] == [0.0, 1.0]
