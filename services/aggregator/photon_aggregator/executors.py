"""Threads for what blocks, apart by kind: a long check or a merge never keeps a small request waiting."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Final, Literal, TypeVar

Result = TypeVar("Result")

# control: plans, grants, evaluations, looks, history. admission: values of updates. merge: one at a time.
Kind = Literal["control", "admission", "merge"]

CONTROL_THREADS: Final = 8
ADMISSION_THREADS: Final = 4
REQUEST_THREADS: Final = 8


class Executors:
    """One pool a kind, and two for the small requests that work splits into, which must not wait for that work itself.

    ``requests`` is for control and merge, ``part_requests`` for admission: an update has up to 100,000 parts.
    """

    def __init__(self) -> None:
        self._pools: dict[Kind, ThreadPoolExecutor] = {
            "control": ThreadPoolExecutor(CONTROL_THREADS, thread_name_prefix="control"),
            "admission": ThreadPoolExecutor(ADMISSION_THREADS, thread_name_prefix="admission"),
            "merge": ThreadPoolExecutor(1, thread_name_prefix="merge"),
        }
        self.requests: Executor = ThreadPoolExecutor(REQUEST_THREADS, thread_name_prefix="s3")
        self.part_requests: Executor = ThreadPoolExecutor(REQUEST_THREADS, thread_name_prefix="s3-parts")
        self._in_flight: set[Future[Any]] = set()

    def submit(self, kind: Kind, work: Callable[[], Result]) -> Future[Result]:
        """Begin ``work``; call it on one thread only."""
        running = self._pools[kind].submit(work)
        self._in_flight.add(running)
        running.add_done_callback(self._in_flight.discard)
        return running

    @property
    def busy(self) -> bool:
        """Whether a thread is in the middle of something."""
        return any(not work.done() for work in tuple(self._in_flight))

    def shutdown(self) -> None:
        """Begin nothing more; does not wait."""
        for pool in (*self._pools.values(), self.requests, self.part_requests):
            pool.shutdown(wait=False, cancel_futures=True)
