"""What rollbacks in the chain mean for the rounds after them: pure readings of the last commits (the trail).

The trail holds the head and the commits before it, at most TRAIL; nothing here depends on older ones, so a restarted
aggregator that has read as many decides as the one before it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from photon.protocol.rollback import ROUNDS_AFTER
from photon_aggregator.rounds.events import Head

TRAIL: Final = 64

Trail = tuple[Head, ...]


def extended(trail: Trail, head: Head) -> Trail:
    """The trail with the next commit."""
    return (*trail, head)[-TRAIL:]


def lineage(trail: Sequence[Head]) -> list[Head]:
    """The commits, oldest first, that the last one's model was made by; as far back as the trail goes."""
    where = {head.round: index for index, head in enumerate(trail)}
    found: list[Head] = []
    index: int | None = len(trail) - 1
    while index is not None and index >= 0:
        returned = trail[index].commit.rollback
        if returned is not None:
            index = where.get(returned.to)
            continue
        found.append(trail[index])
        index -= 1
    return found[::-1]


def abandoned(trail: Sequence[Head]) -> frozenset[int]:
    """Rounds whose model was given up by a later rollback."""
    gone: set[int] = set()
    for head in trail:
        if head.commit.rollback is not None:
            gone.update(range(head.commit.rollback.to + 1, head.round))
    return frozenset(gone)


def quarantined(trail: Sequence[Head], round_number: int, participants: Sequence[str]) -> frozenset[str]:
    """Who of ``participants`` is left out of a round; empty when otherwise no participant would be left."""
    names = {
        name
        for head in trail
        for name, until in head.commit.quarantine.items()
        if name in participants and round_number <= until
    }
    return frozenset(names) if len(names) < len(participants) else frozenset()


def outer_scale(trail: Sequence[Head], round_number: int) -> float | None:
    """The factor on the outer learning rate of a round: that of the last rollback, while it lasts; None for 1."""
    last = next((head for head in reversed(trail) if head.commit.rollback is not None), None)
    if last is None or round_number > last.round + ROUNDS_AFTER:
        return None
    return last.commit.outer_scale
