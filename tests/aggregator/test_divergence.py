"""Training that diverges returns to the last good model; healthy training never does."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from photon.api.participation import DivergenceSpec, StopSpec
from photon.api.placement import RetentionSpec, StorageSpec
from photon.api.status import JobReason
from photon.protocol.canonical import digest
from photon.protocol.records import AcceptedUpdate, Commit, LearningMetrics, RollbackReason
from photon.protocol.views import Stage
from photon.store.objects import ObjectStore
from photon_aggregator.actions import commit as commit_action
from photon_aggregator.faults import FaultPoint
from photon_aggregator.merge import NotFiniteModelError
from photon_aggregator.rounds import divergence
from photon_aggregator.rounds.events import Head, NotFinite, WriteRollback
from photon_aggregator.rounds.rollback import TRAIL
from photon_aggregator.rounds.state import JobState
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.machine import JOB, Machine, head, settings, train_round
from tests.aggregator.running import KillAt, aggregator, chain, killed_and_started_again, last_digest, working

NAMES = ("east", "north", "south")
SPEC = DivergenceSpec()


def followed(trail: Sequence[Head], losses: Mapping[str, float], **figures: Any) -> list[Head]:
    """The chain with one more round, of participants with these losses."""
    last = trail[-1]
    norms, cosines = figures.get("norms", {}), figures.get("cosines", {})
    accepted = [
        AcceptedUpdate(
            participant=name,
            manifest="b" * 64,
            weight=1 / len(losses),
            tokens=100,
            norm=norms.get(name, 1.0),
            cosine_to_mean=cosines.get(name, 0.5),
            loss_mean=loss,
        )
        for name, loss in sorted(losses.items())
    ]
    metrics = LearningMetrics(
        pseudo_gradient_norm=figures.get("norm", 0.6),
        model_norm=60.0,
        momentum_norm=None,
        consensus=None,
        mean_pairwise_cosine=None,
        gradient_noise_scale=None,
        train_loss=sum(losses.values()) / len(losses),
    )
    commit = Commit(
        job=JOB,
        round=last.round + 1,
        previous=last.digest,
        plan="d" * 64,
        folder=f"folder-{last.round + 1}",
        files=[],
        outer_steps=last.commit.outer_steps + 1,
        tokens=last.commit.tokens + 100 * len(losses),
        sequential_steps=last.commit.sequential_steps + 4,
        accepted=accepted,
        metrics=metrics,
    )
    return [*trail, Head(commit=commit, digest=digest(commit))]


def healthy(rounds: int = 10, names: Sequence[str] = NAMES) -> list[Head]:
    trail = [head()]
    for number in range(rounds):
        trail = followed(trail, {name: 4.0 - 0.01 * number + 0.1 * index for index, name in enumerate(names)})
    return trail


def state_of(trail: Sequence[Head], **fields: Any) -> JobState:
    given = settings(NAMES, **{"rounds": 1000, "quorum": 2, **fields})
    return JobState(settings=given, started_at=0.0, head=trail[-1], trail=tuple(trail[-TRAIL:]))


def decided(trail: Sequence[Head], **fields: Any) -> Commit:
    answer = divergence.decide(state_of(trail, **fields))
    assert isinstance(answer, Commit), answer
    return answer


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_two_rounds_of_high_losses_return_to_the_model_before_the_cause() -> None:
    trail = healthy()
    trail = followed(trail, dict.fromkeys(NAMES, 7.0))
    assert divergence.decide(state_of(trail)) is None, "one bad round may be bad luck"
    trail = followed(trail, dict.fromkeys(NAMES, 7.5))
    commit = decided(trail)
    assert commit.rollback is not None
    # Rounds 11 and 12 began with the models of 10 and 11, so round 10 may have done it.
    assert (commit.round, commit.rollback.to, commit.folder) == (13, 9, "folder-9")
    assert commit.rollback.reason is RollbackReason.DIVERGED
    assert "7 and 7.5 in rounds 11 and 12; the median of the 8 rounds before is 4.0" in commit.rollback.message
    assert (commit.quarantine, commit.outer_scale) == ({}, 0.5)


def test_one_participant_cannot_roll_a_job_back() -> None:
    trail = healthy()
    for _ in range(4):
        trail = followed(trail, {"east": 1e4, "north": 4.0, "south": 4.1})
        assert divergence.decide(state_of(trail)) is None


def test_another_cohort_is_no_divergence() -> None:
    """One participant a round, and their texts differ by more than any noise."""
    levels, draw = {"east": 1.0, "north": 1.1, "south": 3.0}, random.Random(5)
    trail = [head()]
    for _ in range(300):
        name = draw.choice(NAMES)
        trail = followed(trail, {name: levels[name] + draw.gauss(0, 0.02)})
        assert divergence.decide(state_of(trail, cohort_size=1, quorum=1)) is None


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 0.5])
def test_noise_of_any_size_is_no_divergence(noise: float) -> None:
    draw = random.Random(3)
    trail = [head()]
    for number in range(1, 300):
        losses = {name: max(0.0, 2 + 4 / number + draw.gauss(0, noise)) for name in NAMES}
        norm = 0.6 * (1 + draw.random())
        trail = followed(trail, losses, norm=norm, norms=dict.fromkeys(NAMES, norm * 1.7))
        assert divergence.decide(state_of(trail)) is None


def test_a_warmup_is_no_divergence() -> None:
    trail = [head()]
    for number in range(1, 60):
        norm = 0.01 * number
        trail = followed(trail, dict.fromkeys(NAMES, 6 - 0.05 * number), norm=norm, norms=dict.fromkeys(NAMES, norm))
        assert divergence.decide(state_of(trail)) is None


def test_a_round_of_few_updates_is_no_divergence() -> None:
    """The mean of 400 orthogonal updates is 20 times shorter than one of them."""
    trail = [head()]
    for _ in range(10):
        trail = followed(trail, dict.fromkeys(NAMES, 4.0), norm=1 / 20)
    trail = followed(trail, {"east": 4.0}, norm=1.0)
    assert divergence.decide(state_of(trail)) is None


def test_a_far_too_long_update_is_found_at_once_and_its_sender_left_out() -> None:
    losses = dict.fromkeys(NAMES, 4.0)
    trail = followed(healthy(), losses, norm=30.0, norms={"south": 90.0})
    commit = decided(trail)
    assert commit.rollback is not None
    assert (commit.rollback.to, commit.rollback.offenders) == (10, ["south"])
    assert commit.quarantine == {"south": 15}
    assert commit.outer_scale is None
    whole = decided(trail, quorum=3)
    assert whole.rollback is not None
    assert whole.rollback.offenders == ["south"], "named, although the quorum needs it"
    assert (whole.quarantine, whole.outer_scale) == ({}, 0.5)


def test_who_points_the_other_way_is_an_offender() -> None:
    trail = healthy()
    for _ in range(2):
        trail = followed(trail, dict.fromkeys(NAMES, 8.0), cosines={"north": -0.4})
    commit = decided(trail)
    assert list(commit.quarantine) == ["north"]


def test_the_third_time_within_sixteen_rounds_the_job_ends_and_names_all() -> None:
    trail: list[Head] = healthy()
    scales = []
    for attempt in range(3):
        for _ in range(2):
            trail = followed(trail, dict.fromkeys(NAMES, 8.0 + attempt))
        answer = divergence.decide(state_of(trail))
        if attempt == 2:
            break
        assert isinstance(answer, Commit)
        scales.append(answer.outer_scale)
        trail = [*trail, Head(commit=answer, digest=digest(answer))]
    assert scales == [0.5, 0.25]
    assert not isinstance(answer, Commit)
    assert answer is not None
    assert (answer.reason, answer.failed) == (JobReason.DIVERGED, True)
    for number in (13, 16, 19):
        assert f"round {number}: " in answer.message


def test_what_lies_back_longer_does_not_count_and_what_a_person_did_begins_anew() -> None:
    trail = healthy()
    for _ in range(2):
        for _ in range(2):
            trail = followed(trail, dict.fromkeys(NAMES, 8.0))
        commit = decided(trail)
        trail = [*trail, Head(commit=commit, digest=digest(commit))]
        for _ in range(16):
            trail = followed(trail, dict.fromkeys(NAMES, 4.0))
    for _ in range(2):
        trail = followed(trail, dict.fromkeys(NAMES, 8.0))
    assert decided(trail).outer_scale == 0.5


def test_null_never_rolls_back_and_short_retention_leaves_nothing_to_return_to() -> None:
    trail = healthy()
    for _ in range(2):
        trail = followed(trail, dict.fromkeys(NAMES, 8.0))
    assert divergence.decide(state_of(trail, stop=StopSpec(divergence=None))) is None
    assert divergence.decide(state_of(trail, retention=RetentionSpec(keep_last_rounds=3))) is None
    assert decided(trail, retention=RetentionSpec(keep_last_rounds=4)).folder == "folder-9"
    every = decided(trail, retention=RetentionSpec(keep_last_rounds=1, keep_every_rounds=4))
    assert every.folder == "folder-8"


def test_the_default_is_left_out_of_documents() -> None:
    assert "divergence" not in StopSpec().model_dump(by_alias=True)
    assert StopSpec(divergence=None).model_dump(by_alias=True)["divergence"] is None
    assert StopSpec.model_validate({"divergence": {"window": 4}}).divergence == DivergenceSpec(window=4)


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_merge_that_gives_no_finite_model_is_retried_more_carefully() -> None:
    machine = Machine(settings(NAMES, rounds=9))
    machine.recovered()
    train_round(machine)
    last = machine.state.head
    assert last is not None
    plan = machine.planned()
    for name in NAMES:
        machine.admit(name, plan)
    assert machine.stage is Stage.MERGE
    failed = NotFinite(at=machine.at, round=plan.round, message="the new global model is not finite")
    machine.send(failed)
    machine.send(failed)
    assert machine.count(WriteRollback) == 1
    commit = machine.last(WriteRollback).commit
    assert (commit.round, commit.rollback.to, commit.rollback.reason) == (2, 1, "NotFinite")
    assert commit.folder == last.commit.folder


def test_with_null_it_ends_the_job() -> None:
    machine = Machine(settings(NAMES, rounds=9, stop=StopSpec(divergence=None)))
    plan = machine.opened()
    for name in NAMES:
        machine.admit(name, plan)
    machine.send(NotFinite(at=machine.at, round=1, message="not finite"))
    assert machine.state.outcome is not None
    assert machine.state.outcome.reason is JobReason.MERGE_FAILED


# --- with a bucket ----------------------------------------------------------------------------------------------------


def diverging_job(storage: StorageSpec) -> Any:
    stop = {"divergence": {"window": 4}}
    return job_document(storage, list(NAMES), rounds=12, stop=stop, evaluation={"everyRounds": 0})


def spiking(worker: FakeWorker, task: Any, prepared: Any) -> None:
    """In rounds 6 and 7 everybody's loss is far above what it was."""
    if task.round in (6, 7):
        metrics = prepared.manifest.metrics.model_copy(update={"loss_mean": 9.0})
        prepared.manifest = prepared.manifest.model_copy(update={"metrics": metrics})
    worker.train_honestly(task, prepared)


