"""Child processes that end with their parent, however that ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

# Run in the child: asks the kernel (PR_SET_PDEATHSIG = 1) for a signal when the parent dies, then becomes the program.
# A child must ask for itself, and Popen's preexec_fn may deadlock in a process with threads. The comparison closes the
# gap in which the parent dies before the child has asked.
_TIED: Final = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def tied(command: Sequence[str], *, by: signal.Signals = signal.SIGKILL) -> list[str]:
    """``command`` as a child of this process that gets the signal ``by`` when this process dies (on Linux).

    The kernel watches the *thread* that starts it: start it from one that lives as long as the child may.
    """
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), str(int(by)), *command]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (on Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
