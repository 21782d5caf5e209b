"""What the operator remembers for a minute, so as not to ask again: all of it may be lost at any time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from photon_operator.cache import Key
from photon_operator.carry import Carried

# Nothing that stays as it is may cost more than a request a minute.
KEEP_SECONDS: Final = 60.0
_MOST: Final = 10_000


@dataclass(slots=True)
class Memo:
    """Of one job: see Observed. ``tried_at``: when what stands here was last tried."""

    taken: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    tried_at: dict[str, float] = field(default_factory=dict)


class Memos:
    """``clock`` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._jobs: dict[Key, Memo] = {}
        self._notes: OrderedDict[str, str] = OrderedDict()
        self._looked_at: OrderedDict[str, float] = OrderedDict()

    @property
    def notes(self) -> Mapping[str, str]:
        """Why something makes no progress, by uid."""
        return self._notes

    def of(self, key: Key) -> Memo:
        return self._jobs.get(key) or Memo()

    def hindered(self, key: Key) -> frozenset[str]:
        """Children that were tried in vain less than a minute ago."""
        now = self._clock()
        return frozenset(title for title, at in self.of(key).tried_at.items() if now - at < KEEP_SECONDS)

    def carried(self, key: Key, tried: Iterable[str], done: Carried) -> bool:
        """Take down what came of a plan; whether that says something new."""
        memo = self._jobs.get(key) or Memo()
        before = (dict(memo.taken), dict(memo.refused))
        waiting = self.hindered(key)
        for title in tried:
            if title in waiting:
                continue
            for known, found in ((memo.taken, done.taken), (memo.refused, done.refused)):
                known.pop(title, None)
                if title in found:
                    known[title] = found[title]
            if title in memo.taken or title in memo.refused:
                memo.tried_at[title] = self._clock()
            else:
                memo.tried_at.pop(title, None)
        if memo.tried_at:
            self._jobs[key] = memo
        else:
            self._jobs.pop(key, None)
        return before != (memo.taken, memo.refused)

    def may_look(self, uid: str) -> bool:
        """Whether its events were not read in the last minute; then they count as being read now."""
        now = self._clock()
        if now - self._looked_at.get(uid, -KEEP_SECONDS) < KEEP_SECONDS:
            return False
        self._looked_at[uid] = now
        self._looked_at.move_to_end(uid)
        _trim(self._looked_at)
        return True

    def noted(self, uid: str, message: str | None) -> bool:
        """Take down what events say; whether it is something new."""
        if self._notes.get(uid) == message:
            return False
        if message is None:
            del self._notes[uid]
        else:
            self._notes[uid] = message
            _trim(self._notes)
        return True

    def forget(self, key: Key) -> None:
        self._jobs.pop(key, None)


def _trim(entries: OrderedDict[str, str] | OrderedDict[str, float]) -> None:
    while len(entries) > _MOST:
        entries.popitem(last=False)
