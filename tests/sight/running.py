"""A run under way, and the ways to disturb it that the tests of sight need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from photon.protocol.messages import RefusalReason, TrainTask
from tests.aggregator.fake_worker import FakeWorker, Prepared
from tests.end_to_end.whole_runs import PROGRAMS, Run
from tests.sight.collector import Span

REMOTE = "east"


@dataclass
class TrackedRun:
    """A run that is over, and the spans that it sent."""

    run: Run
    spans: list[Span]


@dataclass
class LiveRun:
    """``run`` is the process and its folder."""

    run: Run

    @property
    def url(self) -> str:
        """Of the aggregator; the same after a restart."""
        aggregator = self.run.child("photon-aggregator", "--listen")
        assert aggregator is not None, "no aggregator is running"
        line = aggregator.cmdline()
        return f"http://{line[line.index('--listen') + 1]}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, trust_env=False).raise_for_status()

    def remote(self, **options: Any) -> FakeWorker:
        """A worker in numpy that plays the remote participant."""
        return FakeWorker(REMOTE, [self.url], token=self.remote_token, **options)

    @contextmanager
    def remote_program(self, folder: Path, data: Path) -> Iterator[psutil.Process]:
        """The remote participant's own worker, as somebody starts it elsewhere: nobody starts it again."""
        command = [str(PROGRAMS / "photon-worker"), "run", "--aggregator", self.url]
        command += ["--data", str(data), "--work-dir", str(folder / "work")]
        with (folder / "remote.log").open("wb") as log:
            process = psutil.Popen(
                command,
                env={**os.environ, "PHOTON_TOKEN": self.remote_token},
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            for one in [*children(process), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait(timeout=30)

    @property
    def remote_token(self) -> str:
        return (self.run.folder / "tokens" / f"{REMOTE}.token").read_text().strip()

    def disturb(self) -> None:
        """Let the remote participant take part in a round, have an update refused in the next, and go away."""

        def play(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
            # It tells what only a GPU can as well.
            figures = {"loss": 2.0, "learning_rate": 1e-3, "mfu": 0.4, "memory_bytes": 2**30, "tokens_per_second": 1e3}
            worker.report(task.id, "train", step=1, bytes_down=1000, seconds={"pull": 0.1}, **figures)
            if not worker.trained:
                worker.train_honestly(task, prepared)
                return
            worker.upload(task, prepared)
            reply = worker.submit(task.round, prepared.manifest.model_copy(update={"tokens": 1}))
            if reply.reason is RefusalReason.WRONG_TOKENS:
                worker.stop.set()

        worker = self.remote(tamper=play)
        try:
            worker.run()
        finally:
            worker.http.close()


def children(process: psutil.Process) -> list[psutil.Process]:
    """All that it started and that is still there."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
