"""``photon run`` of a job of another institution: the gate, and beside it the worker that reaches nothing else.

The worker is started once the gate says that the job runs: until the hub has admitted this institution and its policy
allows the job, no GPU is used. While the gate says Suspended, the worker is away. How the job ended is what the gate
said first, in its status or in its termination record.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from pydantic import ValidationError

from photon.api.invitation import Invitation, joins
from photon.api.join import JoinedJob, forbidden_changes
from photon.api.reading import read_bounded
from photon.api.status import Condition, ConditionType, JobStatus, JoinReason
from photon.errors import JobFailed, PhotonError, RunFailed, UserError
from photon.exit_codes import EXIT_JOB_FAILED, EXIT_USER_ERROR
from photon.files import write_atomic
from photon.launch import GATE, JoinContext, Process, joined_processes, worker_name
from photon.local import gpus
from photon.local.awake import AwakeClock
from photon.local.comparisons import make_absolute
from photon.local.environment import environment, not_proxied
from photon.local.process import Child, Exit, stop_all
from photon.local.programs import find_program
from photon.local.run import check_before_start
from photon.local.run_folder import RunDirectory, shown
from photon.local.supervisor import failure, last_word, outcome
from photon.protocol.messages import JobForWorkers
from photon.telemetry import traces
from photon.telemetry.trackers import FOLDER_VARIABLE
from photon.terminal import lines
from photon.terminal.display import Display

_POLL_SECONDS: Final = 0.2
_STATUS_SECONDS: Final = 1.0
# After the job has ended the worker hears so by its long poll, and the gate tells the hub; then the rest is stopped.
_FAREWELL_SECONDS: Final = 15.0
# A gate that was started again calls the job running while it still asks the hub.
_BEFORE_MEMBERSHIP: Final = (JoinReason.ENROLLING, JoinReason.AWAITING_APPROVAL)
_MOST_KEPT: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What this institution brings: its key's file, its policy's file where it has one, and where it started."""

    identity: Path
    policy: Path | None
    folder: Path


def run_joined(invitation: Invitation, *, run: RunDirectory, site: Site, quiet: bool) -> Condition:
    """Take part in a job until it ends; relative data folders count from ``site.folder``. Returns how it ended.

    Raises:
        UserError: Something in the document, the data or the policy has to be corrected.
        RunFailed: A process failed for good.
        JobFailed: The job did, or this institution cannot take part; the message says why.
        Stopped: A signal asked for it; everything has been ended in order.
    """
    job = _absolute(invitation.job, site.folder)
    if job.spec.join.leave:
        raise UserError("spec.join.leave is true: photon leave says so to the hub; to take part, set it to false")
    check_before_start(job)
    given = gpus.environments(job, find_program("photon-worker")).get(job.participant, {})
    os.environ.update(not_proxied(os.environ))
    with ExitStack() as stack:
        stack.enter_context(run.locked())
        _same_membership(run, job)
        footer = f"logs in {run.shown}/logs  ·  Ctrl-C stops; the same command resumes"
        display = stack.enter_context(
            Display(name=run.root.name, local_steps=0, footer=footer, events_path=run.events, quiet=quiet)
        )
        run.write_job(job)
        write_atomic(run.key_path, f"{site.identity}\n")
        return Joined(job, token=invitation.token, run=run, site=site, display=display, devices=given).run()


def _absolute(job: JoinedJob, folder: Path) -> JoinedJob:
    document = job.model_dump(mode="json", by_alias=True)
    make_absolute(document, folder)
    return JoinedJob.model_validate(document)


def _same_membership(run: RunDirectory, job: JoinedJob) -> None:
    """That the folder is not that of another job, or of this one as its hub runs it."""
    if not run.job.exists():
        return
    if not joins(run.job):
        raise UserError(f"{run.shown} is the folder of another run, such as the hub's own: choose another with --name")
    before = JoinedJob.model_validate(_read(run.job))
    changed = forbidden_changes(before.spec, job.spec)
    if changed:
        raise UserError(f"{run.shown} joined before, and {'; '.join(changed)}: choose another folder with --name")


def _read(path: Path) -> object:
    import yaml

    return yaml.safe_load(read_bounded(path, "job", _MOST_KEPT))


