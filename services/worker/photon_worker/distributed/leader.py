"""The main process's side of a participant of several processes: what it does, all of them do.

Its strategy sends a command before each collective operation, and between commands the others wait (follower.py). So an
upload that fails, a round that is cancelled or a verdict that takes an hour concern the main process alone.

In the steps of training all processes compute without commands. After each they ask one another whether anybody wants
attention (a checkpoint is due, a signal came, the round is over), and if so the others wait for commands until the
main process says Resume, or Stop.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from photon.api.training import LocalSpec
from photon.store.source import FileSource, Source
from photon_worker.distributed.commands import (
    AnyCommand,
    Build,
    Evaluate,
    Finish,
    Load,
    Read,
    Reset,
    Resume,
    Stop,
    Train,
    Write,
)
from photon_worker.distributed.fsdp import FSDP
from photon_worker.distributed.peers import Peers
from photon_worker.lifecycle.signals import Interrupted, Interrupts
from photon_worker.training import model as models
from photon_worker.training.strategy import Strategy, Vector


class LeaderFSDP(FSDP):
    """FSDP on the main process: the others are told before each collective operation. Thread-safe as a whole."""

    def __init__(
        self, peers: Peers, config: Any, local: LocalSpec, *, device: torch.device, compile: bool = False
    ) -> None:
        self._peers = peers
        # The end state is saved while the update is sent: two threads, and one order of commands for everybody.
        self._lock = threading.Lock()
        send(peers, Build(config=config.to_json_string(use_diff=False)))
        super().__init__(config, local, device=device, compile=compile)

    def load(self, source: Source) -> None:
        if self._peers.nodes == 1 and isinstance(source, FileSource):
            with self._lock:
                send(self._peers, Load(path=source.path))
                super().load(source)
            return
        # Only this node has fetched it: bandwidth within an institution is cheap.
        for start, values in models.weight_blocks(source, self.header):
            self.write("weights", start, values)

    def read(self, vector: Vector, start: int, out: NDArray[np.float32]) -> None:
        with self._lock:
            send(self._peers, Read(vector=vector, start=start, count=len(out)))
            super().read(vector, start, out)

    def write(self, vector: Vector, start: int, values: NDArray[np.float32]) -> None:
        with self._lock:
            send(self._peers, Write(vector=vector, start=start, count=len(values)))
            super().write(vector, start, values)

    def reset_optimizer(self, *, steps: int = 0) -> None:
        with self._lock:
            send(self._peers, Reset(steps=steps))
            super().reset_optimizer(steps=steps)


class Leader:
    """The main one of a participant's several processes."""

    def __init__(
        self, peers: Peers, local: LocalSpec, *, device: torch.device, interrupts: Interrupts, compile: bool
    ) -> None:
        self._peers = peers
        self._local = local
        self._device = device
        self._interrupts = interrupts
        self._compile = compile
        self._attended = False

    def strategy(self, config: Any) -> Strategy:
        return LeaderFSDP(self._peers, config, self._local, device=self._device, compile=self._compile)

    @contextmanager
    def training(self, *, first_step: int, done: int, until: int) -> Iterator[None]:
        send(self._peers, Train(first_step=first_step, done=done, until=until))
        with self._stopping():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        send(self._peers, Evaluate())
        with self._stopping():
            yield

    def attention(self, *, wanted: bool) -> bool:
        self._attended, number = self._peers.consult(
            attention=wanted, signal_number=self._interrupts.number if self._interrupts.pending else None
        )
        if number is not None:
            self._interrupts.note(number)
        return self._attended

    def resume(self) -> None:
        self._attended = False
        send(self._peers, Resume())

    def finish(self) -> None:
        """The job has ended."""
        send(self._peers, Finish())

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """When the main process leaves a loop while the others listen, they leave it too.

        Leaving it at any other moment is a failure that ends all processes (see peers.py).
        """
        try:
            yield
        except BaseException as error:
            if self._attended:
                self._attended = False
                number = error.exit_code - 128 if isinstance(error, Interrupted) else None
                send(self._peers, Stop(signal=number))
            raise


def send(peers: Peers, command: AnyCommand) -> None:
    """Send a command to the other processes."""
    peers.send(command.model_dump_json().encode())
