"""``photon invite`` and those after it: who may join a job of this hub, and who does."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from photon.api.access import AccessFile, read_access
from photon.api.invitation import parse_invitation, read_invitation
from photon.api.job import FederatedTrainingJob
from photon.api.join import Access, Approval
from photon.api.placement import StorageSpec
from photon.cli import invite as inviting
from photon.cli.membership import admit, participants, revoke
from photon.errors import UserError
from photon.local.border import entrance
from photon.local.door import DoorOptions, write_door
from photon.local.object_store import EmbeddedStore
from photon.local.run_folder import RunDirectory
from photon.protocol.canonical import canonical_json, sha256_hex
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.trust.keys import Identity, read_identity
from photon.trust.members import MemberKind, MemberRecord
from photon.trust.statements import Enrolment, Leave
from tests.cli.conftest import job_document
from tests.cli.test_door import REMOTE

NOW = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)
LOCAL = {"name": "here", "worker": {"data": {"uri": "data"}}}
Invite = Callable[..., str]


@pytest.fixture
def hub(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    s3: EmbeddedStore,
    storage: StorageSpec,
) -> RunDirectory:
    """The folder of a run that has its door, in the folder where the commands are typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("PHOTON_IDENTITY", str(tmp_path / "hub.pem"))
    where = storage.model_dump(mode="json", by_alias=True, exclude_none=True)
    document = job_document(tmp_path, participants=[*REMOTE, LOCAL], storage=where)
    job = FederatedTrainingJob.model_validate(document)
    run = RunDirectory(tmp_path / "runs" / "small")
    run.root.mkdir(parents=True)
    run.write_job(job)
    options = DoorOptions(listen="hub.example.org:8443", public_store="https://s3.example.org")
    opened = entrance(job, run, options)
    assert opened is not None
    write_door(run, opened.door)
    return run


@pytest.fixture
def invite(hub: RunDirectory) -> Invite:
    """Invite st-mary to that run."""

    def made(name: str = "st-mary", **options: Any) -> str:
        given = {"key": None, "approval": Approval.AUTOMATIC, "valid": "7d", "renew": False, "output": None, "now": NOW}
        return inviting.invite("small", name, **{**given, **options})

    return made


def entries(hub: RunDirectory) -> AccessFile:
    return read_access(hub.access)


def test_an_invitation_is_read_by_who_gets_it_and_the_hub_keeps_no_token(
    invite: Invite, hub: RunDirectory, tmp_path: Path
) -> None:
    text = invite()
    assert "2. Compare the hub's key by telephone: " + read_identity(tmp_path / "hub.pem").key.fingerprint in text
    assert "One use, until 2026-12-04T12:30Z" in text
    with pytest.raises(UserError, match=r"data\.uri: still says FILL IN"):
        parse_invitation(text, "st-mary.yaml")
    got = parse_invitation(text.replace("uri: FILL IN", "uri: /data"), "st-mary.yaml")
    assert got.job.participant == "st-mary"
    join = got.job.spec.join
    assert join.url == "https://hub.example.org:8443/jobs/default/small"
    assert join.objects == ["https://s3.example.org"]
    assert join.hub_key == read_identity(tmp_path / "hub.pem").key.text
    assert join.ca_bundle.strip() == (hub.root / "tls" / "ca.pem").read_text().strip()
    assert got.token is not None
    kept = entries(hub).participants["st-mary"]
    assert kept.invitation is not None
    assert kept.invitation.sha256 == hashlib.sha256(got.token.encode()).hexdigest()
    assert got.token.startswith(f"phi_{kept.invitation.id}.")
    assert kept.invitation.expires == int((NOW + timedelta(days=7)).timestamp())
    assert got.token not in hub.access.read_text()
    assert stat.S_IMODE(hub.access.stat().st_mode) == 0o600


