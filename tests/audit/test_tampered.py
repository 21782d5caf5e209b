"""Somebody changes one thing of a finished job, with every right in its bucket: the audit names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.records import RollbackReason
from photon.protocol.rollback import rollback_commit
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.audit.findings import Verdict
from photon_aggregator.audit.run import audit
from tests.aggregator.fake_worker import job_document
from tests.aggregator.running import chain
from tests.audit.auditing import edit, edit_and_chain, flip, found, holds, key_of, trained

NAMES = ["east", "north", "south"]
LAST = 3
UPDATE = f"{keys.updates_folder(2)}/north/"


@pytest.fixture(scope="module")
def finished(s3: EmbeddedStore) -> Iterator[dict[str, bytes]]:
    """All objects of a job of three rounds, evaluated after each."""
    with ExitStack() as stack:
        spec = StorageSpec(endpoint=s3.endpoint, bucket="photon", prefix="finished")
        store = stack.enter_context(ObjectStore.open(spec, access_key=s3.access_key, secret_key=s3.secret_key))
        store.check(create_bucket=True)
        job = job_document(
            spec, NAMES, rounds=LAST, evaluation={"everyRounds": 1}, stop={"targetPerplexity": 1.0000001}
        )
        trained(job, store)
        yield {info.key: store.get(info.key) for info in store.list()}


@pytest.fixture
def bucket(finished: dict[str, bytes], store: ObjectStore) -> ObjectStore:
    """A copy of the job that a test may spoil."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.put(*item), finished.items()))
    return store


def model_of(store: ObjectStore, number: int, name: str = keys.WEIGHTS) -> str:
    return f"{chain(store)[number].folder}/{name}"


def test_what_was_copied_holds(bucket: ObjectStore) -> None:
    assert bucket.head(keys.OWNER) is not None
    holds(bucket, deep=True)
    bucket.delete([keys.OWNER])
    holds(bucket)  # as one of an earlier release


def test_a_damaged_owner(bucket: ObjectStore) -> None:
    bucket.put(keys.OWNER, b"lab/first")
    assert found(bucket) == {keys.OWNER: {"NotARecord"}}


