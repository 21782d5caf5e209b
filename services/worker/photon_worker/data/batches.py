"""The batches of a job: the pure sampler with the settings that job.json fixes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from photon.api.learning import LearningJob
from photon_worker.data.mixture import Mixture


class JobBatches:
    """The pure sampler with a job's settings."""

    def __init__(self, data: Mixture, learning: LearningJob) -> None:
        self._data = data
        self._seed = learning.model.seed
        self._batch_size = learning.local.batch_size
        self._sequence_length = learning.local.sequence_length

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        return self._data.batch(
            seed=self._seed,
            step=step,
            batch_size=self._batch_size,
            sequence_length=self._sequence_length,
            start=start,
            stop=stop,
        )
