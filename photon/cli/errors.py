"""Errors that end a command: a mistake of the user's (exit code 2) or a failure (exit code 1). Both are one message."""

from __future__ import annotations


class CommandError(Exception):
    """Ends the command; the message is shown as ``error: ...``."""

    exit_code = 1


class UserMistake(CommandError):
    """Something the user can mend: the message names it and says how."""

    exit_code = 2


class RunFailed(CommandError):
    """The run could not go on; the message names what failed and shows why."""


class Stopped(BaseException):
    """A signal asked the command to end. Not an Exception, and not KeyboardInterrupt, which typer would swallow."""
