"""Who trains in a round: a pure function of the seed and the round, so a replay samples the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

from photon.protocol.canonical import sha256_hex


def sample_cohort(*, seed: int, round_number: int, participants: Sequence[str], size: int) -> list[str]:
    """A uniform sample of ``size`` of ``participants`` without replacement, sorted.

    The same on every machine and Python version: only ``random.Random.random()`` is used, whose sequence for an integer
    seed is guaranteed stable.

    Raises:
        ValueError: ``size`` is larger than the number of participants.
    """
    pool = sorted(participants)
    if size > len(pool):
        raise ValueError(f"a cohort of {size} from {len(pool)} participants")
    generator = random.Random(int(sha256_hex(f"cohort/{seed}/{round_number}".encode()), 16))
    for i in range(size):
        j = i + int(generator.random() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return sorted(pool[:size])
