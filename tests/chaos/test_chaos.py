"""The job in which everything goes wrong, with seconds for minutes; ``make chaos`` runs it in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.job import Script, disturbed, undisturbed

SCRIPT = Script(
    rounds=12,
    store_away_after=2,
    store_away_seconds=20,
    stopped_after=4,
    stopped_seconds=20,
    clock_jumps_after=6,
    clock_seconds=5,
    vanishes_after=8,
    deadline_seconds=10,
    limit_seconds=300,
)


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_it_completes_with_the_model_of_an_undisturbed_run(tmp_path: Path) -> None:
    found, commits = disturbed(tmp_path / "disturbed", SCRIPT)
    assert (found.completed, found.reason, found.rounds) == (True, "RoundsDone", 12)
    assert found.deaths == []
    assert found.server_errors == 0
    assert "StorageUnreachable" in found.conditions_seen, "it says what it waits for"
    assert undisturbed(tmp_path / "undisturbed", SCRIPT, commits) == found.last_commit
