"""``photon run``: a job on this machine, from its YAML to a model. The launcher of the plan in ``photon.launch``.

Store, aggregator and workers are the programs that a cluster runs, as processes. Whatever happens, they end with this
process; started again, the job goes on where its bucket says it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photon.api.invitation import joins
from photon.api.job import FederatedTrainingJob
from photon.api.join import JoinedJob
from photon.errors import JobFailed, RunFailed, Stopped, UserError
from photon.launch import RESTARTS
from photon.local import artifacts, gpus
from photon.local.comparisons import with_storage
from photon.local.environment import KEYS, SESSION_TOKEN, Keys, not_proxied
from photon.local.object_store import EmbeddedStore
from photon.local.programs import find_program
from photon.local.run_folder import RunDirectory, shown
from photon.local.supervisor import Supervisor
from photon.store.errors import Refused, Unreachable
from photon.store.objects import ObjectStore
from photon.terminal.display import Display

if TYPE_CHECKING:
    from photon.local.border import Entrance
    from photon.local.door import DoorOptions


def run_job(
    job: FederatedTrainingJob,
    *,
    run: RunDirectory,
    folder: Path,
    quiet: bool,
    replay: Path | None = None,
    door: DoorOptions | None = None,
) -> dict[str, Any]:
    """Run ``job`` to its end; relative model paths count from ``folder``. Returns the summary.

    ``replay``: file with the membership of another job, which this one repeats. ``door``: where participants of other
    institutions reach it; None: as the run was told before, if it was.

    Raises:
        UserError: Something in the job, its data or its storage has to be corrected.
        RunFailed: A process failed for good.
        JobFailed: The job did.
        Stopped: A signal asked for it; everything has been ended in order.
    """
    check_before_start(job)
    given = gpus.environments(job, find_program("photon-worker"))
    os.environ.update(not_proxied(os.environ))
    with ExitStack() as stack:
        stack.enter_context(run.locked())
        if joins(run.job):
            raise UserError(f"{run.shown} joined a job of another institution: choose another folder with --name")
        entrance = _entrance(job, run, door)
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
        job, keys, watch_store = stack.enter_context(_storage(job, run, display))
        store = stack.enter_context(_open_store(job, keys, create_bucket=embedded))
        run.write_job(job)
        opened = None if entrance is None else stack.enter_context(entrance.opened(job.spec.storage.endpoint or ""))
        _say_door(job, entrance, display)
        try:
            Supervisor(
                job,
                run=run,
                folder=folder,
                keys=keys,
                display=display,
                watch_store=watch_store,
                gpus=given,
                replay=replay,
                door=opened,
            ).run()
        except Stopped:
            artifacts.leave_behind(store, run, job)
            raise
        except (JobFailed, RunFailed) as error:
            reached = artifacts.leave_behind(store, run, job)
            raise type(error)(f"{error}\n{reached}" if reached else str(error)) from error
        display.phase("fetching the model")
        history = artifacts.export_history(store, run, job)
        artifacts.download_checkpoint(store, run, history)
        return artifacts.write_figures(run, history, with_checkpoint=True)


def _entrance(job: FederatedTrainingJob, run: RunDirectory, options: DoorOptions | None) -> Entrance | None:
    """What participants of other institutions need, ready to be opened; None where they cannot come in."""
    if not any(participant.remote is not None for participant in job.spec.participants):
        if options is not None:
            raise UserError("--door is for participants of other institutions, and the job has none (remote: {})")
        return None
    from photon.local.border import entrance  # needs `cryptography`, which other runs do without

    return entrance(job, run, options)


def _say_door(job: FederatedTrainingJob, entrance: Entrance | None, display: Display) -> None:
    remote = [participant.name for participant in job.spec.participants if participant.remote is not None]
    if entrance is not None:
        display.event(f"open for {', '.join(remote)} at {entrance.url}; hub's key {entrance.fingerprint}")
    elif remote:
        display.event(f"{', '.join(remote)} cannot join: --door HOST:PORT opens an address for other institutions")


def check_before_start(job: FederatedTrainingJob | JoinedJob) -> None:
    """Mistakes that can be seen before anything is started.

    Raises:
        UserError: With the field and the fix.
    """
    if job.spec.suspend:
        raise UserError("spec.suspend is true: nothing is to run; set it to false")
    for i, participant in enumerate(job.spec.participants):
        if participant.worker is None:
            continue
        if participant.worker.nodes > 1:
            raise UserError(
                f"spec.participants[{i}].worker.nodes ({participant.name}): photon run is one machine, and the nodes "
                "would wait for each other; make it 1"
            )
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
        raise UserError(f"{field}: there is no folder {shown(path)}; make it with `photon data prepare`")
    if not (path / "index.json").is_file():
        raise UserError(
            f"{field}: {shown(path)} has no index.json, so it is not prepared data; make it with `photon data prepare`"
        )


@contextmanager
def _storage(
    job: FederatedTrainingJob, run: RunDirectory, display: Display
) -> Iterator[tuple[FederatedTrainingJob, Keys, Callable[[], None]]]:
    """The job with an endpoint, and its credentials: those of the environment, or of a store that lives in the run.

    The third is to be called from time to time: it tells of that store's restarts, and raises RunFailed when there are
    no more.
    """
    if job.spec.storage.endpoint is not None:
        missing = [name for name in KEYS if not os.environ.get(name)]
        if missing:
            raise UserError(
                f"spec.storage.endpoint is {job.spec.storage.endpoint}, but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set in the environment"
            )
        token = os.environ.get(SESSION_TOKEN)
        keys = Keys(access_key=os.environ[KEYS[0]], secret_key=os.environ[KEYS[1]], session_token=token)
        yield job, keys, lambda: None
        return

    def watch() -> None:
        for line in store.news():
            display.event(line)
        if store.failure is not None:
            raise RunFailed(f"{store.failure}\nits log is {shown(run.log('store'))}; the same command resumes")

    with EmbeddedStore(run.store, log_path=run.log("store"), restarts=RESTARTS) as store:
        keys = Keys(access_key=store.access_key, secret_key=store.secret_key)
        yield with_storage(job, endpoint=store.endpoint), keys, watch


def _open_store(job: FederatedTrainingJob, keys: Keys, *, create_bucket: bool) -> ObjectStore:
    try:
        store = ObjectStore.open(
            job.spec.storage,
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.session_token,
        )
        store.check(create_bucket=create_bucket)
    except (Unreachable, Refused) as error:
        raise UserError(str(error)) from error
    return store
