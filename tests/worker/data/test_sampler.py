from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photon_worker.data.sampler import offsets, permute, slots

SEEDS = st.integers(0, 2**31 - 1)
NAMES = st.text("abc-0", min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 3000), key=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_every_key_gives_a_permutation(size: int, key: list[int]) -> None:
    image = permute(np.arange(size), size, np.array(key, dtype=np.uint64))
    assert sorted(image.tolist()) == list(range(size))


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, name=NAMES, length=st.integers(1, 40), extra=st.integers(1, 2000), epoch=st.integers(0, 10**6))
def test_an_epoch_visits_every_window_once_and_stays_inside(
    seed: int, name: str, length: int, extra: int, epoch: int
) -> None:
    tokens = length + extra
    windows = slots(tokens, length)
    starts = offsets(
        seed=seed, name=name, first_sample=epoch * windows, count=windows, tokens=tokens, sequence_length=length
    )
    starts.sort()
    assert len(starts) == windows >= 1
    assert np.all(np.diff(starts) == length), "windows follow one another without gap or overlap"
    assert starts[0] >= 0
    assert starts[-1] + length + 1 <= tokens


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, name=NAMES, first=st.integers(0, 10**9), cuts=st.lists(st.integers(0, 64), max_size=5))
def test_a_sample_does_not_depend_on_how_many_are_asked_for(seed: int, name: str, first: int, cuts: list[int]) -> None:
    def ask(start: int, count: int) -> list[int]:
        return offsets(seed=seed, name=name, first_sample=start, count=count, tokens=700, sequence_length=16).tolist()

    edges = [0, *sorted(cuts), 64]
    pieces = [ask(first + a, b - a) for a, b in pairwise(edges)]
    assert list(chain(*pieces)) == ask(first, 64)


def test_epochs_names_and_seeds_read_in_another_order() -> None:
    def order(**changed: object) -> list[int]:
        given: dict[str, object] = {"seed": 0, "name": "a", "first_sample": 0, "count": 100}
        return offsets(**(given | changed), tokens=101 * 64, sequence_length=64).tolist()  # type: ignore[arg-type]

    orders = [order(), order(first_sample=100), order(name="b"), order(seed=1)]
    slots_of = [[start // 64 for start in one] for one in orders]
    assert all(a != b for i, a in enumerate(slots_of) for b in slots_of[:i])
    assert order()[0] % 64 != order(first_sample=100)[0] % 64, "another phase in another epoch"


def test_the_order_is_that_of_every_version() -> None:
    """Audits recompute old batches: a change of these numbers needs a new name of the sampler."""
    starts = offsets(seed=0, name="python", first_sample=0, count=5, tokens=10_000, sequence_length=100)
    assert starts.tolist() == [8588, 3488, 5788, 6988, 9088]


def test_neighbours_are_torn_apart() -> None:
    """No visible order is left: the mean distance of consecutive windows is that of random ones (a third)."""
    places = offsets(seed=0, name="x", first_sample=0, count=4096, tokens=4097 * 8, sequence_length=8) / 8 / 4096
    assert np.abs(np.diff(places)).mean() == pytest.approx(1 / 3, abs=0.03)


def test_too_few_tokens_for_a_window() -> None:
    assert slots(16, 16) == 0
    assert slots(17, 16) == 1
    with pytest.raises(ValueError, match="16 tokens are fewer than one window of 17"):
        offsets(seed=0, name="a", first_sample=0, count=1, tokens=16, sequence_length=16)
