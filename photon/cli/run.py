"""``photon run``: a job on this machine, from its YAML to a model. The launcher of the plan in ``photon.launch``.

Store, aggregator and workers are the programs that a cluster runs, as processes. Whatever happens, they end with this
process; started again, the job goes on where its bucket says it was.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from photon.api.job import FederatedTrainingJob
from photon.api.status import Condition, ConditionType, JobStatus
from photon.api.variants import with_storage
from photon.cli import outcome
from photon.cli.children import USER_MISTAKE, Child, Exit, stop_all
from photon.cli.display import Display
from photon.cli.errors import RunFailed, Stopped, UserMistake
from photon.cli.programs import find_program
from photon.cli.rundir import RunDirectory, shown, write_atomic
from photon.launch import AGGREGATOR, INIT, LaunchContext, Process, SecretSource, processes
from photon.store.embedded import EmbeddedStore
from photon.store.errors import AccessDenied, BucketMissing, Unreachable
from photon.store.objects import ObjectStore
from photon.telemetry import traces
from photon.telemetry.trackers import FOLDER_VARIABLE, TRACKERS_VARIABLE

_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# What a user sets for all programs of a run.
_PASSED_ON: Final = (TRACKERS_VARIABLE, FOLDER_VARIABLE, traces.TRACES_VARIABLE)
_POLL_SECONDS: Final = 0.2
_STATUS_SECONDS: Final = 1.0
# After the job has ended, workers hear so by their long poll; then the rest is stopped.
_FAREWELL_SECONDS: Final = 15.0
# With less than this left, no process can be expected to live, and starting it again would only hide why.
_FULL_DISK_BYTES: Final = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Credentials of the object store."""

    access_key: str
    secret_key: str


def run_job(job: FederatedTrainingJob, *, run: RunDirectory, folder: Path, quiet: bool) -> dict[str, Any]:
    """Run ``job`` to its end; relative model paths count from ``folder``. Returns the summary.

    Raises:
        UserMistake: Something in the job, its data or its storage has to be mended.
        RunFailed: A process failed for good, or the job did.
        Stopped: A signal asked for it; everything has been ended in order.
    """
    check_before_start(job)
    with ExitStack() as stack:
        stack.enter_context(run.locked())
        footer = f"logs in {run.shown}/logs  ·  Ctrl-C stops; the same command resumes"
        display = stack.enter_context(
            Display(
                name=run.root.name,
                local_steps=job.spec.local.steps,
                footer=footer,
                events_path=run.events,
                quiet=quiet,
            )
        )
        embedded = job.spec.storage.endpoint is None
        display.phase("starting the object store" if embedded else "checking the object store")
        job, keys = stack.enter_context(_storage(job, run))
        store = ObjectStore.open(job.spec.storage, access_key=keys.access_key, secret_key=keys.secret_key)
        _check_store(store, create_bucket=embedded)
        run.write_job(job)
        try:
            _Supervisor(job, run=run, folder=folder, keys=keys, display=display).run()
        except Stopped:
            # The store is still there: what was reached can be looked at even if nobody resumes.
            outcome.write_figures(run, outcome.export_history(store, run, job), with_checkpoint=False)
            raise
        display.phase("fetching the model")
        history = outcome.export_history(store, run, job)
        outcome.download_checkpoint(store, run, history)
        return outcome.write_figures(run, history, with_checkpoint=True)


def check_before_start(job: FederatedTrainingJob) -> None:
    """Mistakes that can be seen before anything is started.

    Raises:
        UserMistake: With the field and the fix.
    """
    if job.spec.suspend:
        raise UserMistake("spec.suspend is true: nothing is to run; set it to false")
    for i, participant in enumerate(job.spec.participants):
        if participant.worker is None:
            continue
        data = participant.worker.data
        fields = (
            [("uri", data.uri)]
            if data.uri
            else [(f"sources[{n}].uri", s.uri) for n, s in enumerate(data.sources or ())]
        )
        for field, uri in fields:
            _check_data(f"spec.participants[{i}].worker.data.{field} ({participant.name})", uri)


def _check_data(field: str, uri: str) -> None:
    if "://" in uri:
        return
    path = Path(uri)
    if not path.exists():
        raise UserMistake(f"{field}: there is no folder {shown(path)}; make it with `photon data prepare`")
    if not (path / "index.json").is_file():
        raise UserMistake(
            f"{field}: {shown(path)} has no index.json, so it is not prepared data; make it with `photon data prepare`"
        )


@contextmanager
def _storage(job: FederatedTrainingJob, run: RunDirectory) -> Iterator[tuple[FederatedTrainingJob, Keys]]:
    """The job with an endpoint, and its credentials: those of the environment, or of a store that lives in the run."""
    if job.spec.storage.endpoint is not None:
        missing = [name for name in _KEYS if not os.environ.get(name)]
        if missing:
            raise UserMistake(
                f"spec.storage.endpoint is {job.spec.storage.endpoint}, but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set in the environment"
            )
        yield job, Keys(access_key=os.environ[_KEYS[0]], secret_key=os.environ[_KEYS[1]])
        return
    with EmbeddedStore(run.store, log_path=run.log("store")) as store:
        yield (
            with_storage(job, endpoint=store.endpoint),
            Keys(access_key=store.access_key, secret_key=store.secret_key),
        )


def _check_store(store: ObjectStore, *, create_bucket: bool) -> None:
    try:
        store.check(create_bucket=create_bucket)
    except (Unreachable, AccessDenied, BucketMissing) as error:
        raise UserMistake(str(error)) from error


