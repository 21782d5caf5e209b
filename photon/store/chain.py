"""The chain of commits in a bucket: how long it is, and its records."""

from __future__ import annotations

from pydantic import ValidationError

from photon.protocol.canonical import sha256_hex
from photon.protocol.records import Commit
from photon.store import keys
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore


def last_round(store: ObjectStore, *, known: int = 0) -> int:
    """The last committed round, by doubling and halving: rounds are committed in order, so there are no gaps.

    ``known``: a round that may have been committed; if it was, the search begins there.
    """
    low = known if known > 0 and store.head(keys.commit(known)) is not None else 0
    step = 1
    while store.head(keys.commit(low + step)) is not None:
        low, step = low + step, 2 * step
    high = low + step
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
