"""The hub's log of its door, as an institution sees it: it only grows, and its heads are signed."""

from __future__ import annotations

from typing import Any

import pytest

from photon.api.status import JoinReason
from photon.trust import statements
from photon.trust.log import NOTHING, follow
from photon_gate.program import Gate
from tests.gate.hub import SHA, ScriptedHub, ends
from tests.gate.site import Institution


def digests(count: int, *, of: str = "one log") -> list[str]:
    return [f"{len(of):02x}{number:062x}" for number in range(count)]


def shows(hub: ScriptedHub, log: list[str], *, head: str | None = None) -> None:
    hub.log, hub.head = log, head if head is not None else follow(NOTHING, log)


def again(gate: Gate) -> None:
    """A new session, and a look at what the hub shows then."""
    gate.border.client._until = gate.border.client._opened = float("-inf")
    gate.membership.step()


def cosigned(hub: ScriptedHub, site: Institution) -> list[tuple[int, str]]:
    said = [
        statements.verify(body["envelope"].encode(), statements.Cosign, site.identity.key)
        for body in hub.bodies("v1/cosign")
    ]
    return [(one.size, one.head) for one in said]


def test_each_head_that_continues_what_was_seen_is_signed_once(hub: ScriptedHub, site: Institution, gate: Gate) -> None:
    log = digests(9000)
    for size in (3, 3, 4, 9000):
        shows(hub, log[:size])
        again(gate)
    assert gate.standing.up, gate.standing.message
    assert cosigned(hub, site) == [(size, follow(NOTHING, log[:size])) for size in (3, 4, 9000)]
    # Of what was seen before nothing is asked for again, and each answer is bounded.
    assert hub.asked_log == [3, 4, 4100, 8196]
    assert [entry.decision for entry in site.entries() if entry.kind == "Log"] == ["Signed"] * 3


def test_a_log_that_goes_back_ends_the_gate_also_after_a_restart(hub: ScriptedHub, site: Institution) -> None:
    shows(hub, digests(5))
    with site.gate() as gate:
        gate.membership.step()
        again(gate)
    shows(hub, digests(4))
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "its log of the door has 4 entries, and had 5")
    shows(hub, [])
    with site.gate() as gate:
        ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "has 0 entries, and had 5")


@pytest.mark.parametrize("size", [5, 8])
def test_a_log_that_forks_ends_the_gate(hub: ScriptedHub, gate: Gate, size: int) -> None:
    shows(hub, digests(5))
    again(gate)
    shows(hub, digests(size, of="another log"))
    ends(lambda: again(gate), JoinReason.HUB_NOT_TRUSTED, f"with {size} entries does not continue that with 5")


def test_a_hub_that_signed_more_than_it_shows_ends_the_gate(hub: ScriptedHub, gate: Gate) -> None:
    shows(hub, digests(5))
    again(gate)
    shows(hub, digests(7))
    hub.bend["v1/log"] = lambda status, _: (status, {"digests": []})
    ends(lambda: again(gate), JoinReason.HUB_NOT_TRUSTED, "has 5 entries, and it signed a head of 7")


def test_the_log_in_a_commit_must_continue_it_too(hub: ScriptedHub, gate: Gate) -> None:
    shows(hub, digests(5))
    again(gate)

    def bent(status: int, _: Any) -> tuple[int, Any]:
        said = statements.Commit(
            job=hub.job, round=0, commit=SHA["zero"], keys={}, version="0.1.0", audit_size=6, audit_head="ab" * 32
        )
        return status, {"envelopes": [hub.seal(said)]}

    hub.log = digests(6)
    hub.bend["v1/commits"] = bent
    hub.round = 2
    ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "the log of its door in the commit of round 0 with 6")


def test_a_hub_without_a_log_or_that_keeps_no_signatures_of_it_is_well(hub: ScriptedHub, gate: Gate) -> None:
    again(gate)
    assert (gate.standing.up, hub.bodies("v1/cosign")) == (True, [])
    hub.refuse("v1/cosign", 422, "InvalidRequest")
    shows(hub, digests(2))
    again(gate)
    assert gate.standing.up
