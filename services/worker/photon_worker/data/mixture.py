"""The batches of a training step, from one source or from several put together.

A participant has one source. Centralised training has one source for each participant: an equal, consecutive share of
every batch from each, and each share is read exactly as that participant would read its own batch of that size. So the
comparison sees the very sequences that the federation sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from photon_worker.data.dataset import TokenDataset
from photon_worker.data.sampler import offsets, slots
from photon_worker.lifecycle.data_errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Named sources; ``sources`` is ordered by name, whatever the order they were given in."""

    sources: Mapping[str, TokenDataset]

    @classmethod
    def open(
        cls, uris: Mapping[str, str], cache_dir: Path | None = None, *, tokenizer_digest: str | None = None
    ) -> Mixture:
        """Open ``name -> URI``; see :meth:`TokenDataset.open` for what is checked.

        Raises:
            DataError: As TokenDataset.open; or no source at all.
        """
        if not uris:
            raise DataError("no data was given: name at least one prepared folder")
        opened = {
            name: TokenDataset.open(uris[name], cache_dir, tokenizer_digest=tokenizer_digest) for name in sorted(uris)
        }
        return cls(sources=opened)

    @property
    def tokens(self) -> int:
        """Training tokens of all sources."""
        return sum(source.tokens for source in self.sources.values())

    def share(self, batch_size: int) -> int:
        """Rows of each source in a batch.

        Raises:
            DataError: The batch cannot be shared out equally.
        """
        if batch_size % len(self.sources):
            raise DataError(
                f"a batch of {batch_size} sequences cannot be shared equally by {len(self.sources)} sources "
                f"({', '.join(self.sources)}): choose a multiple of {len(self.sources)}"
            )
        return batch_size // len(self.sources)

    def require(self, *, batch_size: int, sequence_length: int) -> None:
        """Check that every source can fill its share of one batch without repeating itself.

        Raises:
            DataError: Names the source, what is needed and what is there.
        """
        share = self.share(batch_size)
        for name, source in self.sources.items():
            if slots(source.tokens, sequence_length) < share:
                needed = (share + 1) * sequence_length if share > 1 else sequence_length + 1
                raise DataError(
                    f"the data of {name!r} ({source.uri}) is too small for one batch: {share} sequences of "
                    f"{sequence_length} tokens need at least {needed} training tokens, and there are {source.tokens}; "
                    "prepare more text, or lower local.batchSize or local.sequenceLength"
                )

    def batch(
        self,
        *,
        seed: int,
        step: int,
        batch_size: int,
        sequence_length: int,
        start: int = 0,
        stop: int | None = None,
    ) -> NDArray[np.int64]:
        """Rows [start, stop) of the batch of the global step ``step``.

        A process takes its own rows of the whole batch, so what is trained on does not depend on how many there are.

        Args:
            seed: The job's seed.
            step: Global sequential step, from 0.
            batch_size: Sequences in the whole batch, over all processes and sources.
            sequence_length: Tokens predicted in each row.

        Returns:
            int64 [stop - start, sequence_length + 1], inputs and targets in one.
        """
        share = self.share(batch_size)
        stop = batch_size if stop is None else stop
        if not 0 <= start <= stop <= batch_size:
            raise ValueError(f"rows [{start}, {stop}) are not within a batch of {batch_size}")
        rows = np.empty((stop - start, sequence_length + 1), dtype=np.int64)
        for number, (name, source) in enumerate(self.sources.items()):
            first, last = max(start, number * share), min(stop, (number + 1) * share)
            if first >= last:
                continue
            starts = offsets(
                seed=seed,
                name=name,
                first_sample=step * share + first - number * share,
                count=last - first,
                tokens=source.tokens,
                sequence_length=sequence_length,
            )
            for row, offset in enumerate(starts.tolist(), start=first - start):
                source.read(offset, rows[row])
        return rows