def workers(url: str) -> list[FakeWorker]:
    return [FakeWorker(name, [url], tamper=spiking) for name in NAMES]


def undisturbed(job: Any, store: ObjectStore) -> str:
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(*workers(running.url)):
        running.wait()
    assert running.code == 0, running.error
    return last_digest(store)


@pytest.mark.parametrize("passing", [FaultPoint.BEFORE_COMMIT, FaultPoint.AFTER_COMMIT])
def test_a_job_that_diverges_goes_on_from_the_last_good_model_and_a_crash_changes_nothing(
    passing: FaultPoint, store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    job = diverging_job(storage)
    expected = undisturbed(job, other_store("calm"))
    write_round_zero(job, store)
    # The eighth commit is the rollback.
    killed_and_started_again(job, store, KillAt(passing, 8), workers)
    assert last_digest(store) == expected
    commits = chain(store)
    assert commits[8].rollback is not None
    assert (commits[8].rollback.to, commits[8].rollback.reason) == (4, RollbackReason.DIVERGED)
    assert [commit.round for commit in commits if commit.rollback is not None] == [8]
    assert commits[8].outer_scale == 0.5
    assert commits[12].sequential_steps == 4 * 8


def test_two_aggregators_agree_on_the_rollback(
    store: ObjectStore, storage: StorageSpec, other_store: Callable[[str], ObjectStore]
) -> None:
    job = diverging_job(storage)
    expected = undisturbed(job, other_store("calm"))
    write_round_zero(job, store)
    quick = {"scan_seconds": 0.2}
    with aggregator(job, store, settings=quick) as one, aggregator(job, store, settings=quick) as two:
        people = [FakeWorker(name, [one.url, two.url], tamper=spiking) for name in NAMES]
        with working(*people):
            one.wait()
            two.wait()
    assert (one.code, two.code) == (0, 0), (one.error, two.error)
    assert last_digest(store) == expected


def test_the_engine_writes_the_rollback_of_a_merge_that_is_not_finite(
    store: ObjectStore, storage: StorageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = commit_action.merge_and_commit, iter([2])

    def merge(action: Any, bench: Any) -> Any:
        if action.plan.round == 2 and next(failures, None):
            raise NotFiniteModelError("the new global model is not finite")
        return real(action, bench)

    monkeypatch.setattr(commit_action, "merge_and_commit", merge)
    job = job_document(storage, ["north"], rounds=4)
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    assert running.code == 0, running.error
    commits = chain(store)
    assert [commit.rollback.reason if commit.rollback else None for commit in commits] == [
        None,
        None,
        RollbackReason.NOT_FINITE,
        None,
        None,
    ]
    assert commits[3].metrics is not None
