"""What the operator remembers for some minutes, so as not to ask again: all of it may be lost at any time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from photon_operator.children.build import Children, ChildrenInputs, make_children
from photon_operator.children.kinds import Object
from photon_operator.cluster.apply import Applied
from photon_operator.cluster.cache import Key
from photon_operator.decide.closing import ASK_AGAIN_SECONDS
from photon_operator.decide.plan import Apply, Plan

# Nothing that stays as it is may cost more than a request a minute: to try again is two, to read events one a pod.
TRY_AGAIN_SECONDS: Final = 120.0
READ_EVENTS_AGAIN_SECONDS: Final = 300.0
_MOST: Final = 10_000
# Of all jobs together, some 30 MiB.
MOST_CHILDREN: Final = 4096


@dataclass(slots=True)
class Retries:
    """Of one job: see Observed. ``tried``: the version of what stands here that was last tried, and when."""

    taken: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    tried: dict[str, tuple[str, float]] = field(default_factory=dict)


class ChildrenCache:
    """The children of jobs: built again only when something that they depend on differs, as building them is most of
    the CPU time of an idle reconcile.

    It holds at most ``most`` objects (of some 7 KiB); the jobs whose children were asked for longest ago lose theirs
    first, and a job with more is never held. Used on the event loop only.
    """

    def __init__(self, most: int = MOST_CHILDREN) -> None:
        self._most = most
        self._made: OrderedDict[Key, tuple[ChildrenInputs, Children]] = OrderedDict()
        self._size = 0

    def of(self, inputs: ChildrenInputs) -> Children:
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


class RetryMemory:
    """``clock`` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._jobs: dict[Key, Retries] = {}
        self._warnings: OrderedDict[str, str] = OrderedDict()
        self._events_read_at: OrderedDict[str, float] = OrderedDict()
        self._asked_at: OrderedDict[str, float] = OrderedDict()
        # By the uid of a job: a namespace of the same name may be made again, with a job of the same name.
        self._closing: OrderedDict[str, float] = OrderedDict()

    @property
    def warnings(self) -> Mapping[str, str]:
        """Why something makes no progress, by uid."""
        return self._warnings

    def of(self, key: Key) -> Retries:
        return self._jobs.get(key) or Retries()

    def is_ours(self, key: Key, children: Mapping[str, Mapping[str, Object]]) -> None:
        """Forget of what is among the job's children, by kind and name, that its name was taken: it has our label
        again."""
        retries = self._jobs.get(key)
        if retries is None:
            return
        for title in list(retries.taken):
            kind, _, name = title.partition(" ")
            if name in children.get(kind, {}):
                del retries.taken[title]
                retries.tried.pop(title, None)
        if not retries.tried:
            del self._jobs[key]

    def due(self, key: Key, plan: Plan) -> Plan:
        """``plan`` without what was tried in vain a short while ago and has not been edited since."""
        tried, now = self.of(key).tried, self._clock()

        def waits(wanted: Apply) -> bool:
            version, at = tried.get(wanted.title, ("", 0.0))
            return version == wanted.version and now - at < TRY_AGAIN_SECONDS

        return replace(plan, apply=tuple(wanted for wanted in plan.apply if not waits(wanted)))

    def applied(self, key: Key, plan: Plan, done: Applied, *, vain: Collection[str] = ()) -> bool:
        """Take down what came of a plan; whether that says something new.

        ``vain``: titles of what was applied and is as it was before, though it was not as it should be: a webhook undid
        it, say. It is not tried again at once either.
        """
        retries = self._jobs.get(key) or Retries()
        before = (dict(retries.taken), dict(retries.refused))
        for wanted in plan.apply:
            retries.tried.pop(wanted.title, None)
            for known, found in ((retries.taken, done.taken), (retries.refused, done.refused)):
                known.pop(wanted.title, None)
                if wanted.title in found:
                    known[wanted.title] = found[wanted.title]
                    retries.tried[wanted.title] = (wanted.version, self._clock())
            if wanted.title in vain:
                retries.tried[wanted.title] = (wanted.version, self._clock())
        if retries.tried:
            self._jobs[key] = retries
        else:
            self._jobs.pop(key, None)
        return before != (retries.taken, retries.refused)

    def is_closing(self, uid: str) -> bool:
        """Whether the namespace of a job is known to be being deleted, which is never taken back."""
        return uid in self._closing

    def close(self, uid: str) -> None:
        self._closing[uid] = self._clock()
        _trim(self._closing)

    def may_ask(self, uid: str) -> bool:
        """Whether it was not asked lately if the namespace of a job is being deleted; then it counts as asked now."""
        now = self._clock()
        if now - self._asked_at.get(uid, -ASK_AGAIN_SECONDS) < ASK_AGAIN_SECONDS:
            return False
        self._asked_at[uid] = now
        self._asked_at.move_to_end(uid)
        _trim(self._asked_at)
        return True

    def may_read_events(self, uid: str) -> bool:
        """Whether its events were not read lately; then they count as being read now."""
        now = self._clock()
        if now - self._events_read_at.get(uid, -READ_EVENTS_AGAIN_SECONDS) < READ_EVENTS_AGAIN_SECONDS:
            return False
        self._events_read_at[uid] = now
        self._events_read_at.move_to_end(uid)
        _trim(self._events_read_at)
        return True

    def take_warning(self, uid: str, message: str | None) -> bool:
        """Take down what events say; whether it is something new."""
        if self._warnings.get(uid) == message:
            return False
        if message is None:
            del self._warnings[uid]
        else:
            self._warnings[uid] = message
            _trim(self._warnings)
        return True

    def forget(self, key: Key) -> None:
        self._jobs.pop(key, None)


def _trim(entries: OrderedDict[str, str] | OrderedDict[str, float]) -> None:
    while len(entries) > _MOST:
        entries.popitem(last=False)
