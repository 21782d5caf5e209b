"""Whether jobs may run at a moment, and when that changes: pure functions of that moment.

Times are those of a wall clock in the time zone of each entry, so in the night of a change to or from daylight saving
time a window is an hour shorter or longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from photon.policy.document import Day, Hours

_DAYS: Final = tuple(Day)
_WHOLE_DAY: Final = timedelta(days=1)
# A week, the day before it and the day after: every window begins and ends within.
_SPAN: Final = range(-1, 9)


def is_open(hours: Sequence[Hours], now: datetime) -> bool:
    """Whether jobs may run at ``now``, which has a time zone. Without hours they always may."""
    return not hours or any(_within(entry, now) for entry in hours)


def next_change(hours: Sequence[Hours], now: datetime) -> datetime | None:
    """The first moment after ``now`` at which ``is_open`` is another, in UTC; None when it stays as it is."""
    state = is_open(hours, now)
    moments = sorted({moment for entry in hours for moment in _borders(entry, now) if moment > now})
    return next((moment for moment in moments if is_open(hours, moment) is not state), None)


def _within(entry: Hours, now: datetime) -> bool:
    local = now.astimezone(ZoneInfo(entry.timezone))
    clock, start, to = f"{local:%H:%M}", entry.start, entry.to
    today, yesterday = _DAYS[local.weekday()], _DAYS[local.weekday() - 1]
    if start < to:
        return today in entry.days and start <= clock < to
    return (today in entry.days and clock >= start) or (yesterday in entry.days and clock < to)


def _borders(entry: Hours, now: datetime) -> Iterator[datetime]:
    zone = ZoneInfo(entry.timezone)
    today = now.astimezone(zone).date()
    for offset in _SPAN:
        for text in (entry.start, entry.to):
            day = today + _WHOLE_DAY * (offset + (text == "24:00"))
            at = time(0) if text == "24:00" else time.fromisoformat(text)
            yield datetime.combine(day, at, tzinfo=zone).astimezone(UTC)
