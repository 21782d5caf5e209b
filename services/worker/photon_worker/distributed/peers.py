"""The processes of one participant, started together by torchrun: who is who, and how all of them end together.

Work is shared out by commands: the main process sends, the others wait for the next (see leader.py and follower.py). A
wait may last for hours, since a participant may sit out rounds, so it has no deadline of its own. What bounds it is
the watch: a thread of each process that meets the others' every second. A process that fails says so there, a process
that is gone breaks the connection, and one that hangs runs into the watch's time-out; the others then end as well,
within seconds and with a code that is not 0, so that the launcher starts all of them again.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Self

import torch
import torch.distributed as dist

from photon.ending import leave
from photon_worker.lifecycle.exits import End, PeerEnded

logger = logging.getLogger(__name__)

# All processes start within this, and no collective of training takes longer.
COLLECTIVE_SECONDS: Final = 600.0
# Between two meetings of the watches, and how long one may take before a process counts as lost.
WATCH_EVERY_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 60.0
# From hearing of another's end to one's own: time for a message, not for work.
GRACE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 0.25
# Number of commands that are kept until all processes have met and the old ones are dropped.
_KEPT_COMMANDS: Final = 64
_GONE: Final = "another process of this participant was killed or cannot be reached"


class Peers:
    """This process among those of its participant. Made by ``join``; to be left by ``leave`` or ``fail``."""

    def __init__(self, store: Any, *, rank: int, size: int, nodes: int, node: int, local_rank: int) -> None:
        self.rank: Final = rank
        self.size: Final = size
        self.nodes: Final = nodes
        self.node: Final = node
        self.local_rank: Final = local_rank
        self.is_main: Final = rank == 0
        self._store = store
        self._commands = 0
        self._control = _gloo(COLLECTIVE_SECONDS)
        self._watched = _gloo(WATCH_SECONDS)
        self._leaving = False
        self._own_end: End | None = None
        self._wake = threading.Event()
        self._heard = threading.Event()
        self._told = threading.Event()
        self._end = End(code=1, message=_GONE)
        self._watch = threading.Thread(target=self._meet, name="watch", daemon=True)
        self._watch.start()

    @classmethod
    def join(cls, device: torch.device) -> Self:
        """Meet the other processes of this participant, by what torchrun put into the environment."""
        timeout = timedelta(seconds=COLLECTIVE_SECONDS)
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
        # The store may have outlived processes before us; what they said there is not for us.
        token = torch.tensor([secrets.randbits(62)])
        dist.broadcast(token, src=0)
        return cls(
            dist.PrefixStore(f"photon/{token.item()}", store),  # type: ignore[attr-defined]
            rank=rank,
            size=size,
            nodes=int(os.environ["GROUP_WORLD_SIZE"]),
            node=int(os.environ["GROUP_RANK"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
        )

    def send(self, command: bytes) -> None:
        """Give the other processes a command; they take commands in the order of sending."""
        self._commands += 1
        self._store.set(_command(self._commands), command)
        self._drop_commands()

    def receive(self) -> bytes:
        """The next command; waits for it as long as all processes live.

        Raises:
            PeerEnded: Another process has ended.
        """
        self._commands += 1
        command = self.wait(_command(self._commands))
        self._drop_commands()
        return command

    def post(self, key: str, value: bytes = b"1") -> None:
        """Say something that others ``wait`` for, once."""
        self._store.set(key, value)

    def wait(self, key: str) -> bytes:
        """What a process has posted, or will. A signal interrupts the wait.

        Raises:
            PeerEnded: Another process has ended.
        """
        began = time.monotonic()
        while not self._heard.is_set():
            try:
                if self._store.check([key]):
                    return bytes(self._store.get(key))
            except dist.DistError:
                break  # the store is on the first node, and gone with it
            # Quick where the next command is about to come, slow where it may take hours.
            time.sleep(min(_LONGEST_PAUSE_SECONDS, 0.0005 + 0.05 * (time.monotonic() - began)))
        self._heard.wait(GRACE_SECONDS)
        raise PeerEnded(self._end)

    def consult(self, *, attention: bool, signal_number: int | None) -> tuple[bool, int | None]:
        """Whether any process asks for attention, and a signal that any has been sent. Collective."""
        flags = torch.tensor([attention, signal_number or 0], dtype=torch.int64)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._control)
        return bool(flags[0]), int(flags[1]) or None

    def leave(self) -> None:
        """End well, together with the others."""
        self._leaving = True
        self._wake.set()
        self._watch.join(WATCH_SECONDS)
        if self._heard.is_set():
            raise PeerEnded(self._end)

    def collateral(self, seconds: float = 2 * WATCH_EVERY_SECONDS + 1) -> PeerEnded | None:
        """Whether another process has ended, which then explains an error here. Waits for the watch to notice."""
        return PeerEnded(self._end) if self._heard.wait(seconds) else None

    def fail(self, end: End) -> None:
        """Tell the others that, and why, this process ends. The first to say so is believed."""
        if self._heard.is_set():
            return
        try:
            value = json.dumps({"rank": self.rank, "code": end.code, "reason": end.reason, "message": end.message})
            self._store.compare_set("end", "", value)
        except dist.DistError:
            pass  # the watch tells the code at least
        self._own_end = end
        self._wake.set()
        self._told.wait(GRACE_SECONDS)

    def _drop_commands(self) -> None:
        if self._commands % _KEPT_COMMANDS:
            return
        dist.barrier(group=self._control)
        if self.is_main:
            for number in range(self._commands - _KEPT_COMMANDS + 1, self._commands + 1):
                self._store.delete_key(_command(number))

    def _meet(self) -> None:
        """The watch's thread."""
        while True:
            said = self._own_end
            flags = torch.tensor([not self._leaving, 0 if said is None else said.code], dtype=torch.int64)
            try:
                dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._watched)
            except RuntimeError:
                self._conclude(End(code=1, message=_GONE))
                return
            if said is not None:
                self._told.set()
                return
            if flags[1]:
                self._conclude(self._first_end(int(flags[1])))
                return
            if not flags[0]:
                return
            self._wake.wait(WATCH_EVERY_SECONDS)

    def _first_end(self, code: int) -> End:
        try:
            said = json.loads(self._store.get("end"))
        except (dist.DistError, ValueError):
            return End(code=code, message=_GONE)
        message = f"process {said['rank']} of {self.size} ended: {said['message']}"
        return End(code=said["code"], reason=said["reason"], message=message)

    def _conclude(self, end: End) -> None:
        """Another process has ended: give the main thread a moment to do the same, then end without it."""
        self._end = end
        self._heard.set()
        self._told.set()
        if self._own_end is None:
            time.sleep(GRACE_SECONDS)
            logger.error("this process ends: %s", end.message)
            leave(end.record, over=False)
            end_now(end.code)


def end_now(code: int) -> None:
    """End without waiting for any thread: what they do is void, and on disk everything is whole at any instant."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def ending_together(peers: Peers, end_of: Callable[[BaseException], End | None]) -> Iterator[None]:
    """Around the work of this process, which ends as all of the participant's processes do.

    Args:
        end_of: What an exception means; None for an unexpected one.

    Raises:
        PeerEnded: Another process ended first.
    """
    try:
        yield
    except PeerEnded:
        raise
    except BaseException as error:
        end = end_of(error)
        # Losing a peer shows first as a failed collective, or as torchrun's SIGTERM, which would only hide the reason.
        elsewhere = peers.collateral() if end is None else peers.collateral(seconds=0)
        if elsewhere is not None:
            raise elsewhere from None
        peers.fail(end or End(code=1, message=f"{type(error).__name__}: {error}"))
        raise
    peers.leave()


def _command(number: int) -> str:
    return f"command/{number}"


def _gloo(seconds: float) -> Any:
    """A group for small tensors on the CPU, apart from the one that training uses."""
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
