"""``make fuzz`` in short: nothing that anyone sends ends the aggregator, makes it fail, or is taken for an update."""

from __future__ import annotations

import random
from pathlib import Path

from photon.local.object_store import EmbeddedStore
from tests.fuzz import mutations
from tests.fuzz.campaign import Campaign


def test_mutations_of_valid_participants_and_strangers_do_no_harm(s3: EmbeddedStore, tmp_path: Path) -> None:
    result = Campaign(s3, tmp_path, inputs=300, rounds=2, seed=20261127).run()
    assert not result.problems
    assert (result.server_errors, result.deaths, result.wrongly_accepted) == (0, 0, 0)
    assert result.inputs >= 300
    assert {"200", "401", "413", "422"} <= set(result.statuses), "the inputs reach what they are to reach"


def test_a_seed_says_all_that_is_sent() -> None:
    def some(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        valid = {"a": [1, 2.5, {"b": "text"}], "c": True, "d": None}
        return [mutations.document(rng, valid) for _ in range(50)] + [mutations.request(rng, "t", b"{}")[1]]

    assert some(1) == some(1) != some(2)
