"""Entry points of programs: Ctrl-C ends them without a traceback also while Python still imports what they need.

Nothing has been started by then, so nothing has to be ended in order. This module imports nothing heavy itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from photon.exit_codes import EXIT_STOPPED


def run(load: Callable[[], Callable[[], object]], *, until_handled: bool = False) -> None:
    """Import a program's main function, which ``load`` does, and call it.

    ``until_handled``: Ctrl-C ends it so also later, until it sets a handler of its own.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_STOPPED))
    main = load()
    if before is not signal.SIG_IGN and not until_handled:
        signal.signal(signal.SIGINT, before)
    main()


def photon() -> None:
    """``photon``."""

    def load() -> Callable[[], object]:
        from photon.cli.main import main

        return main

    run(load)
