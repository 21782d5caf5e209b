"""``photon rollback JOB ROUND``: make the model of an earlier round the one that the job goes on from.

It writes one commit, at the key of the next round and created if absent: a live aggregator finds it within seconds, one
that is started later begins with it. So no aggregator need be asked, and none need be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from photon.api.job import FederatedTrainingJob
from photon.api.placement import RetentionSpec
from photon.cli.places import opened
from photon.errors import PhotonError, UserError
from photon.local import artifacts
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.records import Commit, Plan, RollbackReason
from photon.protocol.rollback import rollback_commit
from photon.store import keys
from photon.store.chain import commit_of, last_round
from photon.store.objects import ObjectStore

_ATTEMPTS: Final = 5
_LONGEST_REASON: Final = 1000


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