class Joined:
    """Starts the gate, and the worker when it is time; returns when the job is complete, or gives up with a reason."""

    def __init__(
        self,
        job: JoinedJob,
        *,
        token: str | None,
        run: RunDirectory,
        site: Site,
        display: Display,
        devices: Mapping[str, str],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._job = job
        self._run = run
        self._site = site
        self._display = display
        self._devices = devices
        self._clock = clock or AwakeClock()
        self._began_at = self._clock()
        self._final: Condition | None = None
        self._running = False
        run.gate.mkdir(mode=0o700, exist_ok=True)
        digests, self._tokens = run.make_tokens([job.participant])
        inner, relay = _free_addresses()
        self._url = f"http://{inner}"
        self._context = JoinContext(
            job_path=str(run.job),
            identity_path=str(site.identity),
            policy_path=None if site.policy is None else str(site.policy),
            tokens_path=str(digests),
            listen=inner,
            gate_url=self._url,
            relay_listen=relay,
            relay_url=f"http://{relay}",
            gate_dir=str(run.gate),
            work_dir=str(run.work / "{participant}"),
            stop_when_done=True,
            gate_program=(find_program("photon-gate"),),
            worker_program=(find_program("photon-worker"),),
        )
        folders = {FOLDER_VARIABLE: str(run.root / "trackers"), **os.environ}
        paths = {FOLDER_VARIABLE: os.path.abspath(folders[FOLDER_VARIABLE]), **traces.absolute(os.environ)}
        self._inherited = {**os.environ, **paths}
        gate = next(process for process in joined_processes(job, self._context) if process.name == GATE)
        self._gate = self._child(gate, invitation=token)
        self._worker: Child | None = None

    def run(self) -> Condition:
        """Until the job is complete. On any error, everything that was started has ended when it is raised."""
        try:
            self._display.phase(f"asking {self._job.spec.join.host} to take part")
            self._gate.start()
            write_atomic(self._run.address, f"{self._url}\n{os.getpid()}\n")
            return self._watch()
        finally:
            self._run.address.unlink(missing_ok=True)
            stop_all([*([self._worker] if self._worker is not None else []), self._gate])
            if self._display.last_status is not None:
                write_atomic(self._run.status, self._display.last_status.model_dump_json(by_alias=True) + "\n")

    def _watch(self) -> Condition:
        next_status, ended_at = 0.0, None
        while True:
            now = self._clock()
            self._handle_gate(self._gate.poll())
            if now >= next_status and self._gate.running:
                next_status = now + _STATUS_SECONDS
                self._poll_status()
            if self._worker is not None:
                self._handle_worker(self._worker.poll())
            if self._final is None:
                self._check_deadline()
                self._place_worker()
            elif ended_at is None:
                ended_at = now
                for child in self._children():
                    child.leave()
            elif all(child.finished is not None for child in self._children()) or now - ended_at > _FAREWELL_SECONDS:
                break
            time.sleep(_POLL_SECONDS)
        if self._final.type == ConditionType.FAILED:
            why = f": {self._final.message}" if self._final.message else ""
            raise JobFailed(f"the job failed ({self._final.reason}){why}")
        return self._final

    def _children(self) -> list[Child]:
        return [self._gate, *([self._worker] if self._worker is not None else [])]

    def _child(self, process: Process, *, invitation: str | None = None) -> Child:
        env = environment(process, keys=None, tokens=self._tokens, inherited=self._inherited, invitation=invitation)
        return Child(
            process,
            env=env | dict(self._devices if process.name != GATE else {}),
            cwd=self._site.folder,
            log_path=self._run.log(process.name),
            clock=self._clock,
        )

    def _place_worker(self) -> None:
        """The worker is there while the job runs, and only then."""
        if self._running and self._worker is None:
            learning = self._learning()
            if learning is None:
                return
            local = learning.learning.local
            self._display.steps(local.steps)
            name = worker_name(self._job.participant)
            plan = joined_processes(self._job, self._context, local.strategy)
            self._worker = self._child(next(process for process in plan if process.name == name))
            self._display.event("the hub and the policy of this institution allow the job: starting the worker")
            self._worker.start()
        elif not self._running and self._worker is not None:
            stop_all([self._worker])
            self._worker = None

    def _learning(self) -> JobForWorkers | None:
        token = self._tokens[self._job.participant]
        try:
            reply = httpx.get(
                f"{self._url}/v1/job", headers={"Authorization": f"Bearer {token}"}, timeout=5.0, trust_env=False
            )
            return JobForWorkers.model_validate_json(reply.raise_for_status().content)
        except (httpx.HTTPError, ValidationError):
            return None  # it is asked again; its status or its process says what is wrong

    def _poll_status(self) -> None:
        try:
            reply = httpx.get(f"{self._url}/v1/status", timeout=2.0, trust_env=False)
            status = JobStatus.model_validate_json(reply.raise_for_status().content)
        except (httpx.HTTPError, ValidationError):
            return
        if self._final is None:
            self._final = outcome(status)
        true = {condition.type: condition.reason for condition in status.conditions if condition.status == "True"}
        if ConditionType.SUSPENDED in true:
            self._running = False
        elif true.get(ConditionType.RUNNING, _BEFORE_MEMBERSHIP[0]) not in _BEFORE_MEMBERSHIP:
            self._running = True
        self._display.condition(lines.condition(status.conditions))
        self._display.status(status)

    def _check_deadline(self) -> None:
        limit = self._job.spec.active_deadline_seconds
        if limit is not None and self._clock() - self._began_at > limit:
            raise RunFailed(f"spec.activeDeadlineSeconds ({limit} s) is over; the same command resumes")

    def _handle_gate(self, ended: Exit | None) -> None:
        if ended is None:
            return
        self._final = self._final or last_word(ended.record)
        if self._final is not None:
            return
        if ended.code == 0:
            raise RunFailed(f"the gate ended ({ended.reason}) without saying how the job ended")
        if ended.code == EXIT_JOB_FAILED:
            raise JobFailed(f"the job failed: {ended.error or ended.log_tail}")
        self._tell(ended)

    def _handle_worker(self, ended: Exit | None) -> None:
        if ended is None:
            return
        if ended.code != 0:
            self._poll_status()  # it may end because the job did
        if ended.code != 0 and self._final is None:
            self._tell(ended)

    def _tell(self, ended: Exit) -> None:
        """Of a process that is started again; raise for one that is not."""
        if ended.final:
            raise self._error(ended)
        left, why = ended.restarts_left - 1, f": {ended.error}" if ended.error else ""
        again = f"starting it again, {left} more {'try' if left == 1 else 'tries'}"
        self._display.event(f"{ended.process.name} died ({ended.reason}{why}); {again}")

    def _error(self, ended: Exit) -> PhotonError:
        if ended.code != EXIT_USER_ERROR:
            return RunFailed(failure(ended, shown(self._run.log(ended.process.name))))
        return UserError(ended.error or f"{ended.process.name} refused to start:\n{ended.log_tail}")


def _free_addresses() -> tuple[str, str]:
    """Two free addresses of the loopback."""
    with socket.socket() as first, socket.socket() as second:
        for held in (first, second):
            held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{first.getsockname()[1]}", f"127.0.0.1:{second.getsockname()[1]}"
