from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photon_worker.data import DataError, TokenDataset
from photon_worker.data.tokenizer import EOS


def flip(path: Path) -> None:
    """Change one byte of a file, not its size."""
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


def test_held_out_windows_predict_every_token_once(prepared: Path) -> None:
    held = TokenDataset.open(prepared).held_out
    everything = np.empty(held.stream.tokens, dtype=np.int64)
    held.stream.read(0, everything)

    @settings(max_examples=50, deadline=None)
    @given(length=st.integers(1, 6000), batch=st.integers(1, 9), more=st.none() | st.integers(0, 10))
    def check(length: int, batch: int, more: int | None) -> None:
        limit = None if more is None else len(everything) - 1 + more
        rows = [row for rows in held.windows(length, batch, limit) for row in rows]
        inputs = np.concatenate([row[:-1] for row in rows])
        targets = np.concatenate([row[1:] for row in rows])
        assert len(targets) == held.predicted_tokens(length, limit) == len(everything) - 1
        np.testing.assert_array_equal(targets, everything[1:])
        np.testing.assert_array_equal(inputs, everything[:-1])
        assert held.text_bytes(length, limit) == np.count_nonzero(targets < EOS - 1)
        assert all(rows.shape[0] <= batch for rows in held.windows(length, batch, limit))

    check()


def test_a_part_of_the_held_out_text_is_windows_of_all_of_it(prepared: Path) -> None:
    held = TokenDataset.open(prepared).held_out
    there = held.stream.tokens - 1
    everything = np.empty(held.stream.tokens, dtype=np.int64)
    held.stream.read(0, everything)

    @settings(max_examples=50, deadline=None)
    @given(length=st.integers(1, 200), limit=st.integers(1, there - 1))
    def check(length: int, limit: int) -> None:
        rows = [row for rows in held.windows(length, 3, limit) for row in rows]
        targets = sum(len(row) - 1 for row in rows)
        assert targets == held.predicted_tokens(length, limit) <= limit
        assert targets >= min(limit, limit // length * length or limit)
        again = [row for rows in held.windows(length, 5, limit) for row in rows]
        assert all(np.array_equal(one, other) for one, other in zip(rows, again, strict=True)), "at each evaluation"
        for row in rows:
            assert row.tobytes() in everything.tobytes(), "text as it is, not glued together"

    check()
    # A tenth of the windows lies all over the text, not at its beginning.
    places, _ = held._places(16, there // 10)
    quarters = np.bincount(places * 16 * 4 // there, minlength=4)
    assert (quarters > 0).all()


def test_the_index_counts_what_is_there(prepared: Path) -> None:
    dataset = TokenDataset.open(prepared)
    index = dataset.index
    tokens = np.empty(dataset.tokens, dtype=np.int64)
    dataset.read(0, tokens)
    assert np.count_nonzero(tokens == EOS) == index.documents
    assert np.count_nonzero(tokens < 256) == index.bytes
    assert tokens[-1] == EOS
    assert sum(shard.tokens for shard in index.shards) == index.tokens
    assert len(index.shards) == -(-index.tokens // 10_000)
    assert abs(index.held_out.bytes - 4000) <= 3 * index.held_out.documents
    with pytest.raises(IndexError, match="not within"):
        dataset.read(1, tokens)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist$"):
        TokenDataset.open(tmp_path / "nowhere")


def test_a_folder_that_was_not_prepared_says_how(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not prepared data \(it has no index.json\): run `photon data prepare`"):
        TokenDataset.open(tmp_path)


def test_a_preparation_that_was_not_finished_says_so(tmp_path: Path) -> None:
    (tmp_path / ".prepare").mkdir()
    with pytest.raises(DataError, match="was not finished: run the same `photon data prepare` again"):
        TokenDataset.open(tmp_path)


def test_another_tokenizer_than_the_jobs(prepared: Path) -> None:
    digest = TokenDataset.open(prepared).index.tokenizer_digest
    TokenDataset.open(prepared, tokenizer_digest=digest)
    with pytest.raises(DataError, match=r"prepared with another tokenizer than the job's .* spec.model.tokenizer"):
        TokenDataset.open(prepared, tokenizer_digest="0" * 64)


def test_a_missing_or_cut_shard_is_named(prepared: Path) -> None:
    shard = prepared / "tokens-00001.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    with pytest.raises(DataError, match=rf"tokens-00001.bin has {len(content) - 2} bytes instead of {len(content)}"):
        TokenDataset.open(prepared)
    shard.unlink()
    with pytest.raises(DataError, match=r"incomplete: tokens-00001.bin is missing"):
        TokenDataset.open(prepared)


def test_changed_bytes_are_found_on_request_and_at_first_opening(prepared: Path, tmp_path: Path) -> None:
    flip(prepared / "heldout-00000.bin")
    TokenDataset.open(prepared)
    with pytest.raises(DataError, match=r"sha256 of heldout-00000.bin is not that of its index"):
        TokenDataset.open(prepared, verify=True)
    with pytest.raises(DataError, match=r"sha256 of heldout-00000.bin"):
        TokenDataset.open(prepared, tmp_path / "cache")


def test_what_was_verified_is_not_read_again_until_it_changes(prepared: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    TokenDataset.open(prepared, cache)
    [note] = (cache / "verified").iterdir()
    TokenDataset.open(prepared, cache)
    assert list((cache / "verified").iterdir()) == [note]
    flip(prepared / "tokens-00000.bin")
    with pytest.raises(DataError, match=r"sha256 of tokens-00000.bin"):
        TokenDataset.open(prepared, cache)


@pytest.mark.parametrize("change", [{"format": 2}, {"tokens": -1}, {"surprise": 1}])
def test_an_index_that_cannot_be_read_names_the_field(prepared: Path, change: dict[str, int]) -> None:
    path = prepared / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=rf"index.json cannot be read \({next(iter(change))}: "):
        TokenDataset.open(prepared)


def test_a_remote_folder_needs_a_place_for_its_copy() -> None:
    with pytest.raises(DataError, match="needs a cache directory"):
        TokenDataset.open("s3://bucket/data")
