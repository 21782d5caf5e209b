"""Fixtures: a gate before a hub that a test scripts; and of the aggregator's tests, for whole jobs through gates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from photon_gate.program import Gate
from tests.aggregator.conftest import other_store
from tests.gate.hub import ScriptedHub, institution_of
from tests.gate.site import Institution

__all__ = ["other_store"]


@pytest.fixture
def hub() -> Iterator[ScriptedHub]:
    with ScriptedHub() as made:
        yield made


@pytest.fixture
def site(hub: ScriptedHub, tmp_path: Path) -> Institution:
    made: Institution = institution_of(hub, tmp_path)
    return made


@pytest.fixture
def gate(site: Institution) -> Iterator[Gate]:
    with site.gate() as made:
        made.membership.step()
        assert made.standing.ready, made.standing.message
        yield made
