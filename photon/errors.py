"""Errors that end a command, each with its exit code (photon/exit_codes.py says what they mean) and one message."""

from __future__ import annotations

from photon.exit_codes import EXIT_FAILED, EXIT_JOB_FAILED, EXIT_MISTAKE


class CommandError(Exception):
    """Ends the command; the message is shown as ``error: ...``."""

    exit_code = EXIT_FAILED


class UserMistake(CommandError):
    """Something that the user can correct: the message names it and says how."""

    exit_code = EXIT_MISTAKE


class RunFailed(CommandError):
    """The run could not go on; the message names what failed and shows why."""


class JobFailed(CommandError):
    """The job has failed, and its aggregator has said so; the message says why."""

    exit_code = EXIT_JOB_FAILED


class Stopped(BaseException):
    """A signal asked the command to end. Not an Exception, and not KeyboardInterrupt, which typer would swallow."""