class _Supervisor:
    """Starts the plan, watches it, and gives up with a reason or returns when the job is complete."""

    def __init__(
        self, job: FederatedTrainingJob, *, run: RunDirectory, folder: Path, keys: Keys, display: Display
    ) -> None:
        self._display = display
        self._run = run
        self._limit_seconds = job.spec.active_deadline_seconds
        self._began_at = time.monotonic()
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        digests_path, tokens = run.make_tokens([p.name for p in job.spec.participants])
        context = LaunchContext(
            job_path=str(run.job),
            tokens_path=str(digests_path),
            listen=f"127.0.0.1:{port}",
            aggregator_url=self._url,
            work_dir=str(run.work / "{participant}"),
            aggregator_program=(find_program("photon-aggregator"),),
            worker_program=(find_program("photon-worker"),),
            stop_when_done=True,
        )
        # The programs run in the folder of the job file; what the user typed is relative to where photon run is.
        folders = {FOLDER_VARIABLE: str(run.root / "trackers"), **os.environ}
        paths = {FOLDER_VARIABLE: os.path.abspath(folders[FOLDER_VARIABLE]), **traces.absolute(os.environ)}
        self._children = [
            Child(
                process,
                env=environment(
                    process,
                    keys=keys,
                    tokens=tokens,
                    inherited={**os.environ, **paths},
                ),
                cwd=folder,
                log_path=run.log(process.name),
            )
            for process in processes(job, context)
        ]

    def run(self) -> None:
        """Until the job is complete. On any error, everything that was started has ended when it is raised."""
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

    def _others(self) -> list[Child]:
        return [child for child in self._children if child.process.name != INIT]

    def _initialise(self) -> None:
        first = next(child for child in self._children if child.process.name == INIT)
        first.start()
        while first.finished is None:
            self._handle(first.poll())
            self._check_deadline()
            time.sleep(_POLL_SECONDS)

    def _watch(self) -> None:
        next_status, ended_at = 0.0, None
        aggregator = next(child for child in self._children if child.process.name == AGGREGATOR)
        while True:
            now = time.monotonic()
            for child in self._others():
                self._handle(child.poll())
            if now >= next_status and aggregator.running:
                next_status = now + _STATUS_SECONDS
                self._poll_status()
            if ended_at is None and (aggregator.finished is not None or self._ended() is not None):
                ended_at = now
            if ended_at is not None:
                all_done = all(child.finished is not None for child in self._others())
                if all_done or now - ended_at > _FAREWELL_SECONDS:
                    break
            else:
                self._check_deadline()
            time.sleep(_POLL_SECONDS)
        ended = self._ended()
        if ended is not None and ended.type == ConditionType.FAILED:
            raise RunFailed(f"the job failed: {ended.message or ended.reason}")

    def _check_deadline(self) -> None:
        if self._limit_seconds is not None and time.monotonic() - self._began_at > self._limit_seconds:
            raise RunFailed(f"spec.activeDeadlineSeconds ({self._limit_seconds} s) is over; the same command resumes")

    def _poll_status(self) -> None:
        try:
            reply = httpx.get(f"{self._url}/v1/status", timeout=2.0)
            reply.raise_for_status()
            self._display.status(JobStatus.model_validate_json(reply.content))
        except httpx.HTTPError:
            return  # it is starting, or dying: its process tells which

    def _ended(self) -> Condition | None:
        status = self._display.last_status
        if status is None:
            return None
        final = (ConditionType.COMPLETE, ConditionType.FAILED)
        return next((c for c in status.conditions if c.type in final and c.status == "True"), None)

    def _handle(self, ended: Exit | None) -> None:
        """Tell of a process that ended; raise when the run cannot go on without it."""
        if ended is None or ended.code == 0:
            return
        name = ended.process.name
        if ended.code == USER_MISTAKE:
            message = ended.error or f"{name} refused to start:\n{ended.log_tail}"
            raise UserMistake(f"{ended.process.participant}: {message}" if ended.process.participant else message)
        why = f": {ended.error}" if ended.error else ""
        free = shutil.disk_usage(self._run.root).free
        if free < _FULL_DISK_BYTES:
            raise RunFailed(
                f"the disk of {self._run.shown} is full ({free / 2**20:.0f} MiB left), so {name} failed{why}; "
                "free space, and the same command resumes"
            )
        if not ended.final:
            left = ended.restarts_left - 1
            self._display.event(
                f"{name} died ({ended.reason}{why}); starting it again, {left} more {'try' if left == 1 else 'tries'}"
            )
            return
        raise RunFailed(failure(ended, shown(self._run.log(name))))


def failure(ended: Exit, log: str) -> str:
    """What is said of a process that failed for good: its own message where it has one, else how its log ends."""
    tries = f" {ended.process.restarts + 1} times" if ended.process.restarts else ""
    text = f"{ended.process.name} failed{tries} ({ended.reason})"
    if ended.error:
        return f"{text}: {ended.error}; its log is {log}"
    tail = "\n".join(f"    {line}" for line in ended.log_tail.splitlines())
    return f"{text}; the last lines of {log}:\n{tail}"


def environment(
    process: Process, *, keys: Keys, tokens: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment of ``process``: the user's, less all credentials, plus the secrets that the plan grants it."""
    env = {k: v for k, v in inherited.items() if k in _PASSED_ON or not k.startswith(("AWS_", "PHOTON_"))}
    env.update(process.env, PYTHONUNBUFFERED="1")
    for secret in process.secret_env:
        match secret.source:
            case SecretSource.STORAGE:
                env[secret.name] = keys.access_key if secret.name == _KEYS[0] else keys.secret_key
            case SecretSource.TOKEN:
                assert process.participant is not None, "only a participant's worker has a token"
                env[secret.name] = tokens[process.participant]
            case SecretSource.DATA:
                if secret.name in inherited:
                    env[secret.name] = inherited[secret.name]
    return env


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