@pytest.mark.parametrize("place", [-3, 12], ids=["in its values", "in its header"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_bit_of_a_part(deep: bool, place: int, bucket: ObjectStore) -> None:
    key = key_of(bucket, UPDATE, ".safetensors")
    flip(bucket, key, place)
    assert found(bucket, deep=deep) == {key: {"WrongDigest"}}


@pytest.mark.parametrize("number", [1, LAST], ids=["that was merged from", "that nothing was merged from"])
@pytest.mark.parametrize("name", [keys.WEIGHTS, keys.outer_state("momentum"), "config.json"])
def test_a_bit_of_a_model(name: str, number: int, bucket: ObjectStore) -> None:
    key = model_of(bucket, number, name)
    flip(bucket, key)
    assert found(bucket) == {key: {"WrongDigest"}}


def test_the_header_of_a_model(bucket: ObjectStore) -> None:
    key = model_of(bucket, 1)
    flip(bucket, key, 9)
    assert found(bucket) == {key: {"WrongDigest"}}


def test_a_part_that_is_gone_and_one_that_is_longer(bucket: ObjectStore) -> None:
    gone, longer = (key_of(bucket, f"{keys.updates_folder(2)}/{name}/", ".safetensors") for name in NAMES[:2])
    bucket.delete([gone])
    bucket.put(longer, bucket.get(longer) + b"more")
    assert found(bucket) == {gone: {"Missing"}, longer: {"WrongSize"}}


def test_a_dropped_manifest(bucket: ObjectStore) -> None:
    bucket.delete([f"{UPDATE}manifest.json"])
    files = found(bucket)
    assert files[f"{UPDATE}manifest.json"] == {"Missing"}


def test_swapped_manifests(bucket: ObjectStore) -> None:
    keys_of_both = [keys.manifest(2, name) for name in ("north", "south")]
    north, south = (bucket.get(key) for key in keys_of_both)
    bucket.put(keys_of_both[0], south)
    bucket.put(keys_of_both[1], north)
    files = found(bucket)
    assert set(files) >= set(keys_of_both)
    assert files[keys_of_both[0]] == {"WrongDigest", "WrongManifest"}


def test_an_edited_job(bucket: ObjectStore) -> None:
    edit(bucket, keys.JOB, lambda job: job["outer"].update(learningRate=0.6))
    assert found(bucket)[keys.JOB] == {"WrongDigest"}


def test_a_job_that_is_gone(bucket: ObjectStore) -> None:
    bucket.delete([keys.JOB])
    assert found(bucket) == {keys.JOB: {"Missing"}}


def test_an_edited_plan(bucket: ObjectStore) -> None:
    edit(bucket, keys.plan(2), lambda plan: plan.update(firstStep=plan["firstStep"] + 1))
    assert found(bucket)[keys.plan(2)] == {"WrongDigest", "WrongPlan"}


def weight(commit: Any) -> None:
    commit["accepted"][0]["weight"] += 0.1
    commit["accepted"][1]["weight"] -= 0.1


def test_a_weight_with_all_digests_after_it(bucket: ObjectStore) -> None:
    """The chain is whole again; what the commit says does not follow from the updates."""
    edit_and_chain(bucket, 1, weight, LAST)
    assert found(bucket) == {keys.commit(1): {"WrongWeight"}}


def test_another_model_with_all_digests_after_it(bucket: ObjectStore) -> None:
    """A model that nobody merged, named by a chain without a gap."""

    def change(commit: Any) -> None:
        other = json.loads(bucket.get(keys.commit(0)))["files"]
        commit["files"] = other

    edit_and_chain(bucket, LAST, change, LAST)
    assert "WrongMerge" in found(bucket)[keys.commit(LAST)]


def test_figures_of_a_commit(bucket: ObjectStore) -> None:
    edit_and_chain(bucket, LAST, lambda commit: commit["metrics"].update(consensus=0.5), LAST)
    assert found(bucket) == {keys.commit(LAST): {"WrongMetrics"}}


@pytest.mark.parametrize(("number", "field"), [(0, "tokens"), (LAST, "tokens"), (LAST, "sequentialSteps")])
def test_a_counter_with_all_digests_after_it(number: int, field: str, bucket: ObjectStore) -> None:
    edit_and_chain(bucket, number, lambda commit: commit.update({field: commit[field] + 1}), LAST)
    assert "WrongTotals" in found(bucket, recompute=0)[keys.commit(number)]


@pytest.mark.parametrize("change", [{"folder": "rounds/00000/global/0"}, {"tokens": 1}, {"quarantine": {"north": 9}}])
def test_a_rollback_that_is_not_what_it_names(change: dict[str, Any], bucket: ObjectStore) -> None:
    commits = chain(bucket)
    last, target = commits[LAST], commits[1]
    record = rollback_commit(last, digest(last), target, digest(target), reason=RollbackReason.OPERATOR)
    bucket.put(keys.commit(LAST + 1), canonical_json(record))
    holds(bucket, recompute=0)
    edit(bucket, keys.commit(LAST + 1), lambda commit: commit.update(change))
    assert "WrongRollback" in found(bucket, recompute=0)[keys.commit(LAST + 1)]


def test_a_norm_is_found_by_reading_the_parts(bucket: ObjectStore) -> None:
    def change(commit: Any) -> None:
        commit["accepted"][0]["norm"] *= 1.01

    edit_and_chain(bucket, LAST, change, LAST)
    assert "WrongNorm" in found(bucket, deep=True)[keys.commit(LAST)]


@pytest.mark.parametrize("change", [{"start": 9, "stop": 1}, {"stop": 2**40}, {"index": 7}])
@pytest.mark.parametrize("deep", [False, True])
def test_a_manifest_of_another_shape(deep: bool, change: dict[str, int], bucket: ObjectStore) -> None:
    """With all digests after it: what cannot be merged is not merged."""
    key = keys.manifest(LAST, "north")
    edit(bucket, key, lambda manifest: manifest["parts"][0].update(change))
    edit_and_chain(bucket, LAST - 1, lambda _: None, LAST)
    assert found(bucket, deep=deep)[key] == {"WrongManifest"}


def test_a_cohort_that_the_seed_does_not_give(bucket: ObjectStore) -> None:
    def change(plan: Any) -> None:
        plan["cohort"] = plan["cohort"][:2]

    edit(bucket, keys.plan(LAST), change)
    assert "WrongCohort" in found(bucket)[keys.plan(LAST)]


def test_an_update_left_out_of_the_closing(bucket: ObjectStore) -> None:
    edit(bucket, keys.closing(2), lambda closing: closing["updates"].pop("north"))
    assert found(bucket) == {keys.closing(2): {"WrongClosing"}}


def test_reordered_commits(bucket: ObjectStore) -> None:
    first, second = bucket.get(keys.commit(1)), bucket.get(keys.commit(2))
    bucket.put(keys.commit(1), second)
    bucket.put(keys.commit(2), first)
    files = found(bucket)
    assert all("BrokenChain" in files[keys.commit(number)] for number in (1, 2, 3))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_commit_that_is_gone(number: int, bucket: ObjectStore) -> None:
    bucket.delete([keys.commit(number)])
    assert "Missing" in found(bucket)[keys.commit(number)]


def test_a_model_that_is_gone(bucket: ObjectStore) -> None:
    bucket.delete([model_of(bucket, LAST)])
    key = next(iter(found(bucket)))
    assert key.endswith(keys.WEIGHTS)


@pytest.mark.parametrize("change", [{"commit": "0" * 64}, {"participant": "east"}, {"round": 1}])
def test_an_evaluation_of_something_else(change: dict[str, Any], bucket: ObjectStore) -> None:
    key = keys.evaluation(2, "north")
    edit(bucket, key, lambda evaluation: evaluation.update(change))
    assert found(bucket) == {key: {"WrongEvaluation"}}


def test_foreign_files(bucket: ObjectStore) -> None:
    foreign = [
        "rounds/notes.txt",
        f"{keys.round_folder(2)}/plan-7.json",
        model_of(bucket, 2, "modeling_evil.py"),
        f"{keys.updates_folder(2)}/mallory/manifest.json",
        f"{UPDATE}more.bin",
    ]
    for key in foreign:
        bucket.put(key, b"{}")
    evaluation = json.loads(bucket.get(keys.evaluation(2, "north"))) | {"participant": "mallory"}
    bucket.put(keys.evaluation(2, "mallory"), canonical_json(evaluation))
    expected: dict[str, set[str]] = {key: {"Foreign"} for key in foreign}
    assert found(bucket) == {**expected, keys.evaluation(2, "mallory"): {"WrongEvaluation"}}


def test_parts_that_no_manifest_names_are_left_over(bucket: ObjectStore) -> None:
    bucket.put(keys.part(2, "north", 0, "f" * 64), b"of a worker that began once more")
    assert holds(bucket).figures.leftovers == 1


@pytest.mark.parametrize("text", [b"", b'{"round": 1}'])
@pytest.mark.parametrize("key", [keys.commit(2), keys.plan(2), keys.closing(2), keys.manifest(2, "north")])
def test_what_is_no_record(key: str, text: bytes, bucket: ObjectStore) -> None:
    bucket.put(key, text)
    assert "NotARecord" in found(bucket, recompute=0)[key]


def test_findings_outlive_a_store_that_goes_away(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from photon.store.errors import Unreachable
    from photon_aggregator.audit import run

    def away(*_: Any) -> Any:
        raise Unreachable("nothing answers")

    monkeypatch.setattr(run, "check_weights", away)
    report = audit(bucket)
    assert (report.verdict, report.reason) == (Verdict.NOT_CHECKABLE, "nothing answers")
    edit(bucket, keys.closing(2), lambda closing: closing["updates"].pop("north"))
    report = audit(bucket)
    assert report.verdict is Verdict.TAMPERED
    assert any("nothing answers" in note for note in report.notes)


def ended(job: Any) -> None:
    """The participant's word in the evaluation that ended the job."""
    job["result"]["lossSum"] += 1.0


def test_an_evaluation_that_ended_the_job(store: ObjectStore, storage: StorageSpec) -> None:
    trained(job_document(storage, ["north"], rounds=5, stop={"targetPerplexity": 1e6}), store)
    key = keys.evaluation(1, "north")
    edit(store, key, ended)
    assert found(store) == {key: {"WrongEvaluation"}}
    edit(store, keys.plan(2), lambda plan: ended({"result": plan["end"]["results"]["north"]}))
    holds(store)
    edit(store, keys.plan(2), lambda plan: plan["end"].update(targetPerplexity=1.0))
    assert found(store) == {keys.plan(2): {"WrongEnd"}}
