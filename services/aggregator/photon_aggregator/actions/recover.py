"""Where the job stands, read from the bucket: the only durable state, so a restart begins here and loses nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final

from photon.api.learning import LearningJob
from photon.protocol.records import Closing, Commit, End, Evaluation, HeldOutResult, Plan, RoundLog, UpdateManifest
from photon.store import keys
from photon.store.chain import last_round
from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from photon_aggregator.actions import closings, plans, rollback
from photon_aggregator.bucket import records
from photon_aggregator.bucket import summary as summaries
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.bucket.summary import Summary
from photon_aggregator.bucket.totals import Totals
from photon_aggregator.rounds.events import Head
from photon_aggregator.rounds.losses import PastLosses
from photon_aggregator.rounds.rollback import TRAIL
from photon_aggregator.rounds.state import JobState, RoundSettings
from photon_aggregator.rounds.stopping import bounded

logger = logging.getLogger(__name__)

# The newest rounds, whose commits are read before work goes on: all that deciding looks back to.
RECENT_ROUNDS: Final = TRAIL
# Their logs are for people: those of the last rounds now, so that the pace is known, and the others in the background.
RECENT_LOGS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What is needed to go on, and no more of it after many rounds than after few.

    ``recent`` are the last commits by round, with their ``logs`` but those of ``unlogged``; ``totals`` say what the
    rounds before ``counted_before`` add up to, but those of ``uncounted``. ``past_losses`` and ``evaluations`` are what
    the stop rules need.
    """

    recent: tuple[Head, ...]
    logs: dict[int, RoundLog]
    totals: Totals
    counted_before: int
    uncounted: range
    unlogged: range
    evaluations: dict[int, dict[str, HeldOutResult]]
    past_losses: PastLosses
    baseline: dict[str, HeldOutResult]
    planned: bool
    end: End | None
    first_planned_at: float | None

    @property
    def head(self) -> Head:
        return self.recent[-1]


def stored_job(store: ObjectStore) -> tuple[LearningJob, str] | None:
    """job.json and its digest, once ``photon-worker init`` has written it and the first model; None before."""
    if store.head(keys.commit(0)) is None:
        return None
    found = records.find(store, keys.JOB, LearningJob)
    if found is None:
        raise RecordError(f"{store.uri(keys.JOB)} is missing although round 0 is committed")
    return found[0], found[1]


def recover(store: ObjectStore, job: str, settings: RoundSettings, pool: Executor) -> Recovery:
    """Read the last rounds and what the summary says of those before. What is older is for ``past`` to read, later.

    Raises:
        RecordError: A record is damaged, belongs to another job, or does not follow from the one before it.
        StoreError: The store does not answer.
    """
    kept = summaries.find(store)
    last = last_round(store, known=0 if kept is None else kept.round)
    rounds = range(max(0, last - RECENT_ROUNDS + 1), last + 1)
    recent = tuple(pool.map(lambda r: read_commit(store, r), rounds))
    verify_chain(recent, job, store)
    summary = _of_this_chain(store, kept, recent)
    totals = summary.totals() if summary is not None else Totals()
    first = rounds[0]
    counted = summary.round if summary is not None else 0
    logged = range(max(first, min(counted, last - RECENT_LOGS + 1)), last + 1)
    logs = {r: log for r, log in zip(logged, pool.map(lambda r: log_of(store, r), logged), strict=True) if log}
    totals.complete = counted >= first
    evaluations, past_losses = _losses(store, settings, recent, summary, pool)
    plan = plans.last(store, last + 1)
    planned_first = store.head(keys.plan(1))
    return Recovery(
        recent=recent,
        logs=logs,
        totals=totals,
        counted_before=max(counted, first),
        uncounted=range(counted, first),
        unlogged=range(first, logged[0]),
        evaluations=evaluations,
        past_losses=past_losses,
        planned=plan is not None and plan.end is None,
        end=plan.end if plan is not None else _earlier_end(store, recent[-1]),
        baseline=_baseline(store, settings, recent, evaluations, pool),
        first_planned_at=planned_first.last_modified.timestamp() if planned_first is not None else None,
    )


def _earlier_end(store: ObjectStore, head: Head) -> End | None:
    """The end that an earlier release wrote beside the commit."""
    found = records.find(store, keys.end(head.round), End)
    return found[0] if found is not None and found[0].commit == head.digest else None


def _of_this_chain(store: ObjectStore, found: Summary | None, recent: Sequence[Head]) -> Summary | None:
    """The summary, if it is one of this chain."""
    if found is None or found.round > recent[-1].round:
        return None
    head = next((head for head in recent if head.round == found.round), None) or commit_of(store, found.round)
    return found if head is not None and head.digest == found.commit else None


