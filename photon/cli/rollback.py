"""``photon rollback JOB ROUND``: make the model of an earlier round the one that the job goes on from.

It writes one commit, at the key of the next round and created if absent: a live aggregator finds it within seconds, one
that is started later begins with it. So no aggregator need be asked, and none need be there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from photon.api.job import FederatedTrainingJob
from photon.api.placement import RetentionSpec, StorageSpec
from photon.api.validate import load_job
from photon.errors import PhotonError, UserError
from photon.local import artifacts
from photon.local.environment import KEYS
from photon.local.object_store import EmbeddedStore
from photon.local.run_folder import RunDirectory
from photon.local.seaweedfs import HOST, Identity
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.records import Commit, Plan, RollbackReason
from photon.protocol.rollback import rollback_commit
from photon.store import keys
from photon.store.chain import commit_of, last_round
from photon.store.objects import ObjectStore

_ATTEMPTS: Final = 5
_LONGEST_REASON: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A job's bucket. ``run``: its folder, where it is one. ``running``: ``photon run`` holds that folder now."""

    store: ObjectStore
    job: FederatedTrainingJob | None = None
    run: RunDirectory | None = None
    running: bool = False


def roll_back(job: str, to: int, *, quarantine: Sequence[str], reason: str) -> list[str]:
    """Write the commit; returns what to tell the user.

    Raises:
        UserError: The round cannot be returned to; the message says why, and what can be done.
        PhotonError: Others committed again and again meanwhile.
        StoreError: The store does not answer.
    """
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise UserError(f"--reason: at most {_LONGEST_REASON} printable characters on one line")
    with opened(job) as found:
        found.store.check()
        retention = found.job.spec.storage.retention if found.job is not None else RetentionSpec()
        commit = write(found.store, to, quarantine=quarantine, reason=reason, retention=retention)
        lines = [f"round {commit.round} is the model of round {to} again (commit {digest(commit)[:12]})"]
        if quarantine:
            until = max(commit.quarantine.values())
            lines.append(f"left out up to round {until}: {', '.join(commit.quarantine)}")
            lines += _fewer_than_quorum(found.job, commit)
        if found.job is not None and commit.round >= found.job.spec.rounds:
            lines.append(f"spec.rounds is {found.job.spec.rounds}: raise it, or the job ends here")
        if found.running:
            lines.append("its aggregator takes it up within seconds; the round under way ends without a result")
        elif found.run is not None and found.job is not None:
            artifacts.export_history(found.store, found.run, found.job)
            lines.append("`photon run` goes on from there")
        else:
            lines.append("a live aggregator takes it up within seconds, one that is started later begins there")
    return lines


def _fewer_than_quorum(job: FederatedTrainingJob | None, commit: Commit) -> list[str]:
    """That rounds will go on without their quorum, because it was asked for."""
    if job is None:
        return []
    here = [name for name in (p.name for p in job.spec.participants) if name not in commit.quarantine]
    if len(here) >= job.spec.quorum:
        return []
    return [f"these rounds need the updates of {', '.join(here)} instead of their quorum of {job.spec.quorum}"]


def write(store: ObjectStore, to: int, *, quarantine: Sequence[str], reason: str, retention: RetentionSpec) -> Commit:
    """Create the rollback after the last commit, whichever that is by then.

    Raises:
        UserError, PhotonError, StoreError: As ``roll_back``.
    """
    for _ in range(_ATTEMPTS):
        if store.head(keys.commit(0)) is None:
            raise UserError(f"there is no job at {store.uri('')}: it has no {keys.commit(0)}")
        head, head_digest = commit_of(store, last_round(store))
        if to > head.round:
            raise UserError(f"round {to} does not exist: the last committed round is {head.round}")
        target, target_digest = commit_of(store, to)
        if target.folder == head.folder:
            raise UserError(f"the model of round {to} is that of the last committed round ({head.round}) already")
        _check_kept(store, target, head, retention)
        _check_names(store, head, quarantine)
        record = rollback_commit(
            head,
            head_digest,
            target,
            target_digest,
            reason=RollbackReason.OPERATOR,
            message=reason,
            quarantine=quarantine,
        )
        key, data = keys.commit(record.round), canonical_json(record)
        if store.create(key, data) or store.get(key) == data:
            return record
    raise PhotonError(f"{_ATTEMPTS} rounds were committed while the rollback was being written; try again")


def _check_kept(store: ObjectStore, target: Commit, head: Commit, retention: RetentionSpec) -> None:
    """Whether the model and the outer state are there, and stay there."""
    keep, every = retention.keep_last_rounds, retention.keep_every_rounds
    passing = keep is not None and target.round <= head.round - keep and (not every or target.round % every)
    sizes = {info.key: info.size_bytes for info in store.list(f"{target.folder}/")}
    files = [*target.files, *target.state]
    if passing or any(sizes.get(f"{target.folder}/{file.name}") != file.size_bytes for file in files):
        raise UserError(
            f"the model of round {target.round} is no longer in the bucket: spec.storage.retention keeps models of the "
            f"last {keep} rounds; choose a later round, or start a new job from a checkpoint (model.initFrom)"
            if keep is not None
            else f"the model of round {target.round} is not in the bucket ({store.uri(target.folder)})"
        )


def _check_names(store: ObjectStore, head: Commit, quarantine: Sequence[str]) -> None:
    """Whether the job has these participants, and others."""
    if not quarantine:
        return
    # The next round may be planned already, with participants that the job did not have before.
    planned = next(r for r in range(head.round + 1, 0, -1) if store.head(keys.plan(r)) is not None)
    known = Plan.model_validate_json(store.get(keys.plan(planned))).participants
    unknown = sorted(set(quarantine) - set(known))
    if unknown:
        raise UserError(f"--quarantine {unknown[0]}: the job has no such participant; it has {', '.join(known)}")
    if set(known) <= set(quarantine):
        raise UserError("--quarantine: every participant would be left out, and no one would train")


@contextmanager
def opened(job: str) -> Iterator[Opened]:
    """The bucket of ``job``: a run's folder, a job file, or s3://bucket/prefix.

    Raises:
        UserError: It is none of these, or its credentials are not there.
    """
    if job.startswith("s3://"):
        parts = urlsplit(job)
        spec = StorageSpec(
            bucket=parts.netloc,
            prefix=parts.path.strip("/"),
            endpoint=os.environ.get("AWS_ENDPOINT_URL") or None,
            region=os.environ.get("AWS_REGION") or "us-east-1",
        )
        with _with_environment(spec) as store:
            yield Opened(store=store)
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
            yield Opened(store=store, job=document)
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
            yield Opened(store=store, job=job, run=run, running=running)
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
        yield Opened(store=store, job=job, run=run, running=running)
