"""Where a job's bucket is: the folder of a run, a job file, or s3://bucket/prefix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from photon.api.invitation import joins
from photon.api.job import FederatedTrainingJob
from photon.api.placement import StorageSpec
from photon.api.validate import load_job
from photon.errors import UserError
from photon.local.environment import KEYS
from photon.local.object_store import EmbeddedStore
from photon.local.run_folder import RunDirectory
from photon.local.seaweedfs import HOST, Identity
from photon.store.location import storage_at
from photon.store.objects import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A job's bucket. ``run``: its folder, where it is one. ``running``: ``photon run`` holds that folder now.

    ``storage`` and ``environment`` lead another program to it: variables beside those that this one has.
    """

    store: ObjectStore
    storage: StorageSpec
    environment: Mapping[str, str] = field(default_factory=dict)
    job: FederatedTrainingJob | None = None
    run: RunDirectory | None = None
    running: bool = False


@contextmanager
def opened(job: str) -> Iterator[Opened]:
    """The bucket of ``job``: a run's folder, a job file, or s3://bucket/prefix.

    Raises:
        UserError: It is none of these, or its credentials are not there.
    """
    if job.startswith("s3://"):
        spec = storage_at(job, os.environ)
        with _with_environment(spec) as store:
            yield Opened(store=store, storage=spec)
        return
    path = Path(job)
    if "://" in job or not path.exists():
        raise UserError(
            f"{job}: there is no such folder or file; give the folder of a run (runs/demo), a job file, or the address "
            "of its storage (s3://bucket/prefix, with AWS_ENDPOINT_URL where it is not AWS)"
        )
    if path.is_file():
        document = load_job(path)
        if document.spec.storage.endpoint is None and not os.environ.get(KEYS[0]):
            raise UserError(
                f"{job} has no spec.storage.endpoint, so `photon run` keeps its bucket in the folder of the run: give "
                f"that folder (runs/{document.metadata.name}), or set {' and '.join(KEYS)} for a bucket at AWS"
            )
        with _with_environment(document.spec.storage) as store:
            yield Opened(store=store, storage=document.spec.storage, job=document)
        return
    with _of_run(RunDirectory(path.resolve())) as found:
        yield found


def _with_environment(spec: StorageSpec) -> ObjectStore:
    missing = [name for name in KEYS if not os.environ.get(name)]
    if missing:
        raise UserError(f"the credentials of the bucket are not set in the environment: {' and '.join(missing)}")
    return ObjectStore.from_environment(spec)


@contextmanager
def _of_run(run: RunDirectory) -> Iterator[Opened]:
    if not run.job.is_file():
        raise UserError(f"{run.shown} is not the folder of a run: it has no job.yaml; give one such as runs/demo")
    if joins(run.job):
        raise UserError(f"{run.shown} joined a job of another institution: its bucket is at the hub of that job")
    job = load_job(run.job)
    identity_path = run.store / "store.json"
    with ExitStack() as stack:
        try:
            stack.enter_context(run.locked())
            running = False
        except UserError:
            running = True
        if not identity_path.is_file():
            store = stack.enter_context(_with_environment(job.spec.storage))
            yield Opened(store=store, storage=job.spec.storage, job=job, run=run, running=running)
            return
        if running:
            identity = Identity.model_validate_json(identity_path.read_bytes())
            endpoint = f"http://{HOST}:{identity.ports['s3']}"
        else:
            embedded = stack.enter_context(EmbeddedStore(run.store, log_path=run.log("store")))
            identity = Identity(access_key=embedded.access_key, secret_key=embedded.secret_key, ports={})
            endpoint = embedded.endpoint
        spec = job.spec.storage.model_copy(update={"endpoint": endpoint})
        store = ObjectStore.open(spec, access_key=identity.access_key, secret_key=identity.secret_key)
        stack.enter_context(store)
        environment = dict(zip(KEYS, (identity.access_key, identity.secret_key), strict=True))
        yield Opened(store=store, storage=spec, environment=environment, job=job, run=run, running=running)
