"""Starts the processes of a plan, watches them, and says how the job ended.

How a job ended is what its aggregator said first: in its status, or in its termination record if it was not asked in
time. What a process does afterwards, or an aggregator that is started again, changes nothing of it.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx
from pydantic import ValidationError

from photon.api.job import FederatedTrainingJob
from photon.api.status import Condition, ConditionType, JobStatus
from photon.errors import JobFailed, PhotonError, RunFailed, UserError
from photon.exit_codes import EXIT_STORE_REFUSES, EXIT_USER_ERROR
from photon.files import write_atomic
from photon.launch import AGGREGATOR, INIT, LISTEN_FD, DoorContext, LaunchContext, Role, processes, worker_name
from photon.local.awake import AwakeClock
from photon.local.environment import Keys, environment
from photon.local.process import Child, Exit, stop_all
from photon.local.programs import find_program
from photon.local.run_folder import RunDirectory, shown
from photon.protocol.termination import Termination
from photon.protocol.views import StatusNotRead
from photon.telemetry import traces
from photon.telemetry.trackers import FOLDER_VARIABLE
from photon.terminal import lines
from photon.terminal.display import Display

_POLL_SECONDS: Final = 0.2
_STATUS_SECONDS: Final = 1.0
# After the job has ended, workers hear so by their long poll; then the rest is stopped.
_FAREWELL_SECONDS: Final = 15.0
# With less than this left, no process can be expected to live, and starting it again would only hide why.
_FULL_DISK_BYTES: Final = 8 * 2**20


class Supervisor:
    """Starts the plan, watches it, and gives up with a reason or returns when the job is complete."""

    def __init__(
        self,
        job: FederatedTrainingJob,
        *,
        run: RunDirectory,
        folder: Path,
        keys: Keys,
        display: Display,
        watch_store: Callable[[], None],
        gpus: Mapping[str, Mapping[str, str]] | None = None,
        replay: Path | None = None,
        door: DoorContext | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._job = job
        self._watch_store = watch_store
        self._display = display
        self._run = run
        self._limit_seconds = job.spec.active_deadline_seconds
        lingers = 0 if door is None else door.linger_seconds or 0
        self._farewell_seconds = _FAREWELL_SECONDS + lingers
        self._clock = clock or AwakeClock()
        self._began_at = self._clock()
        self._final: Condition | None = None
        self._lost: dict[str, Exit] = {}
        # Held for the whole run and handed to every start of the aggregator: its address is the same after a restart,
        # no one can take the port meanwhile, and who connects in between is answered when it is there again.
        self._door = socket.create_server(("127.0.0.1", 0), backlog=1024)
        address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self._url = f"http://{address}"
        digests_path, tokens = run.make_tokens([p.name for p in job.spec.participants])
        context = LaunchContext(
            job_path=str(run.job),
            folder=str(folder),
            tokens_path=str(digests_path),
            listen=address,
            aggregator_url=self._url,
            work_dir=str(run.work / "{participant}"),
            aggregator_program=(find_program("photon-aggregator"),),
            worker_program=(find_program("photon-worker"),),
            stop_when_done=True,
            replay_path=str(replay) if replay is not None else None,
            door=door,
        )
        # The programs run in the folder of the job file; what the user typed is relative to where photon run is.
        folders = {FOLDER_VARIABLE: str(run.root / "trackers"), **os.environ}
        paths = {FOLDER_VARIABLE: os.path.abspath(folders[FOLDER_VARIABLE]), **traces.absolute(os.environ)}
        given: dict[str, Mapping[str, str]] = {
            AGGREGATOR: {LISTEN_FD: str(self._door.fileno())},
            **{worker_name(participant): told for participant, told in (gpus or {}).items()},
        }
        self._children = [
            Child(
                process,
                env=environment(process, keys=keys, tokens=tokens, inherited={**os.environ, **paths})
                | dict(given.get(process.name, {})),
                cwd=folder,
                log_path=run.log(process.name),
                pass_fds=(self._door.fileno(),) if process.name == AGGREGATOR else (),
                clock=self._clock,
            )
            for process in processes(job, context)
        ]

    def run(self) -> None:
        """Until the job is complete. On any error, everything that was started has ended when it is raised.

        Raises:
            UserError, RunFailed: A process without which the job cannot go on has ended for good.
            JobFailed: The aggregator says that the job has failed.
        """
        try:
            self._display.phase("making the initial model")
            self._initialise()
            self._display.phase("waiting for the participants")
            for child in self._others():
                child.start()
            self._display.page(f"{self._url}/")
            write_atomic(self._run.address, f"{self._url}\n{os.getpid()}\n")
            self._watch()
        finally:
            self._run.address.unlink(missing_ok=True)
            stop_all(self._children)
            self._door.close()

    def _others(self) -> list[Child]:
        return [child for child in self._children if child.process.name != INIT]

    def _initialise(self) -> None:
        first = next(child for child in self._children if child.process.name == INIT)
        first.start()
        while first.finished is None:
            self._watch_store()
            self._handle(first.poll())
            self._check_deadline()
            time.sleep(_POLL_SECONDS)

    def _watch(self) -> None:
        next_status, ended_at = 0.0, None
        aggregator = next(child for child in self._children if child.process.name == AGGREGATOR)
        while True:
            now = self._clock()
            self._watch_store()
            for child in self._others():
                self._handle(child.poll())
            if now >= next_status and aggregator.running:
                next_status = now + _STATUS_SECONDS
                self._poll_status()
            if aggregator.finished is not None and self._final is None:
                raise RunFailed(f"the aggregator ended ({aggregator.finished.reason}) without saying how the job ended")
            if self._final is None:
                self._check_deadline()
            elif ended_at is None:
                ended_at = now
                if self._farewell_seconds > _FAREWELL_SECONDS:
                    self._display.phase(
                        "the job has ended: telling the institutions, also those that are away just now"
                    )
                for child in self._others():
                    child.leave()
            elif self._told(aggregator, now - ended_at):
                break
            time.sleep(_POLL_SECONDS)
        if self._final.type == ConditionType.FAILED:
            why = f": {self._final.message}" if self._final.message else ""
            raise JobFailed(f"the job failed ({self._final.reason}){why}")

    def _told(self, aggregator: Child, seconds: float) -> bool:
        """Whether all have heard, ``seconds`` after the job has ended, or are not waited for any longer.

        The aggregator ends once it has told everybody, also institutions that are away just now.
        """
        if all(child.finished is not None for child in self._others()):
            return True
        patience = _FAREWELL_SECONDS if aggregator.finished is not None else self._farewell_seconds
        return seconds > patience

    def _check_deadline(self) -> None:
        if self._limit_seconds is not None and self._clock() - self._began_at > self._limit_seconds:
            raise RunFailed(f"spec.activeDeadlineSeconds ({self._limit_seconds} s) is over; the same command resumes")

    def _poll_status(self) -> None:
        try:
            # Never through a proxy of the environment: it would ask its own loopback.
            reply = httpx.get(f"{self._url}/v1/status", timeout=2.0, trust_env=False)
            if reply.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                # It has no figures yet, but may wait for its store.
                told = StatusNotRead.model_validate_json(reply.content, extra="ignore")
                self._display.condition(lines.condition(told.conditions))
                return
            status = JobStatus.model_validate_json(reply.raise_for_status().content)
        except (httpx.HTTPError, ValidationError):
            return  # it is starting, or dying: its process tells which
        if self._final is None:
            self._final = outcome(status)
        self._display.condition(lines.condition(status.conditions))
        self._display.status(status)

    def _handle(self, ended: Exit | None) -> None:
        """Tell of a process that ended; raise when the run cannot go on without it."""
        if ended is None:
            return
        if ended.process.name == AGGREGATOR:
            self._final = self._final or last_word(ended.record)
        elif ended.process.role is Role.WORKER and ended.code != 0:
            self._poll_status()  # it may end because the job did
        if ended.code == 0 or self._final is not None:
            return
        name = ended.process.name
        why = f": {ended.error}" if ended.error else ""
        free = shutil.disk_usage(self._run.root).free
        if free < _FULL_DISK_BYTES and ended.code != EXIT_USER_ERROR:
            raise RunFailed(
                f"the disk of {self._run.shown} is full ({free / 2**20:.0f} MiB left), so {name} failed{why}; "
                "free space, and the same command resumes"
            )
        if not ended.final:
            left = ended.restarts_left - 1
            self._display.event(
                f"{name} died ({ended.reason}{why}); starting it again, {left} more {'try' if left == 1 else 'tries'}"
            )
        elif ended.process.participant is not None:
            self._lose(ended.process.participant, ended)
        else:
            raise self._error(ended)

    def _lose(self, participant: str, ended: Exit) -> None:
        """A worker has failed for good: the job goes on as long as the others are a quorum, as in a cluster."""
        self._lost[participant] = ended
        error = self._error(ended)
        spec = self._job.spec
        left = len(spec.participants) - len(self._lost)
        if left < spec.quorum:
            others = [name for name in self._lost if name != participant]
            also = f" (failed before: {', '.join(others)})" if others else ""
            needed = "" if spec.quorum == len(spec.participants) else f"; a quorum of {spec.quorum} cannot be reached"
            raise type(error)(f"{error}{also}{needed}")
        self._display.lost(participant)
        self._display.event(f"{error}; the job goes on with {left} participants (quorum {spec.quorum})")

    def _error(self, ended: Exit) -> PhotonError:
        """What is said of a process that ended for good."""
        if ended.code not in (EXIT_USER_ERROR, EXIT_STORE_REFUSES):
            return RunFailed(failure(ended, shown(self._run.log(ended.process.name))))
        message = ended.error or f"{ended.process.name} refused to start:\n{ended.log_tail}"
        return UserError(f"{ended.process.participant}: {message}" if ended.process.participant else message)


def last_word(record: Termination | None) -> Condition | None:
    """How the job ended, by the record of its aggregator: for one who did not ask in time."""
    return outcome(record.status) if record is not None and record.status is not None else None


def outcome(status: JobStatus) -> Condition | None:
    """How the job ended; None while it has not."""
    final = (ConditionType.COMPLETE, ConditionType.FAILED)
    return next((c for c in status.conditions if c.type in final and c.status == "True"), None)


def failure(ended: Exit, log: str) -> str:
    """What is said of a process that failed for good: its own message where it has one, else how its log ends."""
    tries = f" {ended.process.restarts + 1} times" if ended.process.restarts else ""
    text = f"{ended.process.name} failed{tries} ({ended.reason})"
    if ended.error:
        return f"{text}: {ended.error}; its log is {log}"
    tail = "\n".join(f"    {line}" for line in ended.log_tail.splitlines())
    return f"{text}; the last lines of {log}:\n{tail}"
