from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photon_worker.data import DataError, Mixture
from photon_worker.data.index import PreparationSettings
from photon_worker.data.prepare import prepare


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three small sources, of different sizes and in several shards."""
    result = {}
    for name, size in (("alpha", 3000), ("beta", 5000), ("gamma", 4001)):
        folder = tmp_path_factory.mktemp(name)
        numbers = " ".join(str(n * n) for n in range(size))[:size]
        (folder / "in.txt").write_text(numbers)
        prepare([str(folder / "in.txt")], folder / "out", PreparationSettings(shard_tokens=1024), workers=1)
        result[name] = str(folder / "out")
    return result


STEPS = st.integers(0, 10**6)


@settings(max_examples=50, deadline=None)
@given(step=STEPS, share=st.integers(1, 6), length=st.integers(8, 60), seed=st.integers(0, 1000))
def test_a_mixture_is_the_participants_batches_put_together(
    folders: dict[str, str], step: int, share: int, length: int, seed: int
) -> None:
    together = Mixture.open(folders).batch(seed=seed, step=step, batch_size=3 * share, sequence_length=length)
    alone = [
        Mixture.open({name: uri}).batch(seed=seed, step=step, batch_size=share, sequence_length=length)
        for name, uri in folders.items()
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@settings(max_examples=50, deadline=None)
@given(step=STEPS, ranks=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_together_read_the_whole_batch_whatever_their_number(
    folders: dict[str, str], step: int, ranks: int
) -> None:
    mixture = Mixture.open(folders)
    each = 12 // ranks
    slices = [
        mixture.batch(seed=1, step=step, batch_size=12, sequence_length=16, start=r * each, stop=(r + 1) * each)
        for r in range(ranks)
    ]
    whole = mixture.batch(seed=1, step=step, batch_size=12, sequence_length=16)
    np.testing.assert_array_equal(np.concatenate(slices), whole)
    assert whole.shape == (12, 17)
    assert whole.dtype == np.int64


def test_rows_are_the_texts_own_tokens_across_shards(folders: dict[str, str]) -> None:
    mixture = Mixture.open({"alpha": folders["alpha"]})
    source = mixture.sources["alpha"]
    assert len(source.index.shards) > 1
    text = b"".join((source.folder / s.name).read_bytes() for s in source.index.shards)
    tokens = np.frombuffer(text, dtype="<u2").astype(np.int64)
    rows = mixture.batch(seed=0, step=0, batch_size=50, sequence_length=40)
    views = np.lib.stride_tricks.sliding_window_view(tokens, 41)
    for row in rows:
        assert (views == row).all(axis=1).any()


def test_the_order_in_which_sources_are_given_does_not_matter(folders: dict[str, str]) -> None:
    turned = dict(reversed(folders.items()))
    a = Mixture.open(folders).batch(seed=0, step=3, batch_size=6, sequence_length=16)
    b = Mixture.open(turned).batch(seed=0, step=3, batch_size=6, sequence_length=16)
    np.testing.assert_array_equal(a, b)


def test_a_batch_that_cannot_be_shared_equally_names_the_sources(folders: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"batch of 4 sequences .* 3 sources \(alpha, beta, gamma\).* multiple of 3"):
        Mixture.open(folders).require(batch_size=4, sequence_length=16)


def test_too_little_data_says_what_is_needed_and_what_is_there(folders: dict[str, str]) -> None:
    mixture = Mixture.open(folders)
    mixture.require(batch_size=6, sequence_length=256)
    with pytest.raises(DataError, match=r"data of 'alpha' .* 8 sequences of 512 tokens need at least 4608 .* are \d+"):
        mixture.require(batch_size=24, sequence_length=512)


def test_what_is_said_to_be_needed_is_enough(folders: dict[str, str]) -> None:
    mixture = Mixture.open({"alpha": folders["alpha"]})
    there = mixture.tokens
    length = there // 5
    mixture.require(batch_size=4, sequence_length=length)  # needs 5 * length
    with pytest.raises(DataError):
        mixture.require(batch_size=4, sequence_length=there // 5 + 1)
    mixture.require(batch_size=1, sequence_length=there - 1)


def test_no_data_at_all() -> None:
    with pytest.raises(DataError, match="name at least one"):
        Mixture.open({})


def test_rows_outside_the_batch_are_our_mistake(folders: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"rows \[0, 7\) are not within a batch of 6"):
        Mixture.open(folders).batch(seed=0, step=0, batch_size=6, sequence_length=16, stop=7)
