"""Where the job stands, read from the bucket: the only durable state, so a restart begins here and loses nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from photon.api.learning import LearningJob
from photon.protocol.records import Closing, Commit, Evaluation, HeldOutResult, Plan, RoundLog, UpdateManifest
from photon.store import keys
from photon.store.chain import last_round
from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from photon_aggregator import bucket, closings, rollback
from photon_aggregator.bucket import RecordError
from photon_aggregator.events import Head

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """All commits (by round, from 0), their logs and evaluations, and whether the next round was planned."""

    commits: tuple[Head, ...]
    logs: dict[int, RoundLog]
    evaluations: dict[int, dict[str, HeldOutResult]]
    planned: bool
    first_planned_at: float | None

    @property
    def head(self) -> Head:
        return self.commits[-1]


def stored_job(store: ObjectStore) -> tuple[LearningJob, str] | None:
    """job.json and its digest, once ``photon-worker init`` has written it and the first model; None before."""
    if store.head(keys.commit(0)) is None:
        return None
    found = bucket.find(store, keys.JOB, LearningJob)
    if found is None:
        raise RecordError(f"{store.uri(keys.JOB)} is missing although round 0 is committed")
    return found[0], found[1]


def recover(store: ObjectStore, job: str, pool: Executor) -> Recovery:
    """Read all commits, verify their chain, and gather what else is needed to go on.

    Raises:
        RecordError: A record is damaged, belongs to another job, or does not follow from the one before it.
        StoreError: The store does not answer.
    """
    last = last_round(store)
    rounds = range(last + 1)
    commits = tuple(pool.map(lambda r: _commit(store, r), rounds))
    verify_chain(commits, job, store)
    logs = {r: log for r, log in zip(rounds, pool.map(lambda r: log_of(store, r), rounds), strict=True) if log}
    found = pool.map(lambda r: evaluations_of(store, commits[r]), rounds)
    evaluations = {r: results for r, results in zip(rounds, found, strict=True) if results}
    first = store.head(keys.plan(1))
    return Recovery(
        commits=commits,
        logs=logs,
        evaluations=evaluations,
        planned=store.head(keys.plan(last + 1)) is not None,
        first_planned_at=first.last_modified.timestamp() if first is not None else None,
    )


def verify_chain(commits: Sequence[Head], job: str, store: ObjectStore) -> None:
    """Raise RecordError unless each commit names the digest of the one before it, its own round, and this job."""
    previous: str | None = None
    for number, head in enumerate(commits):
        where = store.uri(keys.commit(number))
        if head.commit.job != job:
            raise RecordError(f"{where} belongs to another job ({head.commit.job[:12]}, this one is {job[:12]})")
        if head.commit.round != number:
            raise RecordError(f"{where} says that it is of round {head.commit.round}")
        if head.commit.previous != previous:
            raise RecordError(f"{where} does not follow the commit before it: the chain of commits is broken")
        if head.commit.rollback is not None and head.commit.rollback.to < number:
            rollback.check(store, head.commit, commits[head.commit.rollback.to])
        previous = head.digest


def evaluations_of(store: ObjectStore, head: Head, known: frozenset[str] = frozenset()) -> dict[str, HeldOutResult]:
    """Results for the model of ``head``, by participant, but those of ``known``."""
    results: dict[str, HeldOutResult] = {}
    for info in store.list(f"{keys.evaluations_folder(head.round)}/"):
        name = info.key.rsplit("/", 1)[-1].removesuffix(".json")
        if name in known:
            continue
        try:
            evaluation, _, _ = bucket.read(store, info.key, Evaluation)
        except RecordError as error:
            # An earlier release let any number in. What no longer is an evaluation counts as none.
            logger.warning("not counted: %s", error)
            continue
        if evaluation.commit == head.digest:
            results[name] = evaluation.result
    return results


def manifests_of(store: ObjectStore, plan: Plan, known: frozenset[str]) -> list[tuple[UpdateManifest, str]]:
    """Manifests (and their digests) of the cohort in the bucket, but those of ``known``: each was admitted once."""
    unknown = [name for name in plan.cohort if name not in known]
    found = [_manifest(store, plan.round, name) for name in unknown]
    return [record for record in found if record is not None]


def _manifest(store: ObjectStore, round_number: int, participant: str) -> tuple[UpdateManifest, str] | None:
    try:
        found = bucket.find(store, keys.manifest(round_number, participant), UpdateManifest)
    except RecordError as error:
        # An earlier release let numbers in that are refused today: such an update does not count.
        logger.warning("not counted: %s", error)
        return None
    return (found[0], found[1]) if found is not None else None


def closing_of(store: ObjectStore, plan: Plan, plan_digest: str) -> Closing | None:
    """Which updates the round of ``plan`` takes; None while that is open."""
    link = closings.last(store, plan, plan_digest)
    return link.closing if link is not None else None


def commit_of(store: ObjectStore, round_number: int) -> Head | None:
    """The commit of a round, or None."""
    found = bucket.find(store, keys.commit(round_number), Commit)
    return Head(commit=found[0], digest=found[1]) if found is not None else None


def _commit(store: ObjectStore, round_number: int) -> Head:
    try:
        commit, digest, _ = bucket.read(store, keys.commit(round_number), Commit)
    except NotFound as error:
        raise RecordError(f"a commit is missing in the middle of the chain: {error}") from error
    return Head(commit=commit, digest=digest)


def log_of(store: ObjectStore, round_number: int) -> RoundLog | None:
    """The log of a round; None when there is none."""
    try:
        found = bucket.find(store, keys.round_log(round_number), RoundLog)
    except RecordError:
        # A log is for people and not part of the chain: one that cannot be read is as good as none.
        return None
    return found[0] if found is not None else None
