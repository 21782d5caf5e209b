"""The log of the door: segments log/segments/0000000001.json, created if absent under the number of their first entry.

Of two aggregators one is first; the other reads what it wrote and writes after it. What is urgent (members, updates,
commits) is written at the next look, sessions together with it or after some minutes. Blocking but for ``add``.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from threading import Lock, RLock
from typing import Final

from photon.protocol.canonical import canonical_json
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from photon.trust.log import MAX_ENTRIES, NOTHING, LogEntry, LogKind, Segment, follow
from photon.trust.members import MemberRecord
from photon_aggregator.bucket.records import RecordError, parse

logger = logging.getLogger(__name__)

SESSION_SECONDS: Final = 300
# What the store does not take in the meantime; sessions beyond that are not logged.
MAX_PENDING: Final = 4096
# Digests and heads that are kept to answer from; those before are read again.
KEPT: Final = 16_384
# Read for one answer.
SEGMENTS: Final = 64


class DoorLog:
    """``clock``: seconds since the epoch. ``size`` and ``head``: of what is written. Thread-safe."""

    def __init__(self, store: ObjectStore, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._pending: deque[LogEntry] = deque()
        self._since: float | None = None
        self._adding = Lock()
        self._writing = RLock()
        self._last: dict[str, tuple[object, ...]] = {}
        self._recent: deque[str] = deque(maxlen=KEPT)
        self._heads: OrderedDict[int, str] = OrderedDict()
        self.position: tuple[int, str] = 0, NOTHING
        self.members: dict[str, int] = {}
        self.committed = -1

    @property
    def size(self) -> int:
        """How many entries are written."""
        return self.position[0]

    def load(self, least: int) -> None:
        """Find the end of the log, which has at least ``least`` entries. Raises StoreError, RecordError."""
        with self._writing:
            start = max(0, least - MAX_ENTRIES)
            last = None
            for info in self._store.list(keys.LOG_SEGMENTS, after=keys.log_segment(start)):
                last = info.key
            if last is not None:
                segment = parse(Segment, self._store.get(last), last)
                self._takes(segment, before=segment.before)

    def read_on(self) -> None:
        """What another aggregator has written. Raises StoreError; RecordError: it is no continuation."""
        with self._writing:
            while True:
                key = keys.log_segment(self.size + 1)
                try:
                    found = parse(Segment, self._store.get(key), key)
                except NotFound:
                    return
                if found.first != self.size + 1 or found.before != self.position[1]:
                    raise RecordError(f"{key} does not continue the log before it")
                self._takes(found, before=found.before)

    def _takes(self, segment: Segment, *, before: str) -> None:
        digests = segment.digests
        head = follow(before, digests)
        with self._adding:
            self.position = segment.last, head
            self._recent.extend(digests)
            self._heads[segment.last] = head
            while len(self._heads) > KEPT:
                self._heads.popitem(last=False)
        self.members, self.committed = dict(segment.members), segment.committed

    def was(self, size: int, head: str) -> bool:
        """Whether the log had this head, as far as that is remembered."""
        return self._heads.get(size) == head

    # --- what happens ------------------------------------------------------------------------------------------------

    def add(self, kind: LogKind, **fields: object) -> None:
        """Note what happened; it is written by ``flush``."""
        now = self._clock()
        entry = LogEntry.model_validate({"kind": kind, "at": int(now), **fields})
        with self._adding:
            if kind is LogKind.SESSION and len(self._pending) >= MAX_PENDING:
                return
            self._pending.append(entry)
            due = now + SESSION_SECONDS if kind is LogKind.SESSION else now
            self._since = due if self._since is None else min(self._since, due)

    def member(self, record: MemberRecord, subject: str, key: str) -> None:
        """A record of a member was written. ``subject``: its digest; ``key``: id of the member's key."""
        self.add(
            LogKind(record.kind.value), participant=record.participant, serial=record.serial, subject=subject, key=key
        )

    def update(self, participant: str, round_number: int, manifest: str, reason: str | None) -> None:
        """An update was accepted or, with a ``reason``, refused; the same twice is one entry."""
        what = round_number, manifest, reason
        if self._last.get(participant) == what:
            return
        self._last[participant] = what
        kind = LogKind.ACCEPTED if reason is None else LogKind.REFUSED
        self.add(kind, participant=participant, round=round_number, subject=manifest, reason=reason)

    def commit(self, round_number: int, subject: str) -> None:
        """A commit is about to be signed."""
        self.add(LogKind.COMMITTED, round=round_number, subject=subject)

    # --- what is written ---------------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether something should be written now."""
        return self._since is not None and self._since <= self._clock()

    def flush(self) -> None:
        """Write what was noted. Raises StoreError: the rest is written at the next flush; RecordError."""
        with self._writing:
            while True:
                with self._adding:
                    batch = list(self._pending)[:MAX_ENTRIES]
                    if not batch:
                        self._since = None
                        return
                fresh = self._fresh(batch)
                if fresh is not None and not self._write(fresh):
                    self.read_on()
                    continue
                with self._adding:
                    for _ in batch:
                        self._pending.popleft()

    def _fresh(self, batch: list[LogEntry]) -> Segment | None:
        """The next segment, without what another aggregator has logged; None: it has logged all of it."""
        members, committed, entries = dict(self.members), self.committed, []
        for entry in batch:
            if entry.serial is not None and entry.participant is not None:
                if entry.serial <= members.get(entry.participant, 0):
                    continue
                members[entry.participant] = entry.serial
            elif entry.kind is LogKind.COMMITTED and entry.round is not None:
                if entry.round <= committed:
                    continue
                committed = entry.round
            entries.append(entry)
        if not entries:
            return None
        return Segment(
            first=self.size + 1, before=self.position[1], entries=entries, members=members, committed=committed
        )

    def _write(self, segment: Segment) -> bool:
        key, data = keys.log_segment(segment.first), canonical_json(segment)
        # What is there may be ours, of a request whose answer was lost.
        if not self._store.create(key, data) and self._store.get(key) != data:
            return False
        self._takes(segment, before=segment.before)
        return True

    # --- what is asked -----------------------------------------------------------------------------------------------

    def digests(self, after: int, most: int) -> list[str]:
        """Of entries after number ``after``, at most ``most``; fewer where that reads many segments.

        Raises:
            StoreError, RecordError: They could not be read.
        """
        with self._adding:
            size, recent = self.size, list(self._recent)
        if after >= size:
            return []
        if after >= size - len(recent):
            return recent[len(recent) - (size - after) :][:most]
        found: list[str] = []
        for key in self._covering(after):
            segment = parse(Segment, self._store.get(key), key)
            found += segment.digests[max(0, after + 1 - segment.first) :]
            if len(found) >= most:
                break
        return found[:most]

    def _covering(self, after: int) -> Iterator[str]:
        """Keys of segments from the one with entry ``after + 1`` on."""
        held, given = None, 0
        for info in self._store.list(keys.LOG_SEGMENTS, after=keys.log_segment(max(0, after + 1 - MAX_ENTRIES))):
            first = int(info.key.removeprefix(keys.LOG_SEGMENTS).removesuffix(".json"))
            if held is not None and first > after + 1:
                yield held
                given += 1
                if given >= SEGMENTS:
                    return
            held = info.key
        if held is not None:
            yield held
