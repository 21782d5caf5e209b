from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from photon_worker.data.index import PreparationSettings
from photon_worker.data.selection import HELD_OUT, OUT, TRAIN, Decisions, Records, decide
from photon_worker.data.similarity import THRESHOLD, NearIndex, signature
from photon_worker.data.stages import window


def records(texts: Sequence[str]) -> Records:
    raw = [text.encode() for text in texts]
    digests = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in raw)
    return Records(
        digests=np.frombuffer(digests, dtype="<u8").reshape(-1, 2),
        sizes=np.array([len(text) for text in raw], dtype=np.int64),
        signatures=np.array([signature(text) for text in raw], dtype=np.uint32).reshape(-1, 64),
    )


def placed(texts: Sequence[str], **changed: Any) -> tuple[dict[int, set[str]], Decisions]:
    """The texts by place, and the decisions."""
    decisions = decide(records(texts), PreparationSettings(**changed))
    result: dict[int, set[str]] = {OUT: set(), TRAIN: set(), HELD_OUT: set()}
    for text, place in zip(texts, decisions.places.tolist(), strict=True):
        result[place].add(text)
    return result, decisions


def edited(text: str, every: int) -> str:
    """``text`` with each so-many-th word changed."""
    words = text.split()
    words[::every] = ["changed"] * len(words[::every])
    return " ".join(words)


@pytest.mark.parametrize(("every", "near"), [(100, True), (50, True), (7, False), (3, False)])
def test_near_means_few_words_differ(text_of: Callable[..., str], every: int, near: bool) -> None:
    index = NearIndex()
    texts = [text_of(number, 500) for number in range(20)]
    for text in texts:
        index.add(signature(text.encode()))
    found = [index.has_near(signature(edited(text, every).encode())) for text in texts]
    assert sum(found) >= 19 if near else sum(found) <= 1


def test_signatures_estimate_the_jaccard_similarity(text_of: Callable[..., str]) -> None:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    for number in range(10):
        text = text_of(number, 800).replace("é", "e").replace("数", "su")
        other = edited(text, 30 + 10 * number)
        true = len(shingles(text) & shingles(other)) / len(shingles(text) | shingles(other))
        estimate = np.mean(signature(text.encode()) == signature(other.encode()))
        assert estimate == pytest.approx(true, abs=0.25)
    assert 0.5 < THRESHOLD < 0.9


def test_short_texts_and_texts_without_spaces_have_signatures() -> None:
    assert np.array_equal(signature(b"one two"), signature(b"one  two\n"))
    assert not np.array_equal(signature(b"one two"), signature(b"one three"))
    long = "学习模型数据" * 20
    index = NearIndex()
    index.add(signature(f"这里有一个很长的句子没有空格{long}".encode()))
    assert index.has_near(signature(f"这里有一个很长的句子没有空格{long}了".encode()))
    assert not index.has_near(signature("完全不同的另外一段文字内容在此处出现".encode()))


def test_a_near_duplicate_of_held_out_text_is_not_trained_on(text_of: Callable[..., str]) -> None:
    texts = [text_of(number) for number in range(60)]
    plain, _ = placed(texts, held_out_fraction=0.2)
    copies = [edited(text, 100) for text in plain[HELD_OUT]]
    others = [edited(text, 3) for text in plain[HELD_OUT]]
    both, decisions = placed([*texts, *copies, *others], held_out_fraction=0.2)
    assert len(plain[HELD_OUT]) > 3
    assert not both[TRAIN] & set(copies)
    assert decisions.left_out.near_held_out >= len([c for c in copies if c in both[OUT]]) > 0
    assert both[TRAIN] & set(others)


def test_near_duplicates_within_the_training_text_go_only_if_asked(text_of: Callable[..., str]) -> None:
    texts = [text_of(number) for number in range(30)]
    copies = [edited(text, 100) for text in texts]
    kept, _ = placed([*texts, *copies], held_out_fraction=0.0)
    gone, decisions = placed([*texts, *copies], held_out_fraction=0.0, near_duplicates="remove")
    assert kept[TRAIN] == {*texts, *copies}
    assert gone[TRAIN] == set(texts)
    assert decisions.left_out.near_duplicates == 30


TEXTS = st.lists(st.integers(0, 300), min_size=2, max_size=60)


@examples(max_examples=40, deadline=None)
@given(numbers=TEXTS, more=TEXTS, fraction=st.sampled_from([0.1, 0.3]), seed=st.integers(0, 99))
def test_adding_documents_moves_none_across_the_border(
    numbers: list[int], more: list[int], fraction: float, seed: int
) -> None:
    def text(number: int) -> str:
        return " ".join(f"w{number}x{place}" for place in range(12))

    before, decisions = placed([text(n) for n in numbers], held_out_fraction=fraction, seed=seed)
    after, _ = placed([text(n) for n in numbers + more], held_out_fraction=fraction, seed=seed)
    # Small sets bend the border: one document is always held out, and one is always trained on.
    bent = len(after[HELD_OUT]) == 1 or len(before[TRAIN]) == 1
    assert not before[TRAIN] & after[HELD_OUT] or bent
    assert not after[TRAIN] & after[HELD_OUT]
    assert not before[TRAIN] & before[HELD_OUT]
    assert decisions.left_out.exact_duplicates == len(numbers) - len(set(numbers))
    assert len(set(numbers)) < 2 or before[HELD_OUT], "at least one document is held out"


@examples(max_examples=60, deadline=None)
@given(numbers=TEXTS, held_out=st.integers(1, 3000), limit=st.integers(1, 3000))
def test_sizes_asked_for_are_kept(numbers: list[int], held_out: int, limit: int) -> None:
    texts = [" ".join(f"w{n}x{place}" for place in range(n % 40 + 1)) for n in numbers]
    result, decisions = placed(texts, held_out_fraction=None, held_out_bytes=held_out, max_bytes=limit)
    kept = decisions.limits[decisions.places == HELD_OUT]
    assert kept.sum() <= held_out
    assert all(kept > 0)
    assert all(kept <= max(1, held_out // 16))
    assert sum(len(text) for text in result[TRAIN]) <= limit
    left_over = len(result[TRAIN]) + decisions.left_out.beyond_max_bytes + decisions.left_out.near_held_out
    assert kept.sum() == held_out or left_over <= 1, "less only where there is no more"


def test_without_deduplication_copies_stay_on_one_side(text_of: Callable[..., str]) -> None:
    texts = [text_of(number % 50) for number in range(150)]
    result, decisions = placed(texts, deduplicate=False, held_out_fraction=0.4)
    assert len(result[HELD_OUT]) > 2
    assert decisions.left_out.exact_duplicates == 0
    assert not result[TRAIN] & result[HELD_OUT]
    assert np.count_nonzero(decisions.places == HELD_OUT) == 3 * len(result[HELD_OUT])


def test_one_document_is_trained_on_and_nothing_held_out(text_of: Callable[..., str]) -> None:
    result, _ = placed([text_of(1)])
    assert not result[HELD_OUT]
    assert result[TRAIN]


@examples(max_examples=200, deadline=None)
@given(text=st.text("ab\né數", max_size=300), limit=st.integers(4, 100), number=st.integers(0, 2**64 - 1))
def test_a_window_is_a_whole_part_of_the_text(text: str, limit: int, number: int) -> None:
    raw = text.encode()
    part = window(raw, limit, number)
    assert part in raw
    assert min(len(raw), limit) - 4 < len(part) <= limit
    part.decode()
