"""The books kept for people: the pace from which the time left is told."""

from __future__ import annotations

from photon.protocol.records import RoundLog
from photon.protocol.views import EventKind
from photon_aggregator.bucket.totals import Totals
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.rounds.events import JobEvent
from tests.aggregator.machine import head


def log(number: int) -> RoundLog:
    return RoundLog(round=number, started_at="2026-01-01T00:00:00.000Z", committed_at="2026-01-01T00:00:10.000Z")


def opened(books: JobBooks, number: int, at: float) -> None:
    books.entered(JobEvent(at=at, kind=EventKind.ROUND_PLANNED, round=number))


def test_the_first_round_in_which_workers_start_is_the_pace_only_until_there_is_a_second() -> None:
    books = JobBooks(["north"])
    opened(books, 1, at=100.0)
    books.committed(head(1), log(1), at=120.0)
    assert books.seconds_per_round() == 20.0
    for number in (2, 3, 4):
        opened(books, number, at=118.0 + number)
        books.committed(head(number), log(number), at=118.0 + 2 * number)
        assert books.seconds_per_round() == (118.0 + 2 * number - 120.0) / (number - 1)


def test_after_a_restart_the_pace_of_the_past_rounds_goes_on() -> None:
    books = JobBooks(["north"])
    books.restored([head(1), head(2)], {1: log(1), 2: log(2)}, totals=Totals(), counted_before=0)
    opened(books, 3, at=1000.0)
    books.committed(head(3), log(3), at=1040.0)
    assert books.seconds_per_round() == (10.0 + 10.0 + 40.0) / 3
    opened(books, 4, at=1040.0)
    books.committed(head(4), log(4), at=1050.0)
    assert books.seconds_per_round() == 10.0
