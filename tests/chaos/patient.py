"""An honest participant that retries until the job has ended, and one that repeats what was accepted elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from photon.protocol.messages import EvaluateTask, TrainTask, UpdateReply
from photon.protocol.records import UpdateManifest
from tests.aggregator.fake_worker import FakeWorker, Prepared

PAUSE_SECONDS = 0.2


@dataclass
class PatientWorker(FakeWorker):
    """Repeats every request, and every task, until it is done or no longer wanted."""

    give_up_seconds: float = 3600.0

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        until = time.monotonic() + self.give_up_seconds
        while time.monotonic() < until:
            try:
                response = self.http.request(method, f"{self.urls[0]}{path}", **arguments)
                if response.status_code < 500 and response.status_code != 429:
                    return response
            except httpx.TransportError:
                pass
            if self.stop.wait(PAUSE_SECONDS):
                raise RuntimeError("stopped")
        raise RuntimeError(f"{method} {path}: no answer")

    def train(self, task: TrainTask) -> None:
        self._until_done(task, super().train)

    def evaluate(self, task: EvaluateTask) -> None:
        self._until_done(task, super().evaluate)

    def _until_done(self, task: Any, work: Any) -> None:
        """The store may be away in the middle of any transfer; URLs that no longer hold are asked for once more."""
        while not self.stop.is_set():
            try:
                work(task)
                return
            except (httpx.TransportError, AssertionError, UnboundLocalError):
                if self.stop.wait(PAUSE_SECONDS):
                    return
            if self.report(task.id, "train").cancel:
                return


@dataclass
class ScriptedWorker(PatientWorker):
    """Submits exactly in the rounds of ``accepted``, together with the others of that round."""

    accepted: Mapping[int, Collection[str]] = field(default_factory=dict)
    meeting: dict[int, threading.Barrier] = field(default_factory=dict)

    def train(self, task: TrainTask) -> None:
        if self.name in self.accepted[task.round]:
            super().train(task)

    def submit(self, round_number: int, manifest: UpdateManifest) -> UpdateReply:
        self.meeting[round_number].wait(60)
        return super().submit(round_number, manifest)

    def prepare(self, task: TrainTask) -> Prepared:
        return super().prepare(task)
