"""Sending the update: global minus local weights, encoded and uploaded part by part in O(part) memory.

While a window of parts is uploaded the next one is read, subtracted and encoded. Parts are announced with size and
sha256 and go to presigned URLs that accept nothing else; what the bucket has already (of an earlier attempt with the
same bytes) is not sent again. The manifest is submitted last.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np

from photon.api.training import Codec
from photon.codec.base import CodecError, part_ranges
from photon.codec.registry import codec_for
from photon.protocol.messages import PartsRequest, UpdateReply, UpdateSubmission
from photon.protocol.records import Part, UpdateManifest
from photon.store.errors import AccessDenied, StoreError
from photon.store.source import Source
from photon.store.transfer import upload
from photon_worker.lifecycle.errors import WorkerError
from photon_worker.round.client import AggregatorClient
from photon_worker.round.progress import TaskProgress
from photon_worker.training.model import raw
from photon_worker.training.strategy import Strategy

# Two windows are in memory at a time (one is encoded while the other is sent).
WINDOW_PARTS: Final = 3
UPLOADS: Final = 3
# URLs that expired while a slow upload waited are asked for again.
URL_ATTEMPTS: Final = 3
FIRST_CHECK_SECONDS: Final = 0.05
LONGEST_CHECK_SECONDS: Final = 1.0

EncodedPart = tuple[Part, memoryview]


def encoded_parts(
    strategy: Strategy, base: Source, base_offset: int, *, codec_name: Codec, part_bytes: int
) -> Iterator[EncodedPart]:
    """The parts of the update in order: each what was measured of it, and its file.

    ``base`` holds the global model's flat vector from byte ``base_offset``. Collective, like ``Strategy.read``.

    Raises:
        WorkerError: The weights are not finite.
    """
    codec = codec_for(codec_name)
    elements = strategy.header.elements
    size = min(part_bytes // 4, elements)
    before = np.empty(size, dtype=np.float32)
    after = np.empty(size, dtype=np.float32)
    for index, (start, stop) in enumerate(part_ranges(elements, part_bytes)):
        ours, theirs = after[: stop - start], before[: stop - start]
        strategy.read("weights", start, ours)
        base.read_into(base_offset + 4 * start, raw(theirs))
        np.subtract(theirs, ours, out=theirs)
        if not np.isfinite(theirs).all():
            raise WorkerError("training diverged: the weights are not finite; lower local.learningRate.max")
        try:
            data = memoryview(codec.encode(theirs))
        except CodecError as error:
            raise WorkerError(f"the update cannot be encoded: {error}") from error
        part = Part(index=index, start=start, stop=stop, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        yield part, data


class PartSender:
    """Uploads windows of parts in the background. Use it in a ``with`` block; ``finish`` waits for all of them."""

    def __init__(self, client: AggregatorClient, *, round_number: int, plan: str, progress: TaskProgress) -> None:
        self._client = client
        self._round = round_number
        self._plan = plan
        self._progress = progress
        self._windows = ThreadPoolExecutor(1, thread_name_prefix="window")
        self._uploads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
        self._window: list[EncodedPart] = []
        self._sending: Future[None] | None = None
        self.parts: list[Part] = []

    def __enter__(self) -> PartSender:
        return self

    def __exit__(self, *_: object) -> None:
        self._windows.shutdown(wait=True, cancel_futures=True)
        self._uploads.shutdown(wait=True, cancel_futures=True)

    def add(self, part: Part, data: memoryview) -> None:
        """Take a part; waits for the window before the last when that is still under way."""
        self._progress.check()
        self.parts.append(part)
        self._window.append((part, data))
        if len(self._window) == WINDOW_PARTS:
            self._flush()

    def finish(self) -> list[Part]:
        """Wait until everything is up. Returns all parts in order."""
        self._flush()
        if self._sending is not None:
            self._sending.result()
        return self.parts

    def _flush(self) -> None:
        if self._sending is not None:
            self._sending.result()
        window, self._window = self._window, []
        self._sending = self._windows.submit(self._send, window) if window else None

    def _send(self, window: list[EncodedPart]) -> None:
        left = {part.index: (part, data) for part, data in window}
        problem: StoreError | None = None
        for _ in range(URL_ATTEMPTS):
            if not left:
                return
            self._progress.check()
            reply = self._client.parts(self._round, PartsRequest(plan=self._plan, parts=[p for p, _ in left.values()]))
            sending: dict[int, Future[object]] = {}
            for to in reply.uploads:
                if to.index not in left:
                    continue
                if to.present:
                    del left[to.index]
                else:
                    sending[to.index] = self._uploads.submit(
                        upload, to.url, to.headers, left[to.index][1], on_retry=self._progress.retried
                    )
            for index, future in sending.items():
                try:
                    future.result()
                except AccessDenied as error:
                    problem = error  # the URL expired: ask again
                else:
                    self._progress.sent(left.pop(index)[0].size_bytes)
        if left:
            raise WorkerError(f"part {min(left)} of the update cannot be uploaded: {problem}") from problem


def submit(
    client: AggregatorClient,
    manifest: UpdateManifest,
    progress: TaskProgress,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    deadline_seconds: float = 3600.0,
) -> UpdateReply:
    """Submit the manifest and wait for the verdict.

    Raises:
        Cancelled: The round ended meanwhile.
        WorkerError: No verdict within ``deadline_seconds``.
    """
    deadline = clock() + deadline_seconds
    pause = FIRST_CHECK_SECONDS
    submission = UpdateSubmission(manifest=manifest, progress=progress.snapshot())
    while True:
        # Asked before the request: once an update is accepted its task is cancelled too, and the verdict counts.
        cancelled = progress.cancelled
        reply = client.submit(manifest.round, submission)
        if reply.state != "checking":
            return reply
        if cancelled:
            progress.check()
        if clock() > deadline:
            raise WorkerError(f"the aggregator has been checking the update for {deadline_seconds:.0f} s; giving up")
        sleep(pause)
        pause = min(LONGEST_CHECK_SECONDS, pause * 1.5)
