"""Rates at the door: bounded memory, a wait that is said, and addresses that cannot be made up."""

from __future__ import annotations

import pytest

from photon.protocol.messages import ErrorReason
from photon_aggregator.http.border.rates import SESSION, Buckets, Rate, sender_of
from photon_aggregator.http.errors import ApiError


def test_a_burst_and_then_one_after_the_other() -> None:
    now = [0.0]
    held = Buckets(rate=Rate(0.5, 3.0), clock=lambda: now[0])
    assert [held.wait("north") for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert held.wait("south") == 0.0
    now[0] = 2.0
    assert [held.wait("north") for _ in range(2)] == [0.0, 2.0]
    now[0] = -50.0
    assert held.wait("north") == 2.0


def test_what_is_refused_says_when_to_come_again() -> None:
    held = Buckets(rate=SESSION, clock=lambda: 0.0)
    for _ in range(6):
        held.take("north", "too many sessions")
    with pytest.raises(ApiError) as met:
        held.take("north", "too many sessions")
    answer = met.value.response()
    assert (met.value.reason, answer.status_code) == (ErrorReason.TOO_MANY_REQUESTS, 429)
    assert answer.headers["Retry-After"] == "5"


def test_a_million_senders_take_no_more_memory_than_a_few_thousand() -> None:
    held = Buckets(rate=SESSION, clock=lambda: 0.0, most=100)
    for number in range(10_000):
        held.wait(f"10.0.{number // 256}.{number % 256}")
    assert len(held._held) == 100


@pytest.mark.parametrize(
    ("host", "sender"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("not an address", ""),
    ],
)
def test_an_address_is_that_of_the_connection(host: str, sender: str) -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.1"), (b"forwarded", b"for=198.51.100.1")]
    assert sender_of({"type": "http", "client": (host, 1), "headers": headers}) == sender
