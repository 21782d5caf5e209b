"""What goes on beside requests: access.json is read again, the rounds are told of members, commits are signed."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from photon.api.access import read_access
from photon.api.status import MemberState
from photon.errors import UserError
from photon.protocol.records import Commit
from photon.store import keys
from photon.store.errors import NotFound, StoreError
from photon.trust.errors import TrustError
from photon_aggregator.bucket import records
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.engine import Engine
from photon_aggregator.errors import ShuttingDown
from photon_aggregator.http.border import evidence
from photon_aggregator.http.border.enrolling import Reception
from photon_aggregator.rounds.events import Head, Members

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
# Commits that are signed at a time, going back from the head.
MOST_UNSIGNED: Final = 1000

_TROUBLE: Final = (StoreError, TrustError, UserError, RecordError)
Stamp = tuple[int, int, int] | None


class Watch:
    """Of one door. All of it on the event loop; what touches the bucket runs in threads, one thing at a time."""

    def __init__(self, engine: Engine, reception: Reception, access: Path) -> None:
        self._engine = engine
        self._reception = reception
        self._access = access
        self._stamp: Stamp = None
        self._looked = False
        self._signed: int | None = None
        self._before: dict[str, MemberState] = {}
        # One at a time, for each reads what the one before it wrote.
        self.lock = asyncio.Lock()

    async def first(self) -> None:
        """Read who is a member; until that has succeeded."""
        while not self._looked:
            try:
                await self._look()
            except _TROUBLE as error:
                logger.warning("the door does not open yet: %s", error)
                await asyncio.sleep(LOOK_SECONDS)

    async def run(self) -> None:
        """Until it is cancelled. What fails is tried again at the next look."""
        while True:
            try:
                await self._look()
                if self._reception.hub.log.due:
                    await self._engine.in_thread(self._reception.hub.log.flush)
                await self._sign()
            except ShuttingDown:
                return
            except _TROUBLE as error:
                logger.warning("the door tries again in %.0f s: %s", LOOK_SECONDS, error)
            await self._engine.changed(LOOK_SECONDS)
            await asyncio.sleep(0.05)

    async def _look(self) -> None:
        stamp = _stamp(self._access)
        if self._looked and stamp == self._stamp:
            return
        wishes, roster = read_access(self._access), self._reception.roster
        async with self.lock:
            if not self._looked:
                await self._engine.in_thread(roster.load)
                await self._engine.in_thread(self._open_log)
                self._before = self._states()
            await self._engine.in_thread(lambda: roster.apply(wishes))
            await self._engine.in_thread(self._reception.hub.log.flush)
        self._stamp, self._looked = stamp, True
        self.tell()

    def _open_log(self) -> None:
        """Find the end of the log, which is not before where the last signed commit says."""
        hub, head = self._reception.hub, self._engine.state.head
        hub.log.load(evidence.log_size(self._engine.store, hub, head.round) if head is not None else 0)
        self._reception.roster.catch_up()

    def tell(self) -> None:
        """Let the rounds know where everybody stands; sessions of those that are no members end."""
        members = self._reception.roster.members
        for name, member in members.items():
            if member.state is not MemberState.ACTIVE:
                self._reception.sessions.drop(name)
        states = self._states()
        known = {name: member.key.fingerprint for name, member in members.items() if member.key is not None}
        state = self._engine.state
        if dict(state.members) != states or dict(state.member_keys) != known:
            self._engine.send(Members(at=self._engine.clock(), states=states, keys=known, before=self._before))

    def _states(self) -> dict[str, MemberState]:
        roster = self._reception.roster
        return {n: MemberState.INVITED if n in roster.broken else m.state for n, m in roster.members.items()}

    async def note(self) -> None:
        """Write the log before an answer says what happened. What fails is written at the next look."""
        try:
            await self._engine.in_thread(self._reception.hub.log.flush)
        except _TROUBLE as error:
            logger.warning("the log is written later: %s", error)

    async def sign(self) -> None:
        """Sign what is not signed yet, before somebody is told that the job has ended. What fails is tried later."""
        try:
            await self._sign()
        except _TROUBLE as error:
            logger.warning("the last commit is not signed yet: %s", error)

    async def _sign(self) -> None:
        head = self._engine.state.head
        if head is None or self._signed == head.round:
            return
        number = head.round
        await self._engine.in_thread(lambda: self._sign_back(head))
        self._signed = number

    def _sign_back(self, head: Head) -> None:
        """Sign the head, and commits before it that a crash left unsigned; the earliest first, so none is left out."""
        store, hub = self._engine.store, self._reception.hub
        remote = frozenset(self._reception.roster.members)
        unsigned: list[Head] = []
        while len(unsigned) < MOST_UNSIGNED and store.head(keys.commit_signature(head.round)) is None:
            unsigned.append(head)
            if head.round == 0:
                break
            try:
                commit, digest, _ = records.read(store, keys.commit(head.round - 1), Commit)
            except RecordError:
                break
            head = Head(commit=commit, digest=digest)
        for one in reversed(unsigned):
            hub.log.commit(one.round, one.digest)
            hub.log.flush()
            try:
                evidence.sign_commit(store, hub, one, remote)
            except NotFound as error:
                # It took an update that no member signed, before the door was open.
                logger.warning("the commit of round %d is not signed: %s", one.round, error)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
