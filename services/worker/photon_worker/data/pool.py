"""A pool of processes that runs one function over many units and leaves nothing behind, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from typing import Any


class Pool:
    """Runs calls in ``workers`` processes, or right here with one."""

    def __init__(self, workers: int) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._waiting = 4 * workers
        if workers > 1:
            # spawn: a fork of a process with threads (torch, tokenizers) may hang.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)

    def run(self, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> Iterator[int]:
        """Run ``function(*call)`` for each call; yields 1 for each that is done.

        Raises:
            Exception: The first that a call raised; calls not begun are dropped.
        """
        if self._executor is None:
            for call in calls:
                function(*call)
                yield 1
            return
        pending: set[Future[None]] = set()
        for call in calls:
            pending.add(self._executor.submit(function, *call))
            if len(pending) >= self._waiting:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield 1
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield 1

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


@contextmanager
def pool(workers: int) -> Iterator[Pool]:
    """A pool that is gone at the end of the block."""
    made = Pool(workers)
    try:
        yield made
    finally:
        made.close()


def _begin() -> None:
    """In each process of the pool."""
    # Ctrl-C is the parent's to handle; and processes are the parallelism here, not the tokenizer's threads.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    # A parent that was killed cannot shut its pool down.
    wait_for([sentinel])
    os._exit(1)
