"""The chain of commits in a bucket: how long it is, and its records."""

from __future__ import annotations

from pydantic import ValidationError

from photon.protocol.canonical import sha256_hex
from photon.protocol.records import Commit
from photon.store import keys
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore


def last_round(store: ObjectStore) -> int:
    """The last committed round, by doubling and halving: rounds are committed in order, so there are no gaps."""
    low, high = 0, 1
    while store.head(keys.commit(high)) is not None:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if store.head(keys.commit(middle)) is not None:
            low = middle
        else:
            high = middle
    return low


def commit_of(store: ObjectStore, round_number: int) -> tuple[Commit, str]:
    """The commit of a round and its digest.

    Raises:
        NotFound: The round is not committed.
        StoreError: It is no commit, or the store does not answer.
    """
    key = keys.commit(round_number)
    data = store.get(key)
    try:
        return Commit.model_validate_json(data), sha256_hex(data)
    except ValidationError as error:
        raise StoreError(
            f"{store.uri(key)} is not a commit of this version of Photon: {error.errors()[0]['msg']}"
        ) from error
