"""The audit of a job that institutions join: who was a member when, and what they and the hub signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from photon.api.placement import StorageSpec
from photon.api.status import MemberState
from photon.local.object_store import EmbeddedStore
from photon.protocol.border import RotateRequest
from photon.protocol.canonical import canonical_json, sha256_hex
from photon.protocol.records import LeftOut, Plan
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.trust import statements
from photon.trust.keys import Identity
from photon.trust.log import NOTHING, LogEntry, LogKind, Segment, follow
from photon_aggregator.audit.run import audit
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import chain, working
from tests.audit.auditing import edit, flip, found, holds, key_of

LAST = 4


@dataclass
class Joined:
    """A finished job, and the keys that took part in it."""

    objects: dict[str, bytes]
    hub: Identity
    north: Identity


def hand_in(worker: FakeWorker, task: Any, prepared: Any) -> None:
    worker.upload(task, prepared)
    worker.submit(task.round, prepared.manifest)


def rotate(site: Site) -> None:
    """Another key from now on."""
    assert site.hub is not None
    new = Identity.new()
    said = statements.Rotate(audience=site.hub.id, participant=site.name, new_key=new.key.text)
    envelope = said.seal(site.identity, new).decode()
    reply = site.said("keys", RotateRequest(new_key=new.key.text, envelope=envelope))
    assert reply.status_code == 200, reply.text
    site.identity = new


@pytest.fixture(scope="module")
def joined(s3: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """``north`` stays and changes its key in round 2; ``south`` is revoked in round 3."""
    with ExitStack() as stack:
        spec = StorageSpec(endpoint=s3.endpoint, bucket="photon", prefix="joined")
        store = stack.enter_context(ObjectStore.open(spec, access_key=s3.access_key, secret_key=s3.secret_key))
        store.check(create_bucket=True)
        job = job_document(
            spec,
            ["home", "north", "south"],
            rounds=LAST,
            evaluation={"everyRounds": 1},
            stop={"targetPerplexity": 1.0000001},
        )
        write_round_zero(job, store)
        hub = Hub(tmp_path_factory.mktemp("hub"), job, store, ["north", "south"])
        stack.callback(hub.close)
        north, south = (Site(n, [hub.url], hub=hub.identity.key, invitation=hub.invite(n)) for n in hub.remote)
        with hub.running() as running:
            north.join()
            south.join()

            def rotates(worker: FakeWorker, task: Any, prepared: Any) -> None:
                if task.round == 2 and north.identity is first:
                    rotate(north)
                hand_in(worker, task, prepared)

            def is_revoked(worker: FakeWorker, task: Any, prepared: Any) -> None:
                if task.round < 3:
                    hand_in(worker, task, prepared)
                    return
                hub.change("south", access="Revoked")
                running.until(lambda engine: engine.state.members.get("south") is MemberState.REVOKED)
                worker.stop.set()

            first = north.identity
            north.tamper, south.tamper = rotates, is_revoked
            with working(FakeWorker("home", [running.url]), north, south):
                running.wait()
        assert (running.code, running.error) == (0, None)
        yield Joined({info.key: store.get(info.key) for info in store.list()}, hub.identity, north.identity)


@pytest.fixture
def bucket(joined: Joined, store: ObjectStore) -> ObjectStore:
    """A copy of the job that a test may spoil."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.put(*item), joined.objects.items()))
    return store


def update_of(store: ObjectStore, number: int, name: str = "north") -> str:
    return key_of(store, f"{keys.round_folder(number)}/signatures/update-{name}-")


def test_a_job_whose_members_came_and_went_holds(bucket: ObjectStore, joined: Joined) -> None:
    plan = Plan.model_validate_json(bucket.get(keys.plan(LAST)))
    assert plan.left_out == {"south": LeftOut.NOT_A_MEMBER}
    assert [update.participant for update in chain(bucket)[-1].accepted] == ["home", "north"]
    assert bucket.head(keys.member("north", 2)) is not None

    report = holds(bucket, hub=joined.hub.key)
    updates = len([key for key in joined.objects if "/signatures/update-" in key])
    evaluations = len([key for key in joined.objects if "/signatures/evaluation-" in key])
    assert report.figures.signatures == 1 + LAST + updates + evaluations
    assert (report.notes, report.figures.leftovers) == ((), 0)


def test_without_the_hubs_key_the_report_says_what_was_not_checked(bucket: ObjectStore) -> None:
    report = holds(bucket)
    assert report.figures.signatures == 0
    assert report.notes == ("memberships and signatures were not checked: give the hub's key (--hub-key)",)


@pytest.mark.parametrize("place", [30, 200, -10])
def test_a_flipped_bit_in_a_signed_update(place: int, bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 1)
    flip(bucket, key, place)
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}


