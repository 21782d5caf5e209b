"""A pool of processes that runs one function over many units and leaves nothing behind, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any

from photon_worker.lifecycle.data_errors import DataError


class _Remembering(SpawnContext):
    """Makes processes and remembers them: the executor forgets those that have ended, and so why one did.

    spawn: a fork of a process with threads (torch, tokenizers) may hang.
    """

    def __init__(self, made: list[BaseProcess]) -> None:
        super().__init__()
        self._made = made

    def Process(self, *given: Any, **named: Any) -> SpawnProcess:  # type: ignore[override]
        process = SpawnProcess(*given, **named)
        self._made.append(process)
        return process


class Pool:
    """Runs calls in ``workers`` processes, or right here with one."""

    def __init__(self, workers: int) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._workers = workers
        self._processes: list[BaseProcess] = []
        if workers > 1:
            context = _Remembering(self._processes)
            self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)

    def run(self, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> Iterator[int]:
        """Run ``function(*call)`` for each call; yields 1 for each that is done.

        Raises:
            DataError: One of the processes was killed.
            Exception: The first that a call raised; calls not begun are dropped.
        """
        if self._executor is None:
            for call in calls:
                function(*call)
                yield 1
            return
        try:
            yield from self._run(self._executor, function, calls)
        except BrokenProcessPool as error:
            raise self._killed() from error

    def _run(
        self, executor: ProcessPoolExecutor, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[int]:
        pending: set[Future[None]] = set()
        for call in calls:
            pending.add(executor.submit(function, *call))
            if len(pending) >= 4 * self._workers:
                done, pending = self._wait(pending)
                yield len(done)
        while pending:
            done, pending = self._wait(pending)
            yield len(done)

    def _wait(self, pending: set[Future[None]]) -> tuple[set[Future[None]], set[Future[None]]]:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        return done, pending

    def _killed(self) -> DataError:
        """What became of the process that died first; the executor ends the others by SIGTERM."""
        for process in self._processes:
            process.join(timeout=10)
        codes = {process.pid: process.exitcode for process in self._processes}
        number, code = next(
            ((pid, code) for pid, code in codes.items() if code not in (None, 0, 1, -signal.SIGTERM)), (None, None)
        )
        how = f"ended by {signal.Signals(-code).name}" if code is not None and code < 0 else "ended"
        if code == -signal.SIGKILL:
            how += ", probably because memory ran out"
        return DataError(
            f"a preparation process ({number if number is not None else 'number unknown'}) {how}: run the same command "
            f"again to go on from here, with fewer processes if memory is short (--workers; these were {self._workers})"
        )

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
