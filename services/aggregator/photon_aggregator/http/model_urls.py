"""Presigned URLs of a global model: made once for all participants, and again before they grow old."""

from __future__ import annotations

from typing import Final

from photon.protocol.messages import GlobalModel, ObjectGet
from photon.store.objects import MAX_PRESIGN_SECONDS, ObjectStore
from photon_aggregator.rounds.events import Head

LEAST_SECONDS: Final = 3600


class ModelUrls:
    """URLs for the files of the last commit asked for. They cover a whole round, or the life of temporary keys."""

    def __init__(self, store: ObjectStore, *, round_seconds: float) -> None:
        self._store = store
        self._valid_seconds = min(MAX_PRESIGN_SECONDS, 2 * max(LEAST_SECONDS, int(round_seconds)))
        self._made_at = self._made_for = 0.0
        self._model: GlobalModel | None = None

    def model(self, head: Head, now: float) -> GlobalModel:
        """The model of ``head``, with URLs that are valid for at least half of what they were made for."""
        made = self._model
        old = now - self._made_at > self._made_for / 2 or now < self._made_at
        if made is None or made.commit != head.digest or old:
            keys_valid = self._store.keys_valid_seconds()
            valid = self._valid_seconds if keys_valid is None else max(1, min(self._valid_seconds, int(keys_valid)))
            made = GlobalModel(
                round=head.round,
                commit=head.digest,
                files=[
                    ObjectGet(
                        file=file,
                        url=self._store.presign_get(f"{head.commit.folder}/{file.name}", valid_seconds=valid),
                    )
                    for file in head.commit.files
                ],
                valid_seconds=valid // 2,
            )
            self._model, self._made_at, self._made_for = made, now, valid
        return made
