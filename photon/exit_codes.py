"""Exit codes of Photon's programs that a launcher or a script acts on; all others mean what they mean to a shell."""

from __future__ import annotations

from typing import Final

# A process has failed; starting it again may help.
EXIT_FAILED: Final = 1
# A mistake of the user, said in one line; starting it again would not help.
EXIT_USER_ERROR: Final = 2
# The job itself has failed and its aggregator has said so: starting it again would not help. A crash exits with 1.
EXIT_JOB_FAILED: Final = 3
# The store refuses what init asks (keys, rights, no such bucket): only a person can change that, so a launcher whose
# keys cannot change while it runs does not try again.
EXIT_STORE_REFUSES: Final = 4
# Another aggregator runs the rounds of this job and all participants speak with it: this one has left.
EXIT_SUPERSEDED: Final = 5
# `photon audit`: what is in the bucket is not what the job wrote (0: it is), or there is nothing that can be checked.
EXIT_TAMPERED: Final = 1
EXIT_NOT_CHECKABLE: Final = 3
# Stopped by Ctrl-C or another signal, after all that was started has ended.
EXIT_STOPPED: Final = 130
# As a shell counts them: SIGINT and SIGTERM. A process that ends so was asked to, and may be started again.
EXITS_STOPPED: Final = (EXIT_STOPPED, 143)
