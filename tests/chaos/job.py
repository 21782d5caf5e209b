"""One job in which everything happens, and the same job undisturbed, with the updates that the first one accepted."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from photon.api.job import FederatedTrainingJob
from photon.protocol.records import Commit
from tests.aggregator.fake_worker import job_document, write_round_zero
from tests.aggregator.running import chain, last_digest, working
from tests.aggregator.test_program import free_port
from tests.chaos.clock import Clock
from tests.chaos.hostile import HostileWorker
from tests.chaos.patient import PatientWorker, ScriptedWorker
from tests.chaos.scene import Scene, ended

HONEST: Final = ("east", "north", "south")
VANISHES: Final = "west"
HOSTILE: Final = "zeno"
EVERYONE: Final = (*HONEST, VANISHES, HOSTILE)
DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens, and for how long; the rounds are those whose commit is waited for first."""

    rounds: int = 40
    grace_seconds: int = 2
    deadline_seconds: int = 30
    store_away_after: int = 5
    store_away_seconds: float = 180.0
    stopped_after: int = 12
    stopped_seconds: float = 600.0
    clock_jumps_after: int = 20
    clock_seconds: float = 60.0
    vanishes_after: int = 25
    limit_seconds: float = 3600.0


@dataclass
class Outcome:
    """What came of it. ``answers``: of the aggregator to the hostile participant, by status code. ``clock_jumped`` is
    false where there is no C compiler to make a clock that can."""

    completed: bool = False
    clock_jumped: bool = False
    reason: str = ""
    digest_equal: bool = False
    last_commit: str = ""
    rounds: int = 0
    deaths: list[int] = field(default_factory=list)
    server_errors: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    hostile_updates_accepted: int = 0
    conditions_seen: list[str] = field(default_factory=list)
    rss_mib: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def document(scene: Scene, script: Script) -> FederatedTrainingJob:
    return job_document(
        scene.storage,
        list(EVERYONE),
        rounds=script.rounds,
        participation={
            "quorum": 3,
            "graceSeconds": script.grace_seconds,
            "roundDeadlineSeconds": script.deadline_seconds,
        },
        evaluation={"everyRounds": 5},
    )


def disturbed(folder: Path, script: Script) -> tuple[Outcome, list[Commit]]:
    """The job with all that ``script`` says. The bucket stays in ``folder``."""
    began = time.monotonic()
    found = Outcome()
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock.build(folder)
    found.clock_jumped = clock is not None
    scene = Scene(folder, "disturbed")
    try:
        job = document(scene, script)
        write_round_zero(job, scene.store)
        port = free_port()
        with scene.aggregator(job, port=port, clock=clock) as running:
            urls = [running.url]
            honest = [PatientWorker(name, urls) for name in HONEST]
            leaving = PatientWorker(VANISHES, urls)
            hostile = HostileWorker(HOSTILE, urls)
            watcher = _Conditions(running)
            threads = [_life(worker) for worker in (*honest, leaving, hostile)]
            try:
                running.until(lambda s: s.committed_rounds >= script.store_away_after, seconds=script.limit_seconds)
                scene.store_away(script.store_away_seconds)
                running.until(lambda s: s.committed_rounds >= script.stopped_after, seconds=script.limit_seconds)
                running.stopped(script.stopped_seconds)
                running.until(lambda s: s.committed_rounds >= script.clock_jumps_after, seconds=script.limit_seconds)
                if clock is not None:
                    clock.ahead(DAY_SECONDS)
                    time.sleep(script.clock_seconds)
                    clock.ahead(0)
                running.until(lambda s: s.committed_rounds >= script.vanishes_after, seconds=script.limit_seconds)
                leaving.stop.set()
                status = running.until(lambda s: ended(s) is not None, seconds=script.limit_seconds)
                found.completed = ended(status).type == "Complete"
                found.reason = ended(status).reason
                found.rounds = status.committed_rounds
                found.rss_mib = round(running.rss_mib(), 1)
            finally:
                watcher.stop()
                for worker in (*honest, leaving, hostile):
                    worker.stop.set()
                for thread in threads:
                    thread.join(60)
            found.deaths = running.deaths
        found.answers = dict(sorted(hostile.statuses.items()))
        found.server_errors = sum(n for code, n in hostile.statuses.items() if code >= 500 and code != 503)
        found.conditions_seen = watcher.seen
        commits = chain(scene.store)
        found.last_commit = last_digest(scene.store)
        found.hostile_updates_accepted = sum(u.participant == HOSTILE for c in commits for u in c.accepted)
    finally:
        scene.close()
        found.seconds = round(time.monotonic() - began, 1)
    return found, commits


def undisturbed(folder: Path, script: Script, commits: list[Commit]) -> str:
    """The digest of the last commit of the same job, alone, with the updates that ``commits`` accepted."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(folder, "undisturbed")
    accepted = {commit.round: frozenset(u.participant for u in commit.accepted) for commit in commits}
    meeting = {r: threading.Barrier(len(names)) for r, names in accepted.items() if names}
    try:
        job = document(scene, script)
        write_round_zero(job, scene.store)
        port = free_port()
        with scene.aggregator(job, port=port) as running:
            urls = [running.url]
            workers: list[PatientWorker] = [
                ScriptedWorker(name, urls, accepted=accepted, meeting=meeting) for name in (*HONEST, VANISHES)
            ]
            with working(*workers, _ScriptedHostile(HOSTILE, urls, accepted=accepted, meeting=meeting)):
                running.until(lambda s: ended(s) is not None, seconds=script.limit_seconds)
        return last_digest(scene.store)
    finally:
        scene.close()


@dataclass
class _ScriptedHostile(HostileWorker):
    """Sends its update again in the rounds in which it was accepted, and is silent in all others."""

    accepted: dict[int, frozenset[str]] = field(default_factory=dict)
    meeting: dict[int, threading.Barrier] = field(default_factory=dict)

    def _attack(self, task: Any) -> None:
        if self.name in self.accepted[task.round]:
            super()._attack(task)

    def hand_in(self, task: Any, manifest: dict[str, Any], times: int = 1) -> None:
        self.meeting[task.round].wait(60)
        super().hand_in(task, manifest, times)


class _Conditions:
    """Notes every reason that the job's status names, in order of appearance."""

    def __init__(self, running: Any) -> None:
        self.seen: list[str] = []
        self._stop = threading.Event()
        self._running = running
        self._thread = threading.Thread(target=self._watch, name="conditions")
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            status = self._running.status()
            for condition in status.conditions if status is not None else ():
                if condition.status == "True" and condition.reason not in self.seen:
                    self.seen.append(condition.reason)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)


def _life(worker: PatientWorker) -> threading.Thread:
    def run() -> None:
        try:
            worker.run()
        except RuntimeError:
            return  # it was stopped in the middle of a request

    thread = threading.Thread(target=run, name=worker.name, daemon=True)
    thread.start()
    return thread
