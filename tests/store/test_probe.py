"""The probe finds out what a store cannot do; each lack is that of a real store, made with a proxy in front of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from urllib.parse import unquote, urlsplit

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.store import probe as probing
from photon.store.errors import AccessDenied, StorageFull, Unreachable, Unusable
from photon.store.objects import ObjectInfo, ObjectStore
from photon.store.probe import probe, require
from tests.faults import Answer, Asked, Fault, FaultProxy, Instead
from tests.opened import OpenStore

pytestmark = pytest.mark.s3

NOT_IMPLEMENTED = "<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality that is not implemented</Message></Error>"  # noqa: E501


@pytest.fixture
def lacking(
    store: ObjectStore, storage: StorageSpec, s3: EmbeddedStore, open_store: OpenStore
) -> Iterator[Callable[[Callable[[ObjectStore, Asked], Answer | None]], ObjectStore]]:
    """Opens ``store`` with something in front that answers some requests in its own way."""
    with ExitStack() as running:

        def front(lack: Callable[[ObjectStore, Asked], Answer | None]) -> ObjectStore:
            instead: Instead = lambda asked: lack(store, asked)  # noqa: E731
            proxy = running.enter_context(FaultProxy(s3.endpoint, instead=instead))
            return open_store(storage.model_copy(update={"endpoint": proxy.endpoint}))

        yield front


def key(store: ObjectStore, asked: Asked) -> str:
    whole = unquote(urlsplit(asked.path).path).removeprefix("/")
    return whole.removeprefix(store.uri("").removeprefix("s3://"))


def ignores_the_condition(store: ObjectStore, asked: Asked) -> Answer | None:
    """As Google's XML API does: it knows If-None-Match for reads only."""
    if asked.method == "PUT" and "If-None-Match" in asked.headers:
        store.delete([key(store, asked)])
    return None


def ignores_the_condition_of_urls(store: ObjectStore, asked: Asked) -> Answer | None:
    return ignores_the_condition(store, asked) if "X-Amz-Signature" in asked.path else None


def implements_no_condition(store: ObjectStore, asked: Asked) -> Answer | None:
    """As Backblaze B2 does."""
    if asked.method == "PUT" and "If-None-Match" in asked.headers:
        return 501, {"Content-Type": "application/xml"}, NOT_IMPLEMENTED.encode()
    return None


def answers_304(store: ObjectStore, asked: Asked) -> Answer | None:
    """As releases of MinIO of 2023 did."""
    if asked.method == "PUT" and "If-None-Match" in asked.headers and store.head(key(store, asked)) is not None:
        return 304, {}, b""
    return None


def verifies_no_checksum(store: ObjectStore, asked: Asked) -> Answer | None:
    """As Ceph did before it knew them."""
    if asked.method == "PUT" and "x-amz-checksum-sha256" in asked.headers and store.head(key(store, asked)) is None:
        return 200, {"ETag": store.put(key(store, asked), asked.body)}, b""
    return None


def takes_no_checksum(store: ObjectStore, asked: Asked) -> Answer | None:
    if "x-amz-checksum-sha256" in asked.headers:
        return 400, {}, b"<Error><Code>InvalidArgument</Code><Message>Unsupported header</Message></Error>"
    return None


def reads_any_version(store: ObjectStore, asked: Asked) -> Answer | None:
    if asked.method != "GET" or "If-Match" not in asked.headers:
        return None
    data = store.get(key(store, asked))
    first, last = (int(number) for number in asked.headers["Range"].removeprefix("bytes=").split("-"))
    return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]


def lists_late(store: ObjectStore, asked: Asked) -> Answer | None:
    if asked.method == "GET" and "list-type=2" in asked.path and "probe" in asked.path:
        return 200, {}, b"<ListBucketResult><Name>photon</Name><IsTruncated>false</IsTruncated></ListBucketResult>"
    return None


def has_no_multipart(store: ObjectStore, asked: Asked) -> Answer | None:
    return (501, {}, NOT_IMPLEMENTED.encode()) if asked.method == "POST" and "uploads" in asked.path else None


def lists_no_uploads(store: ObjectStore, asked: Asked) -> Answer | None:
    return (501, {}, NOT_IMPLEMENTED.encode()) if asked.method == "GET" and "uploads" in asked.path else None


def deletes_nothing(store: ObjectStore, asked: Asked) -> Answer | None:
    deleting = asked.method == "POST" and "delete" in asked.path
    return (200, {}, b"<DeleteResult></DeleteResult>") if deleting else None


def test_a_store_that_can_do_all_of_it_is_left_as_it_was(store: ObjectStore) -> None:
    store.put("job.json", b"{}")
    assert [finding.feature for finding in probe(store) if not finding.holds] == []
    require(store)
    assert [info.key for info in store.list()] == ["job.json"]
    assert store.unfinished() == []


