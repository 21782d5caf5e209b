"""Any request that the description of door and gate allows or forbids is answered, and none by an error of theirs."""

from __future__ import annotations

import itertools
import os

from photon_gate.inner.app import create_app
from photon_gate.inner.bounds import Tokens
from photon_gate.program import Gate
from tests.aggregator.attacks.test_attacks import site as joining
from tests.aggregator.border.hub import Hub
from tests.fuzz.described import ask, of_door
from tests.gate.hub import ScriptedHub
from tests.gate.joined import hub as real_hub
from tests.gate.site import HEADERS, Institution

__all__ = ["real_hub"]
EXAMPLES = int(os.environ.get("PHOTON_FUZZ_EXAMPLES", "3"))


def test_the_door_answers_whatever_a_member_asks(real_hub: Hub) -> None:
    ticks = itertools.count()
    # A clock on which no request comes too soon after another.
    real_hub.clock = lambda: next(ticks) / 10
    north, south = (joining(real_hub, name, real_hub.invite(name)) for name in ("north", "south"))
    with real_hub.running() as running:
        for one in (north, south):
            one.join()
        running.until(lambda engine: engine.state.open is not None)
        headers = {"Authorization": north.http.headers["Authorization"]}
        statuses, problems = ask(of_door(), real_hub.url, headers, examples=EXAMPLES)
        assert problems == []
        assert {200, 422} <= set(statuses), statuses
        assert sum(statuses.values()) >= 16 * EXAMPLES
        assert south.http.get(f"{real_hub.url}/v1/participant").status_code == 200


def test_the_gate_answers_whatever_a_worker_asks(hub: ScriptedHub, site: Institution, gate: Gate) -> None:
    hub.task = hub.train()
    described = create_app(gate.border, Tokens({}, "north"), job="radiology").openapi()
    statuses, problems = ask(described, site.address, HEADERS, examples=EXAMPLES)
    assert problems == []
    assert {200, 422} <= set(statuses), statuses
    assert gate.standing.failure is None
