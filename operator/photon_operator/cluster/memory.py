"""What the operator remembers for some minutes, so as not to ask again: all of it may be lost at any time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from photon_operator.children.family import ChildrenInputs, Family, make_children
from photon_operator.cluster.apply import Carried
from photon_operator.cluster.cache import Key
from photon_operator.decide.plan import Apply, Plan

# Nothing that stays as it is may cost more than a request a minute: to try again is two, to read events one a pod.
TRY_AGAIN_SECONDS: Final = 120.0
LOOK_AGAIN_SECONDS: Final = 300.0
_MOST: Final = 10_000
# Of all jobs together, some 30 MiB.
MOST_CHILDREN: Final = 4096


@dataclass(slots=True)
class Memo:
    """Of one job: see Observed. ``tried``: the version of what stands here that was last tried, and when."""

    taken: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    closing: set[str] = field(default_factory=set)
    tried: dict[str, tuple[str, float]] = field(default_factory=dict)


class ChildrenCache:
    """The children of jobs: built again only when something that they depend on differs, as building them is most of
    the CPU time of an idle reconcile.

    It holds at most ``most`` objects (of some 7 KiB); the jobs whose children were asked for longest ago lose theirs
    first, and a job with more is never held. Used on the event loop only.
    """

    def __init__(self, most: int = MOST_CHILDREN) -> None:
        self._most = most
        self._made: OrderedDict[Key, tuple[ChildrenInputs, Family]] = OrderedDict()
        self._size = 0

    def of(self, inputs: ChildrenInputs) -> Family:
        """As ``make_children``.

        Raises:
            InvalidPod: A pod cannot be made as the job says.
        """
        key = (inputs.namespace, inputs.name)
        known = self._made.get(key)
        if known is not None and known[0] == inputs:
            self._made.move_to_end(key)
            return known[1]
        made = make_children(inputs)
        self.forget(key)
        if made.size <= self._most:
            self._made[key] = inputs, made
            self._size += made.size
        while self._size > self._most:
            self.forget(next(iter(self._made)))
        return made

    def forget(self, key: Key) -> None:
        known = self._made.pop(key, None)
        if known is not None:
            self._size -= known[1].size


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

    def sensible(self, key: Key, plan: Plan) -> Plan:
        """``plan`` without what was tried in vain a short while ago and has not been edited since."""
        tried, now = self.of(key).tried, self._clock()

        def waits(wanted: Apply) -> bool:
            version, at = tried.get(wanted.title, ("", 0.0))
            return version == wanted.version and now - at < TRY_AGAIN_SECONDS

        return replace(plan, apply=tuple(wanted for wanted in plan.apply if not waits(wanted)))

    def carried(self, key: Key, plan: Plan, done: Carried) -> bool:
        """Take down what came of a plan; whether that says something new."""
        memo = self._jobs.get(key) or Memo()
        before = (dict(memo.taken), dict(memo.refused), set(memo.closing))
        for wanted in plan.apply:
            memo.tried.pop(wanted.title, None)
            memo.closing.discard(wanted.title)
            memo.closing |= done.closing & {wanted.title}
            for known, found in ((memo.taken, done.taken), (memo.refused, done.refused)):
                known.pop(wanted.title, None)
                if wanted.title in found:
                    known[wanted.title] = found[wanted.title]
                    memo.tried[wanted.title] = (wanted.version, self._clock())
        if memo.tried:
            self._jobs[key] = memo
        else:
            self._jobs.pop(key, None)
        return before != (memo.taken, memo.refused, memo.closing)

    def may_look(self, uid: str) -> bool:
        """Whether its events were not read lately; then they count as being read now."""
        now = self._clock()
        if now - self._looked_at.get(uid, -LOOK_AGAIN_SECONDS) < LOOK_AGAIN_SECONDS:
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
