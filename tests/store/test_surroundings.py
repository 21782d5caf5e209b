"""What institutions' machines and networks do to a store: each ends in one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.store.errors import Refused, StoreError, Unreachable, Unusable
from photon.store.objects import ObjectStore
from photon.store.retry import RetryPolicy
from photon.store.source import UrlSource
from photon.store.transfer import upload
from tests.faults import Answer, Asked, FaultProxy
from tests.opened import OpenStore

pytestmark = pytest.mark.s3
ONCE = RetryPolicy(attempts=1)


@contextmanager
def answering(
    storage: StorageSpec, s3: EmbeddedStore, instead: Callable[[Asked], Answer | None]
) -> Iterator[ObjectStore]:
    """The bucket behind something that answers in its own way."""
    with FaultProxy(s3.endpoint, instead=instead) as proxy:
        spec = storage.model_copy(update={"endpoint": proxy.endpoint})
        with ObjectStore.open(spec, access_key=s3.access_key, secret_key=s3.secret_key) as store:
            yield store


# -- credentials --------------------------------------------------------------------------------------------------


def test_temporary_credentials_are_sent_with_their_token(storage: StorageSpec, s3: EmbeddedStore) -> None:
    seen: list[Asked] = []

    def note(asked: Asked) -> None:
        seen.append(asked)

    with FaultProxy(s3.endpoint, instead=note) as proxy:
        spec = storage.model_copy(update={"endpoint": proxy.endpoint})
        environ = {"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "a-token\n"}
        store = ObjectStore.from_environment(spec, environ)
        with store, pytest.raises(Refused):
            store.put("a", b"1")
        assert seen[-1].headers["X-Amz-Security-Token"] == "a-token"
        assert "X-Amz-Security-Token=a-token" in store.presign_get("a", valid_seconds=60)
        put = store.presign_put("a", size_bytes=0, sha256="0" * 64, valid_seconds=60)
        assert "X-Amz-Security-Token=a-token" in put.url


def test_keys_from_files_may_end_with_a_line_break(storage: StorageSpec, s3: EmbeddedStore, store: ObjectStore) -> None:
    environ = {"AWS_ACCESS_KEY_ID": f"{s3.access_key}\n", "AWS_SECRET_ACCESS_KEY": f" {s3.secret_key}\r\n"}
    with ObjectStore.from_environment(storage, environ) as opened:
        opened.check()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_key_that_is_none_is_named_and_not_shown(storage: StorageSpec, name: str) -> None:
    environ = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"} | {name: "two\nsecret lines"}
    with pytest.raises(Unusable, match=f"{name} holds a character that no key has") as caught:
        ObjectStore.from_environment(storage, environ)
    assert "secret lines" not in str(caught.value)


def test_an_aws_configuration_that_cannot_be_used_is_named(
    storage: StorageSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text("[default]\nregion = x\nno equals sign\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    with pytest.raises(Unusable, match="parse") as caught:
        ObjectStore.from_environment(storage, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_photon_makes_itself_need_not_be_right(
    storage: StorageSpec, store: ObjectStore, open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("[default]\nretry_mode = often\nmax_attempts = many\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    open_store(storage).check()


def test_a_profile_that_does_not_exist_is_named(storage: StorageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "laboratory")
    with pytest.raises(Unusable, match="laboratory"):
        ObjectStore.open(storage, access_key="a", secret_key="b")


# -- something else answers ---------------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><body>Please accept our terms.</body></html>"


def everything(store: ObjectStore) -> list[Callable[[], object]]:
    """One of each kind of request."""

    def ranged() -> None:
        source = UrlSource(store.presign_get("a", valid_seconds=60), 10, retry=ONCE)
        try:
            source.read_into(0, memoryview(bytearray(10)))
        finally:
            source.close()

    put = store.presign_put("a", size_bytes=1, sha256="0" * 64, valid_seconds=60)
    return [
        store.check,
        lambda: store.put("a", b"1"),
        lambda: store.create("a", b"1"),
        lambda: store.fetch("a"),
        lambda: store.head("a"),
        lambda: list(store.list()),
        lambda: store.multipart("a"),
        ranged,
        lambda: upload(put.url, put.headers, memoryview(b"1"), retry=ONCE),
    ]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, b""),
        (200, {"Content-Type": "text/html"}, PAGE),
        (302, {"Location": "http://login.invalid/?secret"}, b""),
        (403, {"Content-Type": "text/html"}, PAGE),
    ],
    ids=["empty", "page", "redirect", "forbidden"],
)
def test_a_captive_portal_is_no_store_and_no_traceback(
    storage: StorageSpec, s3: EmbeddedStore, status: int, headers: dict[str, str], body: bytes
) -> None:
    with answering(storage, s3, lambda _: (status, headers, body)) as store:
        for request in everything(store):
            with pytest.raises(StoreError) as caught:
                request()
            assert isinstance(caught.value, Unreachable | Refused), request
            assert store.endpoint.removeprefix("http://") in str(caught.value)
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)
        if status == 200:
            with pytest.raises(Unreachable, match="is not an S3 API"):
                store.check()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_endpoint_that_redirects_to_https_is_named(storage: StorageSpec, s3: EmbeddedStore, status: int) -> None:
    def https(asked: Asked) -> Answer:
        return status, {"Location": f"https://127.0.0.1:8443{asked.path}"}, b""

    with answering(storage, s3, https) as store:
        with pytest.raises(Unusable, match=r"redirects to https://127\.0\.0\.1:8443: set storage\.endpoint to it"):
            store.check()
        for request in everything(store):
            with pytest.raises(StoreError, match="redirects to https://127"):
                request()


def test_a_wrong_region_is_named_and_not_followed(storage: StorageSpec, s3: EmbeddedStore) -> None:
    elsewhere = b"<Error><Code>PermanentRedirect</Code><Message>use eu-west-1</Message><Endpoint>x</Endpoint></Error>"
    moved = (301, {"x-amz-bucket-region": "eu-west-1"}, elsewhere)
    with (
        answering(storage, s3, lambda _: moved) as store,
        pytest.raises(Unusable, match=r"correct storage\.region .*use eu-west-1"),
    ):
        store.check()


# -- object lock --------------------------------------------------------------------------------------------------


def test_a_bucket_with_object_lock_gets_its_checksums(
    storage: StorageSpec, s3: EmbeddedStore, store: ObjectStore
) -> None:
    refused: list[str] = []

    def locked(asked: Asked) -> Answer | None:
        names = {name.lower() for name in asked.headers}
        checked = "content-md5" in names or any(name.startswith("x-amz-checksum-") for name in names)
        if checked or asked.method != "PUT":
            return None
        refused.append(asked.path)
        said = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests"
        return 400, {}, f"<Error><Code>InvalidRequest</Code><Message>{said}</Message></Error>".encode()

    with answering(storage, s3, locked) as far:
        far.put("a", b"1")
        assert far.create("b", b"1")
        assert refused == []
        with far.multipart("c") as whole:
            whole.upload_part(1, bytes(5 * 2**20))
            whole.upload_part(2, b"end")
            whole.complete()
        assert len(refused) == 1
        head = store.head("c")
        assert head is not None
        assert head.size_bytes == 5 * 2**20 + 3


def test_deletions_carry_an_md5_that_stores_of_any_age_know(
    storage: StorageSpec, s3: EmbeddedStore, store: ObjectStore
) -> None:
    deletions: list[Asked] = []

    def note(asked: Asked) -> None:
        if asked.method == "POST":
            deletions.append(asked)

    with answering(storage, s3, note) as far:
        far.put("a", b"1")
        far.delete(["a"])
    assert store.head("a") is None
    (asked,) = deletions
    assert "Content-MD5" in asked.headers
    assert not [name for name in asked.headers if name.lower().startswith("x-amz-checksum")]
