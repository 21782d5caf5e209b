"""URLs of a model last as long as the keys that signed them, and no longer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.credentials import RefreshableCredentials

from photon.protocol.records import FileRecord
from photon.store.objects import ObjectStore
from photon_aggregator.http.model_urls import ModelUrls
from photon_aggregator.rounds.events import Head
from tests.aggregator.machine import head


def a_head() -> Head:
    plain = head(1)
    files = [FileRecord(name="model.safetensors", size_bytes=1, sha256="a" * 64)]
    return Head(commit=plain.commit.model_copy(update={"files": files}), digest=plain.digest)


def lasts(urls: ModelUrls, now: float) -> int:
    return int(parse_qs(urlsplit(urls.model(a_head(), now).files[0].url).query)["X-Amz-Expires"][0])


def test_urls_of_temporary_keys_end_with_the_keys_and_are_made_again_in_time(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = ModelUrls(store, round_seconds=3600)
    assert lasts(urls, 1000.0) == 7200
    keys = RefreshableCredentials(
        "key", "secret", "token", datetime.now(UTC) + timedelta(seconds=1800), dict, "assume-role"
    )
    monkeypatch.setattr(store._s3.client._request_signer, "_credentials", keys)
    fresh = ModelUrls(store, round_seconds=3600)
    assert 1700 < lasts(fresh, 1000.0) <= 1800
    first = fresh.model(a_head(), 1000.0)
    assert fresh.model(a_head(), 1800.0) is first
    assert fresh.model(a_head(), 2000.0) is not first
