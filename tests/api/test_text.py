"""What strangers write is shown on one line, without control characters, and not at any length."""

from __future__ import annotations

import logging

import pytest

from photon.api.text import printable
from photon.telemetry.logging import _Formatter


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("größer 日本", "größer 日本"),
        ("a\r\x1b[2Kb", "a\\r\\x1b[2Kb"),
        ("two\nlines", "two\\nlines"),
        ("\ud800", "\\ud800"),
        ("left\u202eright", "left\\u202eright"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_text_is_cut() -> None:
    assert printable("x" * 10_000, 100) == "x" * 97 + "..."
    assert len(printable("\x1b" * 10_000, 100)) == 100


def test_a_line_of_the_log_cannot_be_rewritten_by_what_is_logged() -> None:
    record = logging.LogRecord("photon", logging.INFO, "", 0, "found %s", ("\r\x1b[2K2026Z ERROR\nnext",), None)
    line = _Formatter("aggregator").format(record)
    assert "\r" not in line
    assert "\x1b" not in line
    assert line.endswith("found \\r\\x1b[2K2026Z ERROR\n    next")
