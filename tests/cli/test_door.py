"""What ``photon run`` makes of the options of the door: addresses, certificates, and what it keeps for invitations."""

from __future__ import annotations

import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from photon.api.access import read_access
from photon.api.job import FederatedTrainingJob
from photon.api.placement import StorageSpec
from photon.cli.institutions import door_options
from photon.errors import RunFailed, UserError
from photon.local.border import entrance
from photon.local.door import Door, DoorOptions, make_door, read_door, write_door
from photon.local.front import front
from photon.local.object_store import EmbeddedStore
from photon.local.run import run_job
from photon.local.run_folder import RunDirectory
from photon.protocol.canonical import sha256_hex
from photon.store.objects import ObjectStore
from photon.trust.keys import Identity
from photon.trust.rotation import rotate_identity
from tests.cli.conftest import job_document

REMOTE = [{"name": "st-mary", "remote": {}}, {"name": "north", "remote": {}}]
Make = Callable[..., Door]


def job(folder: Path, **spec: Any) -> FederatedTrainingJob:
    return FederatedTrainingJob.model_validate(job_document(folder, **{"participants": REMOTE, **spec}))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The door of a run with these options."""
    run = RunDirectory(tmp_path / "runs" / "small")
    run.root.mkdir(parents=True)
    identity = Identity.new()

    def made(listen: str, *, spec: dict[str, Any] | None = None, **options: Any) -> Door:
        given = DoorOptions(listen=listen, **options)
        return make_door(
            job(tmp_path, **spec or {}), run, given, identity=identity, identity_path=tmp_path / "identity.pem"
        )

    return made


def test_an_address_that_others_reach_has_tls_and_the_store_is_at_the_next_port(make: Make, tmp_path: Path) -> None:
    door = make("hub.example.org:8443")
    assert door.url == "https://hub.example.org:8443/jobs/default/small"
    assert (door.objects, door.store_listen) == ("https://hub.example.org:8444", "hub.example.org:8444")
    assert door.bundle.startswith("-----BEGIN CERTIFICATE-----")
    assert door.key is not None
    assert stat.S_IMODE(door.key.stat().st_mode) == 0o600
    run = RunDirectory(tmp_path / "runs" / "small")
    write_door(run, door)
    assert read_door(run) == door


def test_a_loopback_address_needs_no_tls_and_may_be_behind_a_proxy(make: Make) -> None:
    door = make("127.0.0.1:8443")
    assert (door.url, door.objects) == ("http://127.0.0.1:8443/jobs/default/small", "http://127.0.0.1:8444")
    assert door.certificate is None
    behind = make("127.0.0.1:8443", public_url="https://hub.example.org", public_store="https://hub.example.org")
    assert behind.url == "https://hub.example.org/jobs/default/small"
    assert (behind.objects, behind.certificate) == ("https://hub.example.org", None)
    own = make("127.0.0.1:8443", public_url="https://127.0.0.1:8443")
    assert own.certificate is not None, "its own TLS, for it is the address that institutions use"
    assert own.objects == "https://127.0.0.1:8444"


def test_the_authority_stays_when_the_address_changes(make: Make) -> None:
    first = make("0.0.0.0:8443", public_url="https://hub.example.org:8443")
    second = make("0.0.0.0:8443", public_url="https://other.example.org:8443")
    assert first.bundle == second.bundle, "invitations that were sent stay good"


def test_a_store_of_its_own_is_reached_at_its_own_address(make: Make) -> None:
    door = make("hub.example.org:8443", spec={"storage": {"endpoint": "https://s3.example.org"}})
    assert (door.objects, door.store_listen) == ("https://s3.example.org", None)


def test_a_given_certificate_is_used(make: Make, tmp_path: Path) -> None:
    door = make("hub.example.org:8443")
    ca = tmp_path / "ca.pem"
    ca.write_text(door.bundle)
    given = make("hub.example.org:9443", certificate=door.certificate, key=door.key)
    assert (given.certificate, given.bundle) == (door.certificate, "")
    assert make("hub.example.org:9443", certificate=door.certificate, key=door.key, authority=ca).bundle == door.bundle
    with pytest.raises(UserError, match="not a certificate in PEM format and its key"):
        make("hub.example.org:9443", certificate=ca, key=door.key)


@pytest.mark.parametrize(
    ("listen", "options", "said"),
    [
        ("8443", {}, "--door 8443: must be HOST:PORT"),
        ("hub:99999", {}, "must be HOST:PORT"),
        ("0.0.0.0:8443", {}, "is no address that institutions could use: add --public-url https://HOST:8443"),
        ("hub.test:8443", {"public_url": "http://hub.test"}, "--public-url http://hub.test: must begin with https"),
        ("hub.test:8443", {"public_url": "https://hub.test/x"}, "must be an origin"),
        ("hub.test:8443", {"public_store": "hub.test"}, "--public-store hub.test: must be https"),
        ("hub.test:8443", {"certificate": "c.pem"}, "--door-certificate and --door-key belong together"),
        ("hub.test:8443", {"authority": "c.pem"}, "--door-ca says who signed --door-certificate"),
    ],
)
def test_options_that_cannot_be_are_named(make: Make, listen: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(listen, **options)


def test_a_store_that_is_not_encrypted_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match=r"spec\.storage\.endpoint \(or --public-store\) http://s3\.test.*https://"):
        make("hub.test:8443", spec={"storage": {"endpoint": "http://s3.test"}})


def free_port() -> int:
    """One whose next is free, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def test_a_resumed_run_needs_no_options(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "small")
    run.root.mkdir(parents=True)
    assert entrance(job(tmp_path), run, None) is None
    port = free_port()
    first = entrance(job(tmp_path), run, DoorOptions(listen=f"127.0.0.1:{port}", identity=tmp_path / "id.pem"))
    assert first is not None
    with first.opened("http://127.0.0.1:1") as told:
        assert (told.listen, told.object_endpoint) == (f"127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}")
    assert entrance(job(tmp_path), run, None) == first

    rotate_identity(tmp_path / "id.pem")
    with pytest.raises(UserError, match=r"a hub's key is not changed in mid-job.*--identity .*id\.pem\.previous"):
        entrance(job(tmp_path), run, None)
    assert read_access(run.access).participants == {}