@pytest.mark.parametrize(
    ("lack", "feature", "said"),
    [
        (
            ignores_the_condition,
            probing.CONDITIONAL_CREATE,
            "writers of one object [2-5] were told that they created it",
        ),
        (ignores_the_condition_of_urls, probing.UPLOAD_ONCE, "it wrote over an object"),
        (implements_no_condition, probing.CONDITIONAL_CREATE, "functionality that is not implemented"),
        (answers_304, probing.CONDITIONAL_CREATE, "304"),
        (takes_no_checksum, probing.UPLOAD_URLS, "Unsupported header"),
        (reads_any_version, probing.PINNED_READS, "another version"),
        (lists_late, probing.LISTING, "it does not list probe/"),
        (has_no_multipart, probing.MULTIPART, "functionality that is not implemented"),
        (deletes_nothing, probing.DELETION, "is still there"),
    ],
)
def test_a_feature_that_is_needed_and_missing_is_named(
    lacking: Callable[..., ObjectStore],
    lack: Callable[[ObjectStore, Asked], Answer | None],
    feature: str,
    said: str,
) -> None:
    store = lacking(lack)
    missing = {finding.feature: finding for finding in probe(store) if not finding.holds and finding.needed}
    assert next(iter(missing)) == feature
    if feature == probing.UPLOAD_URLS:
        assert {f.feature: f.holds for f in probe(store)}[probing.CHECKSUMS] is False, (
            "what takes nothing verifies nothing"
        )
    with pytest.raises(Unusable, match=said) as caught:
        require(store)
    assert str(caught.value).startswith(f"the object store at {store.endpoint} cannot hold a job, it lacks {feature}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lack", "feature"), [(verifies_no_checksum, probing.CHECKSUMS), (lists_no_uploads, probing.UNFINISHED)]
)
def test_a_feature_that_one_can_do_without_is_told(
    lacking: Callable[..., ObjectStore],
    store: ObjectStore,
    lack: Callable[[ObjectStore, Asked], Answer | None],
    feature: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="photon"):
        require(lacking(lack))
    assert [record.message for record in caplog.records if f"lacks {feature}" in record.message]
    assert list(store.list()) == []


def test_a_missing_feature_is_not_asked_for_again_and_again(
    store: ObjectStore, storage: StorageSpec, s3: EmbeddedStore, open_store: OpenStore
) -> None:
    with FaultProxy(s3.endpoint, instead=lambda asked: implements_no_condition(store, asked)) as proxy:
        spec = storage.model_copy(update={"endpoint": proxy.endpoint})
        far = open_store(spec)
        with pytest.raises(Unusable, match="lacks a feature that Photon needs"):
            far.create("commit.json", b"1")
        assert proxy.seen("PUT") == 1


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(403, "AccessDenied", AccessDenied), (503, "SlowDown", Unreachable)],
)
def test_what_passes_is_no_missing_feature(
    lacking: Callable[..., ObjectStore], status: int, code: str, error: type[Exception]
) -> None:
    body = f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode()
    store = lacking(lambda _, asked: (status, {}, body) if asked.method == "PUT" else None)
    with pytest.raises(error, match="not now"):
        require(store)


def test_a_store_that_is_full_is_probed_another_time(
    lacking: Callable[..., ObjectStore], caplog: pytest.LogCaptureFixture
) -> None:
    full = b"<Error><Code>InternalError</Code><Message>no space left on device</Message></Error>"
    store = lacking(lambda _, asked: (500, {}, full) if asked.method == "PUT" else None)
    with pytest.raises(StorageFull):
        probe(store)
    require(store)
    assert "could not be probed" in caplog.text


def test_what_a_probe_that_died_has_left_goes_after_a_while(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("probe/of another/created", b"")
    probe(store)
    assert [info.key for info in store.list()] == ["probe/of another/created"], "it may be at work"
    listed = store.list

    def long_ago(prefix: str = "", *, page_size: int = 1000) -> Iterator[ObjectInfo]:
        for info in listed(prefix, page_size=page_size):
            age = timedelta(hours=2 if "of another" in info.key else 0)
            at: datetime = info.last_modified - age
            yield ObjectInfo(key=info.key, size_bytes=info.size_bytes, etag=info.etag, last_modified=at)

    monkeypatch.setattr(store, "list", long_ago)
    probe(store)
    assert list(listed()) == []


def test_faults_on_the_way_do_not_change_what_is_found(
    storage: StorageSpec, s3: EmbeddedStore, store: ObjectStore, open_store: OpenStore
) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        spec = storage.model_copy(update={"endpoint": proxy.endpoint})
        far = open_store(spec)
        proxy.plan(Fault(status=503), Fault(method="GET", status=503), Fault(method="GET", cut_answer_after=0))
        require(far)
