"""The errors of Photon: one root, and the exit code of the program that each ends.

PhotonError                1: the message is one sentence for a person; programs print it as ``error: ...``
 ├─ UserError              2: the person who started it can correct it: the message names what, and how
 │   ├─ JobFileError           photon.api.document: the job file is wrong; it has every error with line and field
 │   ├─ TracesError            photon.telemetry.traces: settings of OpenTelemetry
 │   └─ TrackerError           photon.telemetry.trackers: settings of TensorBoard and Weights & Biases
 ├─ RunFailed              1: ``photon run`` could not go on
 ├─ JobFailed              3: the job has failed, and its aggregator has said so
 ├─ NoAnswer               1: ``photon status``: nothing answers now; the job may be well
 ├─ StoreError             1: photon.store.errors has its tree
 ├─ HeaderError            1: photon.store.tensors: a file is no safetensors file
 └─ CodecError             1: photon.codec.base: a part does not hold what its codec writes
Stopped                  130: a signal asked the command to end

The services derive their errors from these; each has a tree of its own. photon/exit_codes.py says what the codes mean.
"""

from __future__ import annotations

from typing import ClassVar

from photon.exit_codes import EXIT_FAILED, EXIT_JOB_FAILED, EXIT_USER_ERROR


class PhotonError(Exception):
    """What ends a program of Photon, or a request to it. The message is one clear sentence."""

    exit_code: ClassVar[int] = EXIT_FAILED


class UserError(PhotonError):
    """Something that the person who started the program can correct: the message names it and says how."""

    exit_code = EXIT_USER_ERROR


class RunFailed(PhotonError):
    """The run could not go on; the message names what failed and shows why."""


class JobFailed(PhotonError):
    """The job has failed, and its aggregator has said so; the message says why."""

    exit_code = EXIT_JOB_FAILED


class NoAnswer(PhotonError):
    """Nothing answers there now; the job may be well all the same."""


class Stopped(BaseException):
    """A signal asked the command to end. Not an Exception, and not KeyboardInterrupt, which typer would swallow."""
