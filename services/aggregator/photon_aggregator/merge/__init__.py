"""Computes: K updates, the global model and the outer state in; the next global model and outer state out.

Memory is a fixed budget, whatever the size of the model and the number of participants: threads take *stripes* of the
output file in turn, and work through a stripe in *blocks* that fit the cache, reading the block of every update just
before it is used. The same pass computes the metrics of the round.

::

    round       the merge of a round: threads over stripes, outputs committed together
    layout      how a merge is cut into stripes and blocks
    stripe      what one thread does with one stripe
    updates     the updates as ranges of values
    outer       the outer optimizers
    check       admission: every byte hashed, every value finite
    statistics  the sums behind a round's metrics
    verify      the digest of a file that several threads read
"""

from __future__ import annotations

from photon_aggregator.merge.check import UpdateCheck, check_update
from photon_aggregator.merge.layout import FROM_FILES, FROM_STORE, MergeSettings
from photon_aggregator.merge.round import MergedUpdate, MergeResult, merge_round
from photon_aggregator.merge.updates import (
    CorruptError,
    MergeError,
    NotFiniteError,
    NotFiniteModelError,
    UpdateChangedError,
    UpdateFault,
    UpdateInput,
)

__all__ = [
    "FROM_FILES",
    "FROM_STORE",
    "CorruptError",
    "MergeError",
    "MergeResult",
    "MergeSettings",
    "MergedUpdate",
    "NotFiniteError",
    "NotFiniteModelError",
    "UpdateChangedError",
    "UpdateCheck",
    "UpdateFault",
    "UpdateInput",
    "check_update",
    "merge_round",
]
