"""What parts an update of this job has, and leave to upload exactly those.

A presigned PUT is bound by the store to one key, size, sha256 and to the object's absence. So granting is where a part
is compared with the plan. What is there is hashed at admission all the same: not every store checks digests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from photon.protocol.messages import PartUpload
from photon.protocol.records import Part
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.errors import PartsError

# A worker that trains again after a crash may come to other bits, hence other parts; one that does so more often than
# this in a round is broken, or means to fill the bucket.
GRANTS_PER_PART: Final = 4
VALID_SECONDS: Final = 6 * 3600


def grant(
    parts: Sequence[Part],
    bench: Workbench,
    *,
    round_number: int,
    participant: str,
    signer: ObjectStore | None = None,
    valid_seconds: int = VALID_SECONDS,
) -> list[PartUpload]:
    """Where to put these parts; those that the bucket holds already are named as present.

    ``signer``: the store as the participant reaches it, where that is another address than ours.

    Raises:
        PartsError: A part is not one of the layout, or too many were asked for.
        StoreError: The store does not answer.
    """
    store, layout = bench.store, bench.opened.layout
    for part in parts:
        problem = layout.problem(part)
        if problem is not None:
            raise PartsError(problem)
    names = [keys.part(round_number, participant, part.index, part.sha256) for part in parts]
    digests = {name: part.sha256 for name, part in zip(names, parts, strict=True)}
    found = dict(zip(names, bench.executors.requests.map(store.head, names), strict=True))
    fresh = {name: digest for name, digest in digests.items() if found[name] is None}
    bench.grants.add(round_number, participant, fresh, limit=GRANTS_PER_PART * len(layout.parts))
    uploads: list[PartUpload] = []
    for name, part in zip(names, parts, strict=True):
        if found[name] is not None:
            uploads.append(PartUpload(index=part.index, present=True))
            continue
        put = (signer or store).presign_put(
            name, size_bytes=part.size_bytes, sha256=part.sha256, valid_seconds=valid_seconds
        )
        uploads.append(PartUpload(index=part.index, url=put.url, headers=put.headers))
    return uploads
