"""Figures as people read them: SI units, three significant digits, nothing where there is nothing."""

from __future__ import annotations

from typing import Final

NONE: Final = "-"
_SI: Final = ("", "k", "M", "G", "T", "P")


def _scaled(value: float) -> tuple[str, str]:
    """Three significant digits and the SI prefix (powers of 1000)."""
    for prefix in _SI:
        if abs(value) < 999.5 or prefix == _SI[-1]:
            break
        value /= 1000
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}", prefix


def data_size(count: float | None) -> str:
    """``14.2 MB``; bytes below 1000 as they are."""
    if count is None:
        return NONE
    if count < 1000:
        return f"{count:.0f} B"
    number, prefix = _scaled(count)
    return f"{number} {prefix}B"


def amount(count: float | None) -> str:
    """``2.10M``; counts below 1000 as they are."""
    if count is None:
        return NONE
    if abs(count) < 1000:
        return f"{count:.0f}"
    return "".join(_scaled(count))


def duration(seconds: float | None) -> str:
    """``0:07``, ``12:41``, ``3:07:09``, ``2 d 04 h``."""
    if seconds is None:
        return NONE
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def loss(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def share(value: float) -> str:
    """``12 %``; small ones as ``< 1 %``, and never 100 where something is missing."""
    if 0 < value < 0.01:
        return "< 1 %"
    return f"{int(100 * value + 1e-9)} %"


def perplexity(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.2f}" if value < 1000 else f"{value:.2e}" if value >= 1e5 else f"{value:.0f}"
