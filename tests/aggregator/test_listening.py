"""Where the aggregator listens: in clusters of IPv4, of IPv6 and of both."""

from __future__ import annotations

import socket

import pytest

from photon_aggregator.http.server import listen


def reaches(host: str, bound: socket.socket) -> bool:
    with socket.create_connection((host, bound.getsockname()[1]), timeout=5):
        return True


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_is_of_both_kinds() -> None:
    with listen("[::]:0") as bound:
        assert reaches("127.0.0.1", bound)
        assert reaches("::1", bound)


def test_every_address_is_of_ipv4_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("[::]:0") as bound:
        assert bound.family is socket.AF_INET
        assert reaches("127.0.0.1", bound)
