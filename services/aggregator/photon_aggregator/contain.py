"""Books, events and metrics are for people: what goes wrong in them is logged, and the round goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Run a block that keeps books; ``what`` names them in the log when it fails."""
    try:
        yield
    except Exception:
        logger.exception("%s could not be kept; the job goes on", what)


def said(error: BaseException) -> str:
    """An unexpected exception in a sentence, for the condition of a job that it ended."""
    text = str(error)
    return f"unexpected {type(error).__name__}{': ' if text else ''}{text}; see the log, this is a defect of Photon"


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that made the others be cancelled."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
