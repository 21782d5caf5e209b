"""MinHash signatures of documents, and which documents are nearly the same (Broder, 1997; datasketch's LSH).

Two documents are near-duplicates when the estimated Jaccard similarity of their sets of five-word shingles is at least
``THRESHOLD``. Words are runs of printable ASCII; any other character is a word of its own, so that languages written
without spaces have shingles too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

THRESHOLD: Final = 0.7
SIGNATURE: Final = 64  # hash values; the estimate's standard deviation is about 0.06 at the threshold
_BANDS: Final = (16, 4)  # finds 99 of 100 pairs at the threshold; the estimate then decides
_SHINGLE: Final = 5
_BLOCK: Final = 4096  # shingles hashed at a time: their 64 permuted values stay in the cache
_WORDS: Final = re.compile(rb"[!-~]+|[\xc0-\xff][\x80-\xbf]*")

Signature = NDArray[np.uint32]


def _as_is(value: int) -> int:
    return value


def signature(text: bytes) -> Signature:
    """uint32 [SIGNATURE] of the set of the text's shingles."""
    hashes = _shingles(text)
    minhash = MinHash(num_perm=SIGNATURE, hashfunc=_as_is)
    for first in range(0, len(hashes), _BLOCK):
        minhash.update_batch(hashes[first : first + _BLOCK].tolist())
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


class NearIndex:
    """Signatures that others are compared with."""

    def __init__(self) -> None:
        self._lsh = MinHashLSH(num_perm=SIGNATURE, params=_BANDS)
        self._signatures: list[Signature] = []
        self._permutations = MinHash(num_perm=SIGNATURE).permutations

    def add(self, values: Signature) -> None:
        """Compare later ones with this one too."""
        self._lsh.insert(len(self._signatures), self._minhash(values), check_duplication=False)
        self._signatures.append(values)

    def has_near(self, values: Signature) -> bool:
        """Whether a near-duplicate was added."""
        return any(share >= THRESHOLD for share in self._candidates(values))

    def _candidates(self, values: Signature) -> Iterator[float]:
        for number in self._lsh.query(self._minhash(values)):
            yield float(np.count_nonzero(self._signatures[number] == values)) / SIGNATURE

    def _minhash(self, values: Signature) -> MinHash:
        return MinHash(hashvalues=values, permutations=self._permutations, scheme="affine32")


def _shingles(text: bytes) -> NDArray[np.uint32]:
    words = _WORDS.findall(text)
    codes = np.fromiter(map(crc32, words), dtype=np.uint64, count=len(words))
    # A text shorter than a shingle is one shingle.
    length = max(1, min(_SHINGLE, len(codes)))
    count = max(1, len(codes) - length + 1)
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(min(length, len(codes))):
        mixed = (mixed ^ codes[place : place + count]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))
