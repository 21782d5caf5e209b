"""Who is woken by a change of state: with K participants and 3 K changes a round, not all of them by each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Final

from photon_aggregator.rounds.events import Admitted, Event
from photon_aggregator.rounds.state import JobState, OpenRound

# What changes no answer to anyone: when each was heard, and when the bucket was scanned.
_NOBODYS: Final = frozenset({"seen", "absent", "scanning", "scanned_at", "next_scan_at"})
# What an event changes for its own participant only.
_OWN: Final = frozenset({"evaluations", "declined"})
_FIELDS: Final = tuple(field.name for field in fields(JobState) if field.name not in {"seen", "open"})
_ROUND: Final = tuple(f.name for f in fields(OpenRound) if f.name not in {"submissions", "quorum_at", "counts_from"})


def concerned(before: JobState, after: JobState, event: Event) -> Iterable[str] | None:
    """Whose answer an event may have changed; None: everyone's."""
    changed = {name for name in _FIELDS if getattr(before, name) is not getattr(after, name)}
    if changed - _NOBODYS - _OWN or not _same_round(before.open, after.open):
        return None
    if not changed - _NOBODYS and before.open is after.open:
        return ()
    name = event.admission.participant if isinstance(event, Admitted) else getattr(event, "participant", None)
    return None if name is None else (name,)


def _same_round(before: OpenRound | None, after: OpenRound | None) -> bool:
    if before is None or after is None:
        return before is after
    return all(getattr(before, name) is getattr(after, name) for name in _ROUND)


def noticed(before: JobState, after: JobState) -> bool:
    """Whether more changed than who was heard when."""
    return before.open is not after.open or any(getattr(before, n) is not getattr(after, n) for n in _FIELDS)


class Bell:
    """Wakes those who wait: the timers at every change, a participant at what concerns it."""

    def __init__(self) -> None:
        self._anything = asyncio.Event()
        self._own: dict[str, asyncio.Event] = {}

    def ring(self, whom: Iterable[str] | None = None) -> None:
        """Wake ``whom`` (None: everyone), and in any case who waits for anything."""
        self._anything.set()
        self._anything = asyncio.Event()
        for name in list(self._own if whom is None else whom):
            event = self._own.pop(name, None)
            if event is not None:
                event.set()

    async def wait(self, seconds: float, participant: str | None = None) -> None:
        """Until something changes, for ``participant`` if one is named, or for this long."""
        event = self._anything if participant is None else self._own.setdefault(participant, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
