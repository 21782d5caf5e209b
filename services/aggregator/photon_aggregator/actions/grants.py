"""Which digest was granted for which key. Memory of one process: after a restart it is empty, and that is enough."""

from __future__ import annotations

import threading

from photon_aggregator.errors import PartsError


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
