"""A process that is not its participant's main one: it does what the main process says (leader.py)."""

from __future__ import annotations

import json
from typing import Final

import torch

from photon.protocol.messages import JobForWorkers
from photon.store.source import FileSource
from photon_worker.data import Mixture
from photon_worker.data.batches import JobBatches
from photon_worker.distributed.commands import (
    AnyCommand,
    Build,
    Command,
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
from photon_worker.training.evaluate import EvaluationSettings, Share, has_held_out, held_out_loss
from photon_worker.training.loop import StepReport, Totals, Training, train


class _Stopped(Exception):
    """The main process left what it was doing."""


class Follower:
    """Executes commands until the job has ended."""

    def __init__(
        self, peers: Peers, job: JobForWorkers, data: Mixture, *, device: torch.device, interrupts: Interrupts
    ) -> None:
        self._peers: Final = peers
        self._job: Final = job
        self._data: Final = data
        self._device: Final = device
        self._interrupts: Final = interrupts
        self._built: FSDP | None = None

    def run(self, *, compile: bool) -> None:
        """Follow the main process.

        Raises:
            PeerEnded: Another process has ended.
            Interrupted: A signal asked for the end, here or at another process.
        """
        while True:
            command = self._next()
            try:
                match command:
                    case Finish():
                        return
                    case Build(config=text):
                        config = models.config_from(json.loads(text))
                        self._built = FSDP(config, self._job.learning.local, device=self._device, compile=compile)
                    case Train():
                        self._train(command)
                    case Evaluate():
                        self._evaluate()
                    case _:
                        self._execute(command)
            except _Stopped:
                continue

    @property
    def _strategy(self) -> FSDP:
        assert self._built is not None, "the first command builds it"
        return self._built

    def _next(self) -> AnyCommand:
        return Command.validate_json(self._peers.receive())

    def _execute(self, command: AnyCommand) -> None:
        match command:
            case Load(path=path):
                source = FileSource(path)
                try:
                    self._strategy.load(source)
                finally:
                    source.close()
            case Read(vector=vector, start=start, count=count):
                for _ in self._strategy.blocks(vector, start, count):
                    pass
            case Write(vector=vector, start=start, count=count):
                self._strategy.receive(vector, start, count)
            case Reset(steps=steps):
                self._strategy.reset_optimizer(steps=steps)
            case _:
                raise AssertionError(f"{command.kind} is not expected here")

    def _train(self, command: Train) -> None:
        learning = self._job.learning

        def after_step(_: StepReport) -> None:
            self._attend()

        with self._interrupts.deferred():
            train(
                self._strategy,
                Training(
                    batches=JobBatches(self._data, learning),
                    local=learning.local,
                    seed=learning.model.seed,
                    participant=self._job.participant,
                    first_step=command.first_step,
                    until=command.until,
                ),
                Totals(self._device, steps=command.done),
                after_step=after_step,
            )
        self._interrupts.check()

    def _evaluate(self) -> None:
        sources = [source for source in self._data.sources.values() if has_held_out(source)]
        settings = EvaluationSettings.of_job(self._job, processes=self._strategy.size, sources=len(sources))
        for source in sources:
            held_out_loss(
                self._strategy.infer,
                source.held_out,
                settings,
                device=self._device,
                check=self._attend,
                share=Share.of(self._strategy),
            )

    def _attend(self) -> None:
        """Between two steps: do what the main process wants done before the next."""
        pending = self._interrupts.number if self._interrupts.pending else None
        attention, _ = self._peers.consult(attention=pending is not None, signal_number=pending)
        while attention:
            command = self._next()
            if isinstance(command, Resume):
                return
            if isinstance(command, Stop):
                if command.signal is not None:
                    raise Interrupted(command.signal)
                raise _Stopped
            self._execute(command)
