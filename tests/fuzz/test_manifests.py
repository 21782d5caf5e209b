"""Manifests that somebody spoiled, ten thousand in ``make fuzz``: only the signed one is kept; memory stays flat."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from photon.api.training import Codec
from photon.protocol.border import BorderUpdate
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.records import Part, UpdateManifest, UpdateMetrics
from photon.trust.keys import Identity
from photon.trust.members import Member
from photon.trust.statements import Update
from photon_aggregator.http.bodies import parse
from photon_aggregator.http.border import evidence
from photon_aggregator.http.border.errors import Denied
from photon_aggregator.http.errors import ApiError
from tests.fuzz import mutations

INPUTS = int(os.environ.get("PHOTON_FUZZ_INPUTS", "1000"))
HUB, SITE = Identity.new(), Identity.new()
JOB = "a" * 64
METRICS = UpdateMetrics(loss_mean=2.0, loss_last=1.0, grad_norm_mean=1.0, grad_norm_max=2.0, clipped_fraction=0.0)
MANIFEST = UpdateManifest(
    job=JOB,
    round=3,
    plan="b" * 64,
    participant="north",
    codec=Codec.DENSE_FP32,
    elements=64,
    tokens=4096,
    local_steps=4,
    parts=[Part(index=0, start=0, stop=64, size_bytes=300, sha256="c" * 64)],
    metrics=METRICS,
)


def signed() -> dict[str, Any]:
    said = Update(
        audience=HUB.key.id,
        job=JOB,
        participant="north",
        round=3,
        plan=MANIFEST.plan,
        manifest=digest(MANIFEST),
        tokens=MANIFEST.tokens,
    )
    manifest = MANIFEST.model_dump(mode="json", by_alias=True)
    return {"submission": {"manifest": manifest}, "envelope": said.seal(SITE).decode()}


def test_no_manifest_but_the_signed_one_is_kept() -> None:
    rng, valid, answers = random.Random(5), signed(), Counter[str]()
    kept: list[str] = []
    store: Any = SimpleNamespace(create=lambda key, _: kept.append(key))
    hub: Any = SimpleNamespace(id=HUB.key.id, job=JOB)
    member = Member(participant="north", key=SITE.key)
    before = 0
    tracemalloc.start()
    try:
        for number in range(INPUTS):
            data = mutations.document(rng, valid)
            if number == 100:
                before = tracemalloc.get_traced_memory()[0]
            try:
                body = parse(BorderUpdate, data)
                evidence.keep_update(store, hub, member, 3, body)
            except Denied as denied:
                answers[denied.why.value] += 1
                continue
            except ApiError as error:
                answers[error.reason.value] += 1
                continue
            assert canonical_json(body.submission.manifest) == canonical_json(MANIFEST), data
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert answers["InvalidRequest"] > INPUTS / 10, answers
    assert answers["BadSignature"] > INPUTS / 50, answers
    # Each name is that of the manifest that was signed.
    assert len(set(kept)) <= 1
    assert grown < 1_000_000 + 200 * len(kept)


def test_the_signed_one_is_kept() -> None:
    kept: list[str] = []
    store: Any = SimpleNamespace(create=lambda key, _: kept.append(key))
    hub: Any = SimpleNamespace(id=HUB.key.id, job=JOB)
    body = parse(BorderUpdate, json.dumps(signed()).encode())
    evidence.keep_update(store, hub, Member(participant="north", key=SITE.key), 3, body)
    assert len(kept) == 1
    with pytest.raises(Denied):
        evidence.keep_update(store, hub, Member(participant="north", key=HUB.key), 3, body)
