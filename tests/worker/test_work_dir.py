"""How much a worker's folder takes, beside what the operator asks a cluster for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from photon_operator.children.sizes import BYTES_A_PARAMETER
from photon_worker.round.checkpoint import Checkpoints
from photon_worker.round.progress import TaskProgress

pytestmark = pytest.mark.s3


def test_a_default_claim_has_room_for_the_most_that_is_there_at_a_time(
    aggregator: Any, new_participant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rounds, each with another model and with checkpoints within it; looked at when a checkpoint was written and
    those that it makes needless are still there."""
    seen: list[int] = []
    prune = Checkpoints._prune

    def look(checkpoints: Checkpoints, newest: Path) -> None:
        seen.append(sum(path.stat().st_size for path in (tmp_path / "work").rglob("*") if path.is_file()))
        prune(checkpoints, newest)

    monkeypatch.setattr(Checkpoints, "_prune", look)
    participant = new_participant(checkpoint_every=1)
    for number in (1, 2, 3):
        task = aggregator.train_task(number)
        # The same bytes under the name of another commit: another global model, as every round has.
        model = task.model.model_copy(update={"round": number, "commit": f"{number:064x}"})
        participant.train(task.model_copy(update={"model": model}), TaskProgress(task.id))
    elements = participant._strategy.header.elements
    # A tiny model's other files, headers and metrics weigh something, a large one's do not.
    other = 2 * (participant._strategy.header.data_offset + 20_000) + 3 * 8192 + 10_000
    assert 0.8 * BYTES_A_PARAMETER * elements < max(seen) < BYTES_A_PARAMETER * elements + other