@pytest.mark.parametrize("signer", ["a stranger", "the key before"])
def test_an_update_that_another_key_signed(signer: str, bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 4)
    said = statements.verify(bucket.get(key), statements.Update, joined.north.key)
    earlier = bucket.get(update_of(bucket, 1))
    bucket.put(key, said.seal(Identity.new()) if signer == "a stranger" else earlier)
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}


def test_an_update_whose_signature_is_gone(bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 2)
    bucket.delete([key])
    assert found(bucket, hub=joined.hub.key) == {key: {"Missing"}}


def test_an_update_that_was_signed_for_another_round(bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 3)
    bucket.put(key, bucket.get(update_of(bucket, 4)))
    report = audit(bucket, hub=joined.hub.key)
    assert [(one.file, one.reason.value) for one in report.findings] == [(key, "WrongSignature")]
    assert "it was signed for something else: round is 4, not 3" in report.findings[0].message


@pytest.mark.parametrize("serial", [1, 2])
def test_a_record_of_a_member_that_was_removed(serial: int, bucket: ObjectStore, joined: Joined) -> None:
    key = keys.member("north", serial)
    bucket.delete([key])
    assert found(bucket, hub=joined.hub.key) == {key: {"Missing"}}


def test_a_revocation_that_was_removed(bucket: ObjectStore, joined: Joined) -> None:
    key = keys.member("south", 2)
    assert json.loads(bucket.get(key))["kind"] == "Revoked"
    bucket.delete([key])
    report = audit(bucket, hub=joined.hub.key)
    assert [(one.file, one.reason.value) for one in report.findings] == [(key, "Missing")]
    assert report.findings[0].message == "rounds/00004/plan.json says that south was no member then; no record does"


def test_all_records_of_a_member_that_were_removed(bucket: ObjectStore, joined: Joined) -> None:
    bucket.delete([info.key for info in bucket.list(keys.members_folder("north"))])
    assert found(bucket, hub=joined.hub.key) == {keys.member("north", 1): {"Missing"}}


def test_a_member_that_someone_else_became(bucket: ObjectStore, joined: Joined) -> None:
    stranger = Identity.new()
    edit(bucket, keys.member("north", 1), lambda record: record.update(key=stranger.key.text))
    assert found(bucket, hub=joined.hub.key) == {keys.member("north", 1): {"WrongMembership"}}


def test_a_commit_that_the_hub_did_not_sign(bucket: ObjectStore, joined: Joined) -> None:
    key = keys.commit_signature(2)
    said = statements.verify(bucket.get(key), statements.Commit, joined.hub.key)
    bucket.put(key, said.seal(Identity.new()))
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}

    bucket.delete([key])
    assert found(bucket, hub=joined.hub.key) == {key: {"Missing"}}

    bucket.put(key, said.model_copy(update={"keys": {}}).seal(joined.hub))
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}


def test_the_last_commits_may_be_signed_later_but_not_all(bucket: ObjectStore, joined: Joined) -> None:
    bucket.delete([keys.commit_signature(number) for number in (LAST - 1, LAST)])
    assert holds(bucket, hub=joined.hub.key).notes == ("rounds 3 to 4: not signed by the hub, or not yet",)

    bucket.delete([keys.commit_signature(number) for number in range(LAST - 1)])
    assert found(bucket, hub=joined.hub.key) == {keys.commit_signature(0): {"Missing"}}


def test_an_evaluation_that_was_changed_has_no_signature(bucket: ObjectStore, joined: Joined) -> None:
    edit(bucket, keys.evaluation(2, "north"), lambda evaluation: evaluation["result"].update(lossSum=1.0))
    ((file, reasons),) = found(bucket, hub=joined.hub.key).items()
    assert (file.startswith(f"{keys.round_folder(2)}/signatures/evaluation-north-"), reasons) == (True, {"Missing"})


def test_the_key_of_another_hub_holds_for_nothing(bucket: ObjectStore) -> None:
    files = found(bucket, hub=Identity.new().key)
    assert {keys.member("north", 1), keys.member("south", 1), keys.commit_signature(0)} <= set(files)


def test_other_files_beside_the_records_of_members(bucket: ObjectStore, joined: Joined) -> None:
    for key in ("members/north/notes.txt", "members/north/1.json"):
        bucket.put(key, b"{}")
    files = found(bucket, hub=joined.hub.key)
    assert files == {"members/north/notes.txt": {"Foreign"}, "members/north/1.json": {"Foreign"}}


# --- the log of the door ---------------------------------------------------------------------------------------------


