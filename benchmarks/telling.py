"""Print a line every 10 seconds during long silent operations, to show that they are still running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_SECONDS = 10.0


@contextmanager
def telling(what: str | Callable[[], str], *, every_seconds: float = EVERY_SECONDS) -> Iterator[None]:
    """Context for a long operation. ``what``: its description, or a function that returns the progress."""
    over = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        while not over.wait(every_seconds):
            text = what if isinstance(what, str) else what()
            print(f"  {time.monotonic() - began:5.0f} s  {text}", flush=True)

    thread = threading.Thread(target=tell, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
