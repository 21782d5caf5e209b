"""Time for the round machine: it reads the wall clock, and what else that clock did is found out here.

People read wall time, so the machine's times are seconds since the epoch. A wall clock also jumps (it is set by hand, a
virtual machine is restored), and a process may not run for hours while it goes on (a laptop sleeps, SIGSTOP). Neither
is time in which anybody could have spoken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# The engine looks at its clock at least this often.
BEAT_SECONDS: Final = 1.0
# Between two looks no more than this has passed for the job: longer, and the process did not run.
LONGEST_GAP_SECONDS: Final = 5.0
# Smaller differences are a clock that is being slewed, or a busy machine.
LEAST_JUMP_SECONDS: Final = 1.0


class Drift:
    """By how much the wall clock went further than the time that has passed for the job.

    ``steady``: seconds from any beginning, that no setting of the clock changes. CLOCK_MONOTONIC stands still while the
    machine is suspended and goes on under SIGSTOP; both come out alike.
    """

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        self._wall = wall
        self._steady = steady
        self._last = wall(), steady()

    def jumped(self) -> float:
        """Seconds that the wall clock has gained (negative: lost) since the last call without their having passed.

        To be called every BEAT_SECONDS or more often.
        """
        wall, steady = self._wall(), self._steady()
        passed = min(steady - self._last[1], LONGEST_GAP_SECONDS)
        gained = wall - self._last[0] - passed
        self._last = wall, steady
        return gained if abs(gained) >= LEAST_JUMP_SECONDS else 0.0
