"""One log format for all programs: a line per event on stderr with time, level, role and message.

Standard output stays free for results (``photon-worker evaluate --json``), and a supervisor that collects many
processes' logs can tell them apart by the role.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

from photon.api.text import printable_lines

# Chatty below WARNING, and never about Photon itself.
_QUIET: Final = ("boto3", "botocore", "s3transfer", "urllib3", "httpx", "httpcore", "filelock", "asyncio")


class _Formatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO    worker/python  round 3: pulled 4.2 MB``; continuation lines are indented, and
    characters that are not printable escaped."""

    converter = staticmethod(time.gmtime)

    def __init__(self, role: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {role}  %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record)).replace("\n", "\n    ")


def configure(role: str, *, level: int = logging.INFO) -> None:
    """Send all logging of this process to stderr in Photon's format. Calling it again replaces what was set.

    Args:
        role: Who speaks: ``aggregator``, ``init``, ``worker/<participant>``.
        level: Lowest level shown of Photon's own loggers; libraries are held at WARNING.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(role))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
