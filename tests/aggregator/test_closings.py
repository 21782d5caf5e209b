"""A decided round has a way out: what cannot be merged is dropped by the next closing, and the job goes on."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import numpy as np
import pytest

from photon.api.job import FederatedTrainingJob
from photon.api.placement import StorageSpec
from photon.api.status import JobReason, MemberState
from photon.protocol.canonical import canonical_json, digest, sha256_hex
from photon.protocol.messages import RefusalReason, TrainTask
from photon.protocol.records import Closing, Commit, Plan, RollbackReason
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.tensors import Header
from photon_aggregator.actions import closings
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.faults import FaultPoint
from photon_aggregator.rounds.events import Members
from photon_aggregator.rounds.taking import clip_factors
from tests.aggregator.fake_worker import FakeWorker, Prepared, job_document, write_round_zero
from tests.aggregator.running import Aggregator, KillAt, Killed, aggregator, chain, working
from tests.aggregator.test_refusals import values_of, with_values

NAMES = ["bad", "north", "south"]


def decided(store: ObjectStore, storage: StorageSpec, **participation: Any) -> FederatedTrainingJob:
    """A job whose first round was decided with all three updates when its aggregator died."""
    job = job_document(storage, NAMES, rounds=2, participation=participation)
    write_round_zero(job, store)
    with aggregator(job, store, faults=KillAt(FaultPoint.BEFORE_MERGE)) as first:
        workers = [FakeWorker(name, [first.url]) for name in NAMES]
        with contextlib.suppress(RuntimeError), working(*workers):  # they say that they were stopped
            first.wait()
            for worker in workers:
                worker.stop.set()
    assert isinstance(first.error, Killed), first.error
    return job


def goes_on(job: FederatedTrainingJob, store: ObjectStore) -> list[Commit]:
    """The commits of the job once it was started again and has ended well.

    Workers come only after the decided round's commit: one that is faster than the merge would upload what is missing.
    """
    with aggregator(job, store) as second:
        deadline = time.monotonic() + 60
        while store.head(keys.commit(1)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with working(*(FakeWorker(name, [second.url]) for name in NAMES)):
            second.wait()
    assert (second.error, second.code) == (None, 0), second.engine.state.outcome
    return chain(store)


def names(commit: Commit) -> list[str]:
    return [update.participant for update in commit.accepted]


def test_a_bucket_that_a_claimed_loss_had_bricked_goes_on(store: ObjectStore, storage: StorageSpec) -> None:
    """closing.json of an earlier release names a manifest whose lossMean no commit can hold."""
    job = decided(store, storage, quorum=2)
    key = keys.manifest(1, "bad")
    manifest = json.loads(store.get(key))
    manifest["metrics"]["lossMean"] = 1.7e308
    store.put(key, canonical_json(manifest))
    closing = json.loads(store.get(keys.closing(1)))
    assert sorted(closing["updates"]) == NAMES
    closing["updates"]["bad"] = digest(manifest)
    store.put(keys.closing(1), canonical_json(closing))

    commits = goes_on(job, store)
    assert [names(commit) for commit in commits] == [[], ["north", "south"], NAMES]
    second = Closing.model_validate_json(store.get(keys.closing(1, 2)))
    assert second.supersedes == sha256_hex(store.get(keys.closing(1)))
    assert second.dropped == {"bad": RefusalReason.INVALID_MANIFEST.value}
    assert sorted(second.updates) == ["north", "south"]


def test_a_decided_update_whose_parts_are_gone_is_dropped(store: ObjectStore, storage: StorageSpec) -> None:
    job = decided(store, storage, quorum=2)
    store.delete([i.key for i in store.list(f"{keys.updates_folder(1)}/bad/") if i.key.endswith(".safetensors")])
    commits = goes_on(job, store)
    assert [names(commit) for commit in commits[1:]] == [["north", "south"], NAMES]
    dropped = Closing.model_validate_json(store.get(keys.closing(1, 2))).dropped
    assert dropped == {"bad": RefusalReason.MISSING_PART.value}


def test_an_update_that_changes_under_the_merge_is_dropped_by_the_running_aggregator(
    store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, NAMES, rounds=1, participation={"quorum": 2})
    write_round_zero(job, store)

    def lose(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_MERGE:
            parts = [info.key for info in store.list(f"{keys.updates_folder(1)}/bad/")]
            store.put(next(key for key in parts if key.endswith(".safetensors")), b"something else")

    with aggregator(job, store, faults=lose) as running, working(*(FakeWorker(n, [running.url]) for n in NAMES)):
        running.wait()
    assert (running.error, running.code) == (None, 0), running.engine.state.outcome
    assert names(chain(store)[1]) == ["north", "south"]


def test_a_round_with_too_few_usable_updates_is_given_up_and_the_job_goes_on(
    store: ObjectStore, storage: StorageSpec
) -> None:
    job = decided(store, storage)
    store.delete([i.key for i in store.list(f"{keys.updates_folder(1)}/bad/") if i.key.endswith(".safetensors")])
    commits = goes_on(job, store)
    returned = commits[1].rollback
    assert returned is not None
    assert (returned.to, returned.reason, returned.offenders) == (0, RollbackReason.NO_QUORUM, ["bad"])
    assert commits[1].folder == commits[0].folder
    assert names(commits[2]) == NAMES


@pytest.mark.parametrize("unusable", [False, True])
def test_a_decided_round_keeps_the_quorum_that_it_had_although_a_member_is_back(
    unusable: bool, store: ObjectStore, storage: StorageSpec
) -> None:
    """Without its access south is missing from the quorum of three; it has it again when the round is merged."""
    job = job_document(storage, ["east", "north", "south"], rounds=1, evaluation={"everyRounds": 0})
    write_round_zero(job, store)
    remote: dict[str, Any] = {"settings": {"remote": frozenset({"south"})}}

    def stands(running: Aggregator, state: MemberState) -> None:
        event = Members(at=running.engine.clock(), states={"south": state})
        running.loop.call_soon_threadsafe(running.engine.send, event)

    with aggregator(job, store, faults=KillAt(FaultPoint.BEFORE_MERGE), **remote) as first:
        stands(first, MemberState.ACTIVE)
        workers = [FakeWorker(name, [first.url]) for name in ("east", "north")]
        with contextlib.suppress(RuntimeError), working(*workers):  # they say that they were stopped
            first.until(lambda engine: engine.state.open is not None and len(engine.state.open.admissions) == 2)
            stands(first, MemberState.REVOKED)
            first.wait()
            for worker in workers:
                worker.stop.set()
    assert isinstance(first.error, Killed), first.error
    if unusable:
        parts = store.list(f"{keys.updates_folder(1)}/north/")
        store.delete([info.key for info in parts if info.key.endswith(".safetensors")])
    with aggregator(job, store, stop_when_done=False, **remote) as second:
        stands(second, MemberState.ACTIVE)
        second.until(lambda engine: engine.state.head is not None and engine.state.head.round == 1)
    commit = chain(store)[1]
    if unusable:
        # What the first closing took was the quorum; what is left of it is not.
        assert commit.rollback is not None
        assert "1 of 2 updates can be merged; dropped: north" in commit.rollback.message
    else:
        assert (names(commit), commit.rollback) == (["east", "north"], None)


def closing_of(plan: Plan, **fields: Any) -> Closing:
    updates = {name: sha256_hex(name.encode()) for name in NAMES}
    return Closing(**{"job": plan.job, "round": plan.round, "plan": digest(plan), "updates": updates, **fields})


@pytest.fixture
def plan() -> Plan:
    return Plan(job="a" * 64, round=1, base="b" * 64, participants=NAMES, cohort=NAMES, first_step=0, local_steps=4)


def test_two_aggregators_that_drop_at_once_agree(store: ObjectStore, plan: Plan) -> None:
    ours = closings.first(store, plan, digest(plan), closing_of(plan))
    theirs = closings.first(store, plan, digest(plan), closing_of(plan, updates={}))
    assert ours == theirs
    one = closings.drop(store, plan, digest(plan), ours, {"bad": "NotFinite"})
    other = closings.drop(store, plan, digest(plan), theirs, {"south": "MissingPart"})
    assert one == other == closings.last(store, plan, digest(plan))
    assert sorted(one.closing.updates) == ["north", "south"]
    last = closings.drop(store, plan, digest(plan), other, {"south": "MissingPart"})
    assert (last.number, last.dropped) == (3, {"bad": "NotFinite", "south": "MissingPart"})


def test_a_closing_that_does_not_follow_is_named(store: ObjectStore, plan: Plan) -> None:
    closings.first(store, plan, digest(plan), closing_of(plan))
    store.put(keys.closing(1, 2), canonical_json(closing_of(plan, supersedes="0" * 64, dropped={"bad": "NotFinite"})))
    with pytest.raises(RecordError, match=r"closing-2\.json does not follow"):
        closings.last(store, plan, digest(plan))


def test_the_bytes_of_a_closing_without_news_are_what_they_were(plan: Plan) -> None:
    assert sorted(json.loads(canonical_json(closing_of(plan)))) == ["job", "plan", "round", "updates"]


# --- outliers ---------------------------------------------------------------------------------------------------------


def clips(*norms: float, limit: float | None = 8.0) -> list[float]:
    return list(clip_factors({f"p{index}": norm for index, norm in enumerate(norms)}, limit).values())


def test_only_what_is_far_longer_than_the_median_is_scaled_down() -> None:
    assert clips(1.0) == [1.0]
    assert clips(1.0, 2.0, 7.9) == [1.0, 1.0, 1.0]
    assert clips(1.0, 100.0) == [1.0, 0.08]
    assert clips(1.0, 2.0, 1e12) == [1.0, 1.0, 1.6e-11]
    assert clips(0.0, 3.0, 3.0) == [1.0, 1.0, 1.0]
    assert clips(0.0, 0.0) == [1.0, 1.0]
    assert clips(1.0, 2.0, 1e12, limit=None) == [1.0, 1.0, 1.0]


def theta_of(store: ObjectStore, commit: Commit) -> np.ndarray:
    data = store.get(f"{commit.folder}/{keys.WEIGHTS}")
    return np.frombuffer(data, np.float32, offset=Header.parse(data).data_offset)


def longer(factor: float) -> Any:
    def tamper(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        if task.round == 1:
            for index in range(len(prepared.parts)):
                with_values(prepared, index, values_of(prepared, index) * np.float32(factor))
        worker.train_honestly(task, prepared)

    return tamper


def test_an_outlier_is_scaled_down_and_the_commit_says_so(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, NAMES, rounds=2)
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        bad = FakeWorker("bad", [running.url], tamper=longer(1e6))
        with working(bad, *(FakeWorker(name, [running.url]) for name in NAMES[1:])):
            pass
        events = running.get("/v1/events")
    commits = chain(store)
    found = {update.participant: update.clip for update in commits[1].accepted}
    assert found["north"] == found["south"] == 1.0
    assert found["bad"] == pytest.approx(8e-6, rel=0.1)
    assert float(np.linalg.norm(theta_of(store, commits[1]))) < 10 * float(np.linalg.norm(theta_of(store, commits[0])))
    raw = json.loads(store.get(keys.commit(1)))["accepted"]
    assert ["clip" in update for update in raw] == [True, False, False]
    assert b'"clip"' not in store.get(keys.commit(2))
    (said,) = [e["message"] for e in events if e["kind"] == "RoundCommitted" and e["round"] == 1]
    assert "bad (scaled by" in said


def test_the_status_says_whose_update_was_scaled_or_refused_in_the_last_round(
    store: ObjectStore, storage: StorageSpec
) -> None:
    names = [*NAMES, "worse"]
    job = job_document(storage, names, rounds=1, participation={"quorum": 3, "graceSeconds": 0})
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        worse = FakeWorker("worse", [running.url], tamper=longer(1e20))
        with working(worse):
            running.until(lambda _: bool(worse.replies))
            worse.stop.set()
        bad = FakeWorker("bad", [running.url], tamper=longer(1e6))
        with working(bad, *(FakeWorker(name, [running.url]) for name in NAMES[1:])):
            pass
        people = {person["name"]: person for person in running.get("/v1/status")["participants"]}
        said = {name: person["message"] for name, person in people.items()}
    assert "round 1 took its update scaled by 8" in said["bad"]
    assert "round 1 did not take its update: " in said["worse"]
    assert people["worse"]["reason"] == "NormTooLarge"
    assert "reason" not in people["north"]
    assert "round 1" not in said["north"] + said["south"]


def test_clipping_may_be_turned_off_while_a_job_runs(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, NAMES, rounds=1)
    write_round_zero(job, store)
    exchange = {"partBytes": 65536, "clipToMedian": None, "maxUpdateNorm": 1e9}
    changed = job_document(storage, NAMES, rounds=1, exchange=exchange)
    with aggregator(changed, store) as running:
        bad = FakeWorker("bad", [running.url], tamper=longer(1e4))
        with working(bad, *(FakeWorker(name, [running.url]) for name in NAMES[1:])):
            running.wait()
    assert (running.error, running.code) == (None, 0)
    assert all(update.clip == 1.0 for update in chain(store)[1].accepted)
    assert Closing.model_validate_json(store.get(keys.closing(1))).clip_to_median is None


@pytest.mark.parametrize("kind", ["FedAvg", "FedAdam"])
def test_an_update_whose_square_fp32_cannot_hold_is_refused(
    kind: str, store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, NAMES, rounds=1, outer={"type": kind}, participation={"quorum": 2, "graceSeconds": 0})
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        bad = FakeWorker("bad", [running.url], tamper=longer(1e20))
        with working(bad):
            running.until(lambda _: bool(bad.replies))
            bad.stop.set()
        with working(*(FakeWorker(name, [running.url]) for name in NAMES[1:])):
            pass
    assert [reply.reason for _, reply in bad.replies] == [RefusalReason.NORM_TOO_LARGE]
    assert names(chain(store)[1]) == ["north", "south"]


# --- what is merged into ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [keys.WEIGHTS, keys.outer_state("momentum")])
def test_a_model_or_outer_state_with_other_bytes_than_its_commit_says_is_not_merged(
    file: str, store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["north"], rounds=2)
    write_round_zero(job, store)

    def flip(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_MERGE and store.head(keys.commit(1)) is not None:
            key = f"{chain(store)[1].folder}/{file}"
            data = bytearray(store.get(key))
            data[-9] ^= 1
            store.put(key, bytes(data))

    with aggregator(job, store, faults=flip) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    outcome = running.engine.state.outcome
    assert running.error is None
    assert outcome is not None
    assert (outcome.reason, outcome.failed) == (JobReason.STORAGE_CORRUPT, True)
    assert "is not the file that was committed" in outcome.message
    assert store.head(keys.commit(2)) is None
