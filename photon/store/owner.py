"""A job owns its prefix: what says so is created if absent, and checked before anything is written or deleted."""

from __future__ import annotations

from pydantic import ValidationError

from photon.protocol.canonical import canonical_json
from photon.protocol.owner import Owner
from photon.store import keys
from photon.store.errors import NotFound, PrefixTaken
from photon.store.objects import ObjectStore


def owner_of(store: ObjectStore) -> Owner | None:
    """Whose the prefix is; None where no job, or only one of an earlier release, has written there.

    Raises:
        PrefixTaken: The record cannot be read.
        StoreError: The store does not answer.
    """
    try:
        return Owner.model_validate_json(store.get(keys.OWNER))
    except NotFound:
        return None
    except ValidationError as error:
        raise PrefixTaken(
            f"{store.uri(keys.OWNER)} is not the record of a job that this version of Photon knows: use another "
            "storage.prefix"
        ) from error


def require_ours(store: ObjectStore, owner: Owner) -> Owner | None:
    """Whose the prefix is, when it is ``owner``'s or has no owner yet.

    Raises:
        PrefixTaken: It is another job's.
        StoreError: The store does not answer.
    """
    found = owner_of(store)
    if found is not None and not found.covers(owner):
        raise PrefixTaken(
            f"{store.uri('')} belongs to the job {found}, not to {owner}: give this job another storage.prefix; where "
            f"it takes that job's place, delete {store.uri(keys.OWNER)} first"
        )
    return found


def claim(store: ObjectStore, owner: Owner) -> None:
    """Make the prefix ``owner``'s, unless it is already. Of two at the same time, one has it.

    Raises:
        PrefixTaken: It is another job's.
        StoreError: The store does not answer.
    """
    if require_ours(store, owner) is None and not store.create(keys.OWNER, canonical_json(owner)):
        require_ours(store, owner)