def test_a_file_is_for_its_owner_and_replaces_nothing(invite: Invite, tmp_path: Path, hub: RunDirectory) -> None:
    path = tmp_path / "st-mary.yaml"
    invite(output=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(path.read_text().replace("uri: FILL IN", "uri: /data"))
    assert read_invitation(path).token is not None
    before = entries(hub)
    with pytest.raises(UserError, match="never replaces a file"):
        invite(renew=True, output=path)
    with pytest.raises(UserError, match="cannot be written: no such file"):
        invite(renew=True, output=tmp_path / "absent" / "x.yaml")
    assert entries(hub) == before


def test_a_renewed_invitation_ends_the_one_before(invite: Invite, hub: RunDirectory) -> None:
    first = invite()
    with pytest.raises(UserError, match=r"was invited already \(until 2026-12-04 12:30 UTC\): --renew"):
        invite()
    with pytest.raises(UserError, match="which is over"):
        invite(now=NOW + timedelta(days=8))
    second = invite(renew=True, approval=Approval.MANUAL)
    kept = entries(hub).participants["st-mary"]
    assert (kept.serial, kept.approval) == (2, Approval.MANUAL)
    assert kept.invitation is not None
    assert f"phi_{kept.invitation.id}." in second
    assert f"phi_{kept.invitation.id}." not in first


def test_a_known_key_needs_no_token(invite: Invite, hub: RunDirectory) -> None:
    key = Identity.new().key.text
    text = invite(key=key)
    assert parse_invitation(text.replace("uri: FILL IN", "uri: /data"), "x").token is None
    assert "It holds no secret" in text
    assert entries(hub).participants["st-mary"].key == key
    assert invite(key=key) == text, "nothing is lost by asking for it once more"
    with pytest.raises(UserError, match="two participants cannot have the same key"):
        invite("north", key=key)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("here", {}, "here runs at the hub itself"),
        ("south", {}, "south is no participant of small; those that join from elsewhere are st-mary, north"),
        ("st-mary", {"valid": "7"}, "--valid 7: must be between 1m and 90d"),
        ("st-mary", {"valid": "91d"}, "must be between"),
        ("st-mary", {"key": "ed25519:x"}, "--key ed25519:x: a public key must be"),
        ("st-mary", {"renew": True}, "was not invited yet"),
    ],
)
def test_mistakes_change_nothing(invite: Invite, hub: RunDirectory, name: str, options: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        invite(name, **options)
    assert entries(hub).participants == {}


def test_a_run_without_a_door_and_no_run_at_all_are_said(hub: RunDirectory) -> None:
    with pytest.raises(UserError, match="absent: there is no such run"):
        participants("absent")
    hub.door.unlink()
    with pytest.raises(UserError, match=r"has no door for other institutions yet: .*--door HOST:PORT"):
        participants(str(hub.root))


class Site:
    """An institution that enrolled, as the aggregator's door records it."""

    def __init__(self, store: ObjectStore) -> None:
        self.identity = Identity.new()
        self._store = store
        self._hub = read_identity(Path("hub.pem")).key
        store.put(keys.JOB, b"{}")

    def enrol(self, *, awaiting: bool = False) -> None:
        statement = Enrolment(
            audience=self._hub.id,
            job_name="default/small",
            invitation="a" * 8,
            participant="st-mary",
            public_key=self.identity.key.text,
            version="0.1.0",
            protocol=1,
            nonce="0" * 32,
        )
        self.record(1, MemberKind.ENROLLED, statement.seal(self.identity), awaiting=awaiting)

    def leave(self, serial: int) -> None:
        job = sha256_hex(b"{}")
        statement = Leave(audience=self._hub.id, job=job, participant="st-mary", reason="Decided")
        self.record(serial, MemberKind.LEFT, statement.seal(self.identity))

    def record(self, serial: int, kind: MemberKind, envelope: bytes | None = None, *, awaiting: bool = False) -> None:
        record = MemberRecord(
            participant="st-mary",
            serial=serial,
            kind=kind,
            key=self.identity.key.text,
            envelope=None if envelope is None else envelope.decode(),
            awaiting=awaiting,
            at=int(NOW.timestamp()),
        )
        self._store.put(keys.member("st-mary", serial), canonical_json(record))


@pytest.fixture
def site(store: ObjectStore, hub: RunDirectory) -> Site:
    assert hub.door.exists(), "its key is made with its door"
    return Site(store)


def row(name: str = "st-mary") -> str:
    return next(line for line in participants("small") if line.startswith(name))


def test_the_table_says_where_each_stands(invite: Invite, site: Site) -> None:
    assert row().split() == ["st-mary", "not", "invited", "-", "-"]
    invite(approval=Approval.MANUAL)
    assert row().split() == ["st-mary", "Invited", "-", "-"]
    site.enrol(awaiting=True)
    fingerprint = site.identity.key.fingerprint
    assert row() == f"st-mary  AwaitingApproval: photon admit  {fingerprint}  2026-11-27 12:30 UTC"
    admit("small", "st-mary", fingerprint)
    site.record(2, MemberKind.GRANTED)
    assert row().startswith("st-mary  Active")
    revoke("small", "st-mary", undo=False)
    assert row().startswith("st-mary  Active, being revoked  ")
    site.record(3, MemberKind.REVOKED)
    assert row().startswith("st-mary  Revoked  ")
    revoke("small", "st-mary", undo=True)
    assert row().startswith("st-mary  Revoked, being given back  ")
    site.record(4, MemberKind.GRANTED)
    site.leave(5)
    assert row().startswith("st-mary  Left  ")
    assert len(participants("small")) == 3, "those that run at the hub do not join"


def test_admitting_confirms_the_key_that_enrolled_and_no_other(invite: Invite, site: Site, hub: RunDirectory) -> None:
    with pytest.raises(UserError, match="was not invited yet"):
        admit("small", "st-mary", site.identity.key.text)
    invite(approval=Approval.MANUAL)
    with pytest.raises(UserError, match=r"has not enrolled yet.*give the whole key"):
        admit("small", "st-mary", site.identity.key.fingerprint)
    site.enrol(awaiting=True)
    other = Identity.new().key
    for text in (other.text, other.fingerprint):
        with pytest.raises(UserError, match=f"enrolled with the key {site.identity.key.fingerprint}, not with"):
            admit("small", "st-mary", text)
    assert entries(hub).participants["st-mary"].key is None
    assert "is confirmed; st-mary takes part" in admit("small", "st-mary", site.identity.key.text)[0]
    assert entries(hub).participants["st-mary"].key == site.identity.key.text


def test_revoking_needs_somebody_and_forbids_a_new_invitation(invite: Invite, hub: RunDirectory) -> None:
    with pytest.raises(UserError, match="was not invited yet"):
        revoke("small", "st-mary", undo=False)
    invite()
    revoke("small", "st-mary", undo=False)
    assert entries(hub).participants["st-mary"].access is Access.REVOKED
    with pytest.raises(UserError, match=r"is revoked: photon revoke .* st-mary --undo gives it back"):
        invite(renew=True)


def test_a_record_that_was_changed_is_not_believed(invite: Invite, site: Site, store: ObjectStore) -> None:
    site.enrol()
    record = MemberRecord.model_validate_json(store.get(keys.member("st-mary", 1)))
    stolen = record.model_copy(update={"key": Identity.new().key.text})
    store.put(keys.member("st-mary", 1), canonical_json(stolen))
    with pytest.raises(Exception, match=r"members/st-mary/00001\.json"):
        participants("small")
