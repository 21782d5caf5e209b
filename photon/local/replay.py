"""``photon run --membership-of RUN``: who took part in each round of another run, for the aggregator to repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from photon.errors import UserError
from photon.files import write_atomic
from photon.protocol.records import LeftOut
from photon.protocol.replay import Replay, ReplayedRound
from photon.report import history as histories

FILE: Final = "replay.json"


def write_replay(folder: Path, other: Path) -> Path:
    """Write ``replay.json`` in ``folder`` from the run in ``other``; returns its path.

    Raises:
        UserError: ``other`` is no run that has committed a round.
    """
    history = histories.load(other)
    rounds = {}
    for number, commit in sorted(history.commits.items()):
        if number == 0 or commit.rollback is not None:
            continue
        left_out = history.plans[number].left_out if number in history.plans else {}
        rounds[str(number)] = ReplayedRound(
            not_members=sorted(name for name, why in left_out.items() if why is LeftOut.NOT_A_MEMBER),
            absent=sorted(name for name, why in left_out.items() if why is LeftOut.ABSENT),
            updates={update.participant: update.manifest for update in commit.accepted},
        )
    if not rounds:
        raise UserError(f"--membership-of {other}: this run has not committed a round yet")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    write_atomic(path, Replay(rounds=rounds).model_dump_json(by_alias=True))
    return path