def _losses(
    store: ObjectStore, settings: RoundSettings, recent: Sequence[Head], summary: Summary | None, pool: Executor
) -> tuple[dict[int, dict[str, HeldOutResult]], PastLosses]:
    """Evaluations of the last evaluated rounds, and the losses of those before as far as a stop rule asks for them.

    Without such a rule the last round that all have evaluated is enough: it is what the status shows.
    """
    last, every = recent[-1].round, settings.evaluate_every
    known = PastLosses() if summary is None else summary.past_losses()
    counted = 0 if summary is None else summary.round
    kept = [] if summary is None else [number for number in summary.evaluated if number < counted]
    if settings.stop.plateau is not None:
        # All that the summary does not count: every round, in a bucket of a release that wrote none.
        rounds = sorted({*kept, *range(counted, last + 1)})
    else:
        rounds = sorted({last, last - last % every if every else last, *kept[-1:]}, reverse=True)
    heads = {head.round: head for head in recent}
    state = JobState(settings=settings, started_at=0.0, trail=tuple(recent), past_losses=known)
    for number in rounds:
        results = evaluations_of(store, heads.get(number) or read_commit(store, number), pool=pool)
        if results:
            state = bounded(replace(state, evaluations={**state.evaluations, number: results}))
        if not settings.waits_for_evaluations and results.keys() >= set(settings.participants):
            break
    return {number: dict(results) for number, results in state.evaluations.items()}, state.past_losses


def _baseline(
    store: ObjectStore,
    settings: RoundSettings,
    recent: Sequence[Head],
    evaluations: Mapping[int, dict[str, HeldOutResult]],
    pool: Executor,
) -> dict[str, HeldOutResult]:
    """Results of round 0, where that is a checkpoint."""
    if not settings.baseline:
        return {}
    if 0 in evaluations:
        return dict(evaluations[0])
    head = recent[0] if recent[0].round == 0 else read_commit(store, 0)
    return evaluations_of(store, head, pool=pool)


def verify_chain(heads: Sequence[Head], job: str, store: ObjectStore) -> None:
    """Raise RecordError unless each commit, from the first given, is of this job and follows the one before it."""
    for i, head in enumerate(heads):
        number = heads[0].round + i
        where = store.uri(keys.commit(number))
        if head.commit.job != job:
            raise RecordError(f"{where} belongs to another job ({head.commit.job[:12]}, this one is {job[:12]})")
        if head.commit.round != number:
            raise RecordError(f"{where} says that it is of round {head.commit.round}")
        before = heads[i - 1].digest if i else None
        if (i > 0 or number == 0) and head.commit.previous != before:
            raise RecordError(f"{where} does not follow the commit before it: the chain of commits is broken")
        if head.commit.rollback is not None and head.commit.rollback.to < number:
            to = head.commit.rollback.to - heads[0].round
            rollback.check(store, head.commit, heads[to] if to >= 0 else None)


def evaluations_of(
    store: ObjectStore, head: Head, known: frozenset[str] = frozenset(), *, pool: Executor | None = None
) -> dict[str, HeldOutResult]:
    """Results for the model of ``head``, by participant, but those of ``known``; read side by side with ``pool``."""
    found = {
        name: info.key
        for info in store.list(f"{keys.evaluations_folder(head.round)}/")
        if (name := info.key.rsplit("/", 1)[-1].removesuffix(".json")) not in known
    }
    each = (pool.map if pool is not None else map)(lambda key: _evaluation(store, key), found.values())
    return {
        name: one.result for name, one in zip(found, each, strict=True) if one is not None and one.commit == head.digest
    }


def _evaluation(store: ObjectStore, key: str) -> Evaluation | None:
    try:
        return records.read(store, key, Evaluation)[0]
    except RecordError as error:
        # An earlier release let any number in. What no longer is an evaluation counts as none.
        logger.warning("not counted: %s", error)
        return None


def manifests_of(store: ObjectStore, plan: Plan, known: frozenset[str]) -> list[tuple[UpdateManifest, str]]:
    """Manifests (and their digests) of the cohort in the bucket, but those of ``known``: each was admitted once."""
    unknown = [name for name in plan.cohort if name not in known]
    found = [_manifest(store, plan.round, name) for name in unknown]
    return [record for record in found if record is not None]


def _manifest(store: ObjectStore, round_number: int, participant: str) -> tuple[UpdateManifest, str] | None:
    try:
        found = records.find(store, keys.manifest(round_number, participant), UpdateManifest)
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
    found = records.find(store, keys.commit(round_number), Commit)
    return Head(commit=found[0], digest=found[1]) if found is not None else None


def read_commit(store: ObjectStore, round_number: int) -> Head:
    """The commit of a round that there must be."""
    try:
        commit, digest, _ = records.read(store, keys.commit(round_number), Commit)
    except NotFound as error:
        raise RecordError(f"a commit is missing in the middle of the chain: {error}") from error
    return Head(commit=commit, digest=digest)


def log_of(store: ObjectStore, round_number: int) -> RoundLog | None:
    """The log of a round; None when there is none."""
    try:
        found = records.find(store, keys.round_log(round_number), RoundLog)
    except RecordError:
        # A log is for people and not part of the chain: one that cannot be read is as good as none.
        return None
    return found[0] if found is not None else None
