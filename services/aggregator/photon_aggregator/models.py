"""Presigned URLs of a global model: made once for all participants, and again before they grow old."""

from __future__ import annotations

from typing import Final

from photon.protocol.messages import GlobalModel, ObjectGet
from photon.store.objects import MAX_PRESIGN_SECONDS, ObjectStore
from photon_aggregator.events import Head

LEAST_SECONDS: Final = 3600


class ModelUrls:
    """URLs for the files of the last commit asked for. ``valid_seconds`` covers a whole round."""

    def __init__(self, store: ObjectStore, *, round_seconds: float) -> None:
        self._store = store
        self._valid_seconds = min(MAX_PRESIGN_SECONDS, 2 * max(LEAST_SECONDS, int(round_seconds)))
        self._made_at = 0.0
        self._model: GlobalModel | None = None

    def model(self, head: Head, now: float) -> GlobalModel:
        """The model of ``head``, with URLs that are valid for at least half of what they were made for."""
        made = self._model
        old = now - self._made_at > self._valid_seconds / 2 or now < self._made_at
        if made is None or made.commit != head.digest or old:
            made = GlobalModel(
                round=head.round,
                commit=head.digest,
                files=[
                    ObjectGet(
                        file=file,
                        url=self._store.presign_get(
                            f"{head.commit.folder}/{file.name}", valid_seconds=self._valid_seconds
                        ),
                    )
                    for file in head.commit.files
                ],
                valid_seconds=self._valid_seconds // 2,
            )
            self._model, self._made_at = made, now
        return made
