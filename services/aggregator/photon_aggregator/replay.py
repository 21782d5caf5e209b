"""The file of ``--replay``: the membership of another job, round by round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from photon.api.reading import read_bounded
from photon.errors import UserError
from photon.protocol.replay import MAX_FILE_BYTES, Replay
from photon_aggregator.rounds.state import PastRound


def read_replay(path: Path | None) -> Mapping[int, PastRound]:
    """Rounds by number; empty without a file. Raises UserError: it cannot be read."""
    if path is None:
        return {}
    try:
        replay = Replay.model_validate_json(read_bounded(path, "membership of a run", MAX_FILE_BYTES))
    except ValidationError as error:
        raise UserError(f"--replay {path}: {error.errors()[0]['msg']}") from error
    return {
        int(number): PastRound(
            not_members=frozenset(one.not_members), absent=frozenset(one.absent), updates=one.updates
        )
        for number, one in replay.rounds.items()
    }