def cosign(store: ObjectStore, joined: Joined, size: int) -> None:
    """What north's gate would sign of the first ``size`` entries."""
    digests = [one for info in store.list(keys.LOG_SEGMENTS) for one in segment(store, info.key).digests]
    said = statements.Cosign(
        audience=joined.hub.key.id,
        job=sha256_hex(store.get(keys.JOB)),
        participant="north",
        size=size,
        head=follow(NOTHING, digests[:size]),
    )
    store.put(keys.log_cosignature("north"), said.seal(joined.north))


def segment(store: ObjectStore, key: str) -> Segment:
    return Segment.model_validate_json(store.get(key))


def signed_sizes(store: ObjectStore, joined: Joined) -> list[int]:
    return [
        statements.verify(store.get(keys.commit_signature(n)), statements.Commit, joined.hub.key).audit_size
        for n in range(LAST + 1)
    ]


def test_a_log_and_its_signed_heads_hold(bucket: ObjectStore, joined: Joined) -> None:
    segments = [segment(bucket, info.key) for info in bucket.list(keys.LOG_SEGMENTS)]
    before = holds(bucket, hub=joined.hub.key).figures
    assert before.log_entries == segments[-1].last
    cosign(bucket, joined, 3)
    assert holds(bucket, hub=joined.hub.key).figures.signatures == before.signatures + 1
    assert holds(bucket).figures.log_entries == before.log_entries


def test_an_entry_of_the_log_that_was_changed_is_named(bucket: ObjectStore, joined: Joined) -> None:
    sizes = signed_sizes(bucket, joined)
    key = next(
        info.key for info in bucket.list(keys.LOG_SEGMENTS) if sizes[0] < segment(bucket, info.key).first <= sizes[1]
    )
    edit(bucket, key, lambda record: record["entries"][0].update(at=1))
    report = audit(bucket, hub=joined.hub.key)
    assert [(one.file, one.reason.value) for one in report.findings] == [(key, "WrongLog")]
    assert f"entry {sizes[0] + 1}, or one after it" in report.findings[0].message
    assert found(bucket) == {key: {"WrongLog"}}


def test_a_log_that_was_rewritten_to_its_end_is_not_what_was_signed(bucket: ObjectStore, joined: Joined) -> None:
    cosign(bucket, joined, 3)
    head, infos = NOTHING, list(bucket.list(keys.LOG_SEGMENTS))
    for info in infos:
        record = segment(bucket, info.key)
        entries = [one.model_copy(update={"at": 1}) for one in record.entries]
        changed = record.model_copy(update={"entries": entries, "before": head})
        bucket.put(info.key, canonical_json(changed))
        head = follow(head, changed.digests)
    assert holds(bucket).figures.log_entries > 3
    report = audit(bucket, hub=joined.hub.key)
    assert {one.reason.value for one in report.findings} == {"WrongLog"}
    assert any("the signature of north is of another log" in one.message for one in report.findings)


def test_a_log_that_was_cut_ends_before_what_was_signed(bucket: ObjectStore, joined: Joined) -> None:
    infos = list(bucket.list(keys.LOG_SEGMENTS))
    gone = [info.key for info in infos if segment(bucket, info.key).last > signed_sizes(bucket, joined)[1]]
    bucket.delete(gone)
    assert found(bucket, hub=joined.hub.key) == {gone[0]: {"Missing"}}


def test_a_segment_that_was_taken_out(bucket: ObjectStore, joined: Joined) -> None:
    key = list(bucket.list(keys.LOG_SEGMENTS))[1].key
    bucket.delete([key])
    assert found(bucket, hub=joined.hub.key) == {key: {"Missing"}}


def test_a_signature_of_a_head_by_a_stranger(bucket: ObjectStore, joined: Joined) -> None:
    cosign(bucket, joined, 3)
    key = keys.log_cosignature("north")
    said = statements.verify(bucket.get(key), statements.Cosign, joined.north.key)
    bucket.put(key, said.seal(Identity.new()))
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}


def test_a_last_revocation_that_no_plan_needs_is_missed_by_the_log(bucket: ObjectStore, joined: Joined) -> None:
    """What the records alone cannot tell."""
    later = keys.member("north", 3)
    said = list(bucket.list(keys.LOG_SEGMENTS))[-1]
    last = segment(bucket, said.key)
    entry = LogEntry(kind=LogKind.REVOKED, participant="north", serial=3, subject="ab" * 32)
    more = Segment(
        first=last.last + 1,
        before=follow(last.before, last.digests),
        entries=[entry],
        members={**last.members, "north": 3},
        committed=last.committed,
    )
    bucket.put(keys.log_segment(more.first), canonical_json(more))
    assert found(bucket, hub=joined.hub.key) == {later: {"Missing"}}


def test_what_does_not_belong_into_the_log_is_foreign(bucket: ObjectStore, joined: Joined) -> None:
    bucket.put("log/other.json", b"{}")
    assert found(bucket, hub=joined.hub.key) == {"log/other.json": {"Foreign"}}
