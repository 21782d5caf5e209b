"""Hours: whether jobs may run at a moment, in the institution's time zone, and when that changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from photon.policy.document import Day, Hours
from photon.policy.hours import is_open, next_change

NIGHTS = [Hours.model_validate({"days": ["Mon", "Fri"], "from": "20:00", "to": "06:00", "timezone": "Europe/Berlin"})]
WEEKEND = [Hours.model_validate({"days": ["Sat", "Sun"], "from": "00:00", "to": "24:00"})]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "open_then"),
    [
        ("2026-11-30T18:59", False),  # Monday, 19:59 in Berlin
        ("2026-11-30T19:00", True),
        ("2026-12-01T04:59", True),  # Tuesday, 05:59: the night that began on Monday
        ("2026-12-01T05:00", False),
        ("2026-12-01T20:00", False),
        ("2026-12-05T03:00", True),  # Saturday, of Friday's night
        ("2026-07-06T18:00", True),  # Monday in summer: Berlin is two hours ahead
        ("2026-07-06T17:59", False),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(moment: str, open_then: bool) -> None:
    assert is_open(NIGHTS, at(moment)) is open_then


def test_without_hours_jobs_always_run() -> None:
    assert is_open([], at("2026-11-28T00:00"))
    assert next_change([], at("2026-11-28T00:00")) is None


def test_the_next_change_is_said_in_utc() -> None:
    assert next_change(NIGHTS, at("2026-11-28T12:00")) == at("2026-11-30T19:00")
    assert next_change(NIGHTS, at("2026-11-30T19:00")) == at("2026-12-01T05:00")
    # Two windows that touch are one: from Saturday to the end of Sunday.
    assert next_change(WEEKEND, at("2026-11-28T12:00")) == at("2026-11-30T00:00")
    always = [Hours.model_validate({"from": "00:00", "to": "24:00"})]
    assert next_change(always, at("2026-11-28T12:00")) is None


def test_changes_of_daylight_saving_time_move_it() -> None:
    # In Berlin clocks go back at 01:00 UTC on 25 October 2026, and forward on 29 March 2026.
    nights = [Hours.model_validate({"from": "20:00", "to": "06:00", "timezone": "Europe/Berlin"})]
    assert next_change(nights, at("2026-10-24T19:00")) == at("2026-10-25T05:00")
    assert next_change(nights, at("2026-03-28T20:00")) == at("2026-03-29T04:00")


clock_times = st.tuples(st.integers(0, 23), st.sampled_from([0, 30])).map(lambda pair: f"{pair[0]:02}:{pair[1]:02}")
entries = st.builds(
    lambda days, start, to: {"days": sorted(days), "from": start, "to": to},
    st.sets(st.sampled_from([*Day]), min_size=1),
    clock_times,
    clock_times,
).filter(lambda entry: entry["from"] != entry["to"])


@given(st.lists(entries, min_size=1, max_size=3), st.integers(0, 7 * 48))
def test_between_now_and_the_next_change_nothing_changes(found: list[dict[str, object]], halves: int) -> None:
    hours = [Hours.model_validate(entry) for entry in found]
    now = at("2026-11-23T00:00") + timedelta(minutes=30 * halves + 7)
    change = next_change(hours, now)
    steps = [now + timedelta(minutes=30 * step) for step in range(1, 8 * 48)]
    assert all(is_open(hours, step) is is_open(hours, now) for step in steps if change is None or step < change)
    if change is not None:
        assert is_open(hours, change) is not is_open(hours, now)
