"""Text that other people wrote, made fit to be shown: in logs, events, conditions and answers."""

from __future__ import annotations

# The longest message of an event, a condition or a refusal.
MESSAGE_LIMIT = 1024


def printable(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """``text`` on one line, with every character that is not printable escaped, and at most ``limit`` characters long.

    A participant names objects, and a store words its errors: a carriage return or an escape sequence in them would
    rewrite what stands in a terminal, and a lone surrogate cannot be written to one at all.
    """
    if not text[:limit].isprintable():
        text = "".join(char if char.isprintable() else _escaped(char) for char in text[:limit])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def printable_lines(text: str) -> str:
    """``text`` with its line breaks kept and everything else escaped that is not printable."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
