"""Which tokens sample number n is: a pure function, so resume, partial participation and audits are exact.

A participant's samples are numbered through its whole life: sample = global step x batch size + row. Its text is cut
into windows of ``sequence_length`` tokens (plus one, the last target). An epoch visits every window once, in an order
given by a keyed pseudo-random permutation that is computed for one index at a time (a Feistel network over the next
power of four, walked until it falls inside; Black and Rogaway, 2002), so nothing of the size of the data is held in
memory. Each epoch also shifts the cuts by a phase of its own, so later epochs see the same text cut elsewhere.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Uint64s = NDArray[np.uint64]

_ROUNDS: Final = 6
# Constants of splitmix64's finaliser: full avalanche in two multiplications.
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def slots(tokens: int, sequence_length: int) -> int:
    """Windows of an epoch; 0 if there is not even one (fewer than ``sequence_length`` + 1 tokens).

    One window less than fits is used, so that every phase in [0, sequence_length) leaves room for all of them.
    """
    if tokens < sequence_length + 1:
        return 0
    return max(1, tokens // sequence_length - 1)


def offsets(*, seed: int, name: str, first_sample: int, count: int, tokens: int, sequence_length: int) -> Int64s:
    """Start offsets of samples [first_sample, first_sample + count) of the participant ``name``.

    Args:
        seed: The job's seed (spec.model.seed).
        name: The participant; another name reads in another order.
        tokens: Training tokens there are.
        sequence_length: Tokens that a sample predicts; a sample is one token longer.

    Returns:
        int64 [count]; each offset leaves room for ``sequence_length`` + 1 tokens.

    Raises:
        ValueError: Too few tokens for one window.
    """
    windows = slots(tokens, sequence_length)
    if windows == 0:
        raise ValueError(f"{tokens} tokens are fewer than one window of {sequence_length + 1}")
    samples = np.arange(first_sample, first_sample + count, dtype=np.int64)
    epochs, places = np.divmod(samples, windows)
    result = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        keys = _keys(seed, name, int(epoch))
        phase = int(keys[-1]) % min(sequence_length, tokens - windows * sequence_length)
        result[here] = phase + permute(places[here], windows, keys[:-1]) * sequence_length
    return result


def permute(places: Int64s, size: int, keys: Uint64s) -> Int64s:
    """The image of each of ``places`` (in [0, size)) under the permutation of [0, size) that ``keys`` choose."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    values = _feistel(places.astype(np.uint64), half, keys)
    # The domain is at most four times the size, so this ends after a few turns; it must end: the walk is a cycle
    # that holds the place it started from, which is inside.
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def sample(count: int, size: int, *, name: str) -> Int64s:
    """The first ``count`` of [0, size) in an order that depends on ``name`` and ``size`` only; int64 [count]."""
    return permute(np.arange(count, dtype=np.int64), size, _keys(0, name, 0)[:-1])


def _feistel(values: Uint64s, half: int, keys: Uint64s) -> Uint64s:
    """A permutation of [0, 4 ** half)."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << shift) | right


def _mix(values: Uint64s) -> Uint64s:
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def _keys(seed: int, name: str, epoch: int) -> Uint64s:
    """The epoch's round keys and, last, the number its phase comes from."""
    text = f"photon sampler 1\n{seed}\n{name}\n{epoch}".encode()
    digest = hashlib.blake2b(text, digest_size=8 * (_ROUNDS + 1)).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
