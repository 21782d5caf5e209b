"""Exit codes of Photon's programs that a launcher acts on; all others mean what they mean to a shell."""

from __future__ import annotations

from typing import Final

# The job itself has failed and its aggregator has said so: starting it again would not help. A crash exits with 1.
EXIT_JOB_FAILED: Final = 3
