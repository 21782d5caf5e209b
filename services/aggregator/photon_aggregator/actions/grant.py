"""What parts an update of this job has, and leave to upload exactly those.

A presigned PUT is bound by the store to one key, size, sha256 and to the object's absence. So granting is where a part
is compared with the plan. What is there is hashed at admission all the same: not every store checks digests.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

from photon.protocol.messages import PartUpload
from photon.protocol.records import Part
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.bucket.update_layout import UpdateLayout

# A worker that trains again after a crash may come to other bits, hence other parts; one that does so more often than
# this in a round is broken, or means to fill the bucket.
GRANTS_PER_PART: Final = 4


class PartsError(ValueError):
    """The parts asked for are not parts of an update of this round."""


class Grants:
    """Which digest was granted for which key, by participant and round. Thread-safe; empty after a restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[tuple[int, str], dict[str, str]] = {}

    def add(self, round_number: int, participant: str, digests: dict[str, str], *, limit: int) -> None:
        """Note that these keys are about to be granted for these sha256.

        Raises:
            PartsError: More than ``limit`` distinct parts in this round, or another digest with the same first half.
        """
        with self._lock:
            mine = self._digests.setdefault((round_number, participant), {})
            if len(mine.keys() | digests.keys()) > limit:
                raise PartsError(
                    f"round {round_number}: no more than {limit} distinct parts are taken of a participant"
                )
            for key, digest in digests.items():
                if mine.get(key, digest) != digest:
                    raise PartsError(f"{key} was granted for another sha256")
            mine.update(digests)

    def forget_before(self, round_number: int) -> None:
        """Drop what rounds that have ended were granted."""
        with self._lock:
            self._digests = {k: v for k, v in self._digests.items() if k[0] >= round_number}


def grant(
    parts: Sequence[Part],
    *,
    round_number: int,
    participant: str,
    layout: UpdateLayout,
    store: ObjectStore,
    grants: Grants,
    pool: Executor,
    valid_seconds: int,
) -> list[PartUpload]:
    """Where to put these parts; those that the bucket holds already are named as present.

    Raises:
        PartsError: A part is not one of the layout, or too many were asked for.
        StoreError: The store does not answer.
    """
    for part in parts:
        problem = layout.problem(part)
        if problem is not None:
            raise PartsError(problem)
    names = [keys.part(round_number, participant, part.index, part.sha256) for part in parts]
    digests = {name: part.sha256 for name, part in zip(names, parts, strict=True)}
    found = dict(zip(names, pool.map(store.head, names), strict=True))
    fresh = {name: digest for name, digest in digests.items() if found[name] is None}
    grants.add(round_number, participant, fresh, limit=GRANTS_PER_PART * len(layout.parts))
    uploads: list[PartUpload] = []
    for name, part in zip(names, parts, strict=True):
        if found[name] is not None:
            uploads.append(PartUpload(index=part.index, present=True))
            continue
        put = store.presign_put(name, size_bytes=part.size_bytes, sha256=part.sha256, valid_seconds=valid_seconds)
        uploads.append(PartUpload(index=part.index, url=put.url, headers=put.headers))
    return uploads