def test_a_door_without_participants_of_others_is_a_mistake(tmp_path: Path, prepared: Path) -> None:
    here = FederatedTrainingJob.model_validate(job_document(prepared))
    with pytest.raises(UserError, match="the job has none"):
        run_job(
            here,
            run=RunDirectory(tmp_path / "runs" / "small"),
            folder=tmp_path,
            quiet=True,
            door=DoorOptions(listen="127.0.0.1:8443"),
        )


def test_options_of_a_door_without_a_door_are_a_mistake() -> None:
    assert door_options(listen=None, identity=None, public_url=None) is None
    with pytest.raises(UserError, match="--public-url needs --door HOST:PORT"):
        door_options(listen=None, identity=None, public_url="https://hub.test")
    with pytest.raises(UserError, match="--identity needs --door HOST:PORT"):
        door_options(listen=None, identity=Path("hub.pem"))


def test_presigned_urls_hold_through_the_front_with_tls_and_nothing_else_is_answered(
    make: Make, s3: EmbeddedStore, store: ObjectStore, storage: StorageSpec
) -> None:
    door = make("127.0.0.1:1443", public_url="https://127.0.0.1:1443")
    trusting = ssl.create_default_context(cadata=door.bundle)
    store.put("model", b"x" * 3_000_000)
    with (
        front(("127.0.0.1", 0), s3.endpoint, certificate=door.certificate, key=door.key) as (host, port),
        httpx.Client(verify=trusting, trust_env=False) as client,
    ):
        base = f"https://{host}:{port}"
        signing = ObjectStore.open(
            storage.model_copy(update={"endpoint": base}), access_key=s3.access_key, secret_key=s3.secret_key
        )
        with signing:
            url = signing.presign_get("model", valid_seconds=60)
            put = signing.presign_put("part", size_bytes=4, sha256=sha256_hex(b"part"), valid_seconds=60)
        assert url.startswith(base)
        assert client.get(url).content == b"x" * 3_000_000
        assert client.put(put.url, content=b"part", headers=dict(put.headers)).status_code == 200
        assert store.get("part") == b"part"
        assert client.get(f"{base}/{storage.bucket}").status_code == 403


def test_a_port_that_is_taken_is_named(s3: EmbeddedStore) -> None:
    port = int(s3.endpoint.rpartition(":")[2])
    taken = front(("127.0.0.1", port), s3.endpoint, certificate=None, key=None)
    with pytest.raises(RunFailed, match=rf"127\.0\.0\.1:{port}, for the object store, cannot be listened at"), taken:
        pass
