"""Which documents are trained on, which are held out, which are left out. Pure: records in, decisions out.

A document's content alone (its hash, with the seed) says whether it is held out, so adding documents later moves none
across the border, and the same text is never on both sides. Only where that would hold out none of them, or all, is
the first of them by hash held out after all, or the last trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from photon_worker.data.index import Left, PreparationSettings
from photon_worker.data.similarity import NearIndex, Signature

OUT: Final = 0
TRAIN: Final = 1
HELD_OUT: Final = 2
# With held_out_bytes, no document fills more than this share of the held-out text, so it is of many kinds.
_LARGEST_SHARE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What is known of all documents, in order: digests uint64 [n, 2], sizes int64 [n], signatures uint32 [n, 64]."""

    digests: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    signatures: NDArray[np.uint32]

    @classmethod
    def join(cls, parts: Sequence[Records]) -> Records:
        return cls(
            digests=np.concatenate([part.digests for part in parts]),
            sizes=np.concatenate([part.sizes for part in parts]),
            signatures=np.concatenate([part.signatures for part in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """``places`` uint8 [n]: OUT, TRAIN or HELD_OUT; ``limits`` int64 [n]: bytes of a held-out document to keep."""

    places: NDArray[np.uint8]
    limits: NDArray[np.int64]
    left_out: Left


def decide(records: Records, settings: PreparationSettings) -> Decisions:
    """Place every document.

    In this order: exact duplicates go (the first stays), near-duplicates go if the settings say so, held-out documents
    are chosen, training documents too like a held-out one go, and the rest is thinned to ``max_bytes`` by content hash.
    """
    count = len(records.sizes)
    places = np.full(count, TRAIN, dtype=np.uint8)
    left: dict[str, int] = {}
    if settings.deduplicate:
        keep = np.zeros(count, dtype=bool)
        keep[np.unique(records.digests, axis=0, return_index=True)[1]] = True
        left["exact_duplicates"] = int(count - keep.sum())
        places[~keep] = OUT
        if settings.near_duplicates == "remove":
            left["near_duplicates"] = _drop_near(places, records.signatures, NearIndex(), grow=True)
    limits = _hold_out(places, records, settings)
    against = NearIndex()
    for number in np.flatnonzero(places == HELD_OUT):
        against.add(records.signatures[number])
    left["near_held_out"] = _drop_near(places, records.signatures, against, grow=False)
    if settings.max_bytes is not None:
        left["beyond_max_bytes"] = _thin(places, records, settings.max_bytes, settings.seed)
    return Decisions(places=places, limits=limits, left_out=Left(**left))


def keys(digests: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A number in [0, 2**64) for each document, from its content and the seed."""
    mixed = digests[:, 0] ^ np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _drop_near(places: NDArray[np.uint8], signatures: NDArray[np.uint32], index: NearIndex, *, grow: bool) -> int:
    """Leave out training documents near those in ``index``; with ``grow``, each that stays joins it."""
    dropped = 0
    for number in np.flatnonzero(places == TRAIN):
        values: Signature = signatures[number]
        if index.has_near(values):
            places[number] = OUT
            dropped += 1
        elif grow:
            index.add(values)
    return dropped


def _hold_out(places: NDArray[np.uint8], records: Records, settings: PreparationSettings) -> NDArray[np.int64]:
    """Mark the held-out documents and say how many bytes of each are kept."""
    limits = np.zeros(len(places), dtype=np.int64)
    candidates = np.flatnonzero(places == TRAIN)
    ordered = candidates[np.argsort(keys(records.digests[candidates], settings.seed), kind="stable")]
    if len(ordered) < 2:  # one document cannot be on both sides
        return limits
    sizes = records.sizes[ordered]
    if settings.held_out_bytes is not None:
        shares = np.minimum(sizes, max(1, settings.held_out_bytes // _LARGEST_SHARE))
        before = np.cumsum(shares) - shares
        chosen = min(int(np.count_nonzero(before < settings.held_out_bytes)), len(ordered) - 1)
        limits[ordered[:chosen]] = np.minimum(shares, settings.held_out_bytes - before)[:chosen]
    else:
        fraction = settings.held_out_fraction or 0.0
        if fraction == 0.0:
            return limits
        below = keys(records.digests[ordered], settings.seed).astype(np.float64) / 2.0**64 < fraction
        # At least one: without held-out text a participant cannot evaluate.
        chosen = min(max(1, int(below.sum())), len(ordered) - 1)
        limits[ordered[:chosen]] = sizes[:chosen]
    places[ordered[:chosen]] = HELD_OUT
    return limits


def _thin(places: NDArray[np.uint8], records: Records, max_bytes: int, seed: int) -> int:
    """Keep training documents of at most ``max_bytes`` in all, chosen by their content's hash."""
    training = np.flatnonzero(places == TRAIN)
    other: NDArray[Any] = records.digests[training][:, ::-1]  # another number than that which holds out
    ordered = training[np.argsort(keys(other, seed), kind="stable")]
    beyond = np.cumsum(records.sizes[ordered]) > max_bytes
    places[ordered[beyond]] = OUT
    return int(beyond.sum())
