"""Statements: a signed one is of one kind, canonical and within bounds, and is parsed only when its signature holds."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from photon.protocol.canonical import canonical_json
from photon.trust.envelope import seal
from photon.trust.errors import BadSignature, BadStatement, TrustError, WrongKind
from photon.trust.statements import (
    KINDS,
    Enrolment,
    Rotate,
    Statement,
    Update,
    verify,
    verify_enrolment,
    verify_rotation,
)
from tests.trust.samples import HUB, NEXT, SITE, STATEMENTS

IDS = [statement.KIND for statement in STATEMENTS]
SEALED = [statement.seal(SITE) for statement in STATEMENTS]
UPDATE = next(statement for statement in STATEMENTS if isinstance(statement, Update))


def test_there_is_a_sample_of_each_kind() -> None:
    assert tuple(type(statement) for statement in STATEMENTS) == KINDS
    assert len({kind.payload_type() for kind in KINDS}) == len(KINDS)
    assert Update.payload_type() == "application/vnd.photon.update.v1+json"


@pytest.mark.parametrize("statement", STATEMENTS, ids=IDS)
def test_a_statement_is_read_as_it_was_signed(statement: Statement) -> None:
    assert verify(statement.seal(HUB), type(statement), HUB.key) == statement


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(range(len(KINDS)), 2)))
def test_no_kind_passes_for_another(one: int, other: int) -> None:
    with pytest.raises(WrongKind):
        verify(SEALED[one], KINDS[other], SITE.key)
    relabeled = json.loads(SEALED[one]) | {"payloadType": KINDS[other].payload_type()}
    with pytest.raises(BadSignature):
        verify(canonical_json(relabeled), KINDS[other], SITE.key)


@given(st.data())
def test_a_changed_byte_of_any_kind_is_refused(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(KINDS) - 1))
    changed = bytearray(SEALED[index])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TrustError):
        verify(bytes(changed), KINDS[index], SITE.key)


def test_a_payload_is_not_parsed_before_its_signature_holds() -> None:
    nonsense = seal(Update.payload_type(), b"no JSON at all", HUB)
    with pytest.raises(BadSignature):
        verify(nonsense, Update, SITE.key)
    with pytest.raises(BadStatement, match="update: payload: Invalid JSON"):
        verify(nonsense, Update, HUB.key)


PLAIN = json.loads(canonical_json(UPDATE))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (json.dumps(PLAIN).encode(), "JSON is not canonical"),
        (canonical_json(UPDATE).strip(), "JSON is not canonical"),
        (canonical_json(PLAIN | {"round": "3"}), "JSON is not canonical"),
        (canonical_json(PLAIN | {"round": 3.0}), "JSON is not canonical"),
        (canonical_json(UPDATE).replace(b'"round":3', b'"round":4,"round":3'), "JSON is not canonical"),
        (canonical_json(PLAIN | {"stepsAgo": 1}), "stepsAgo is a field of another release"),
        (canonical_json(PLAIN | {"tokens": 10**16}), "tokens: "),
        (canonical_json(PLAIN | {"tokens": -1}), "tokens: "),
        (canonical_json(PLAIN | {"round": -1}), "round: "),
        (canonical_json(PLAIN | {"participant": "../x"}), "participant: "),
        (canonical_json(PLAIN | {"manifest": "5F" * 32}), "manifest: "),
        (b"[" * 40_000, "Invalid JSON"),
    ],
    ids=["spaces", "no-newline", "text", "float", "twice", "field", "tokens", "sign", "round", "name", "case", "deep"],
)
def test_a_signed_payload_is_held_to_its_bounds_and_its_spelling(payload: bytes, message: str) -> None:
    with pytest.raises(BadStatement, match=message):
        verify(seal(Update.payload_type(), payload, SITE), Update, SITE.key)


def test_an_enrolment_is_signed_by_the_key_that_it_announces() -> None:
    enrolment = STATEMENTS[0]
    assert isinstance(enrolment, Enrolment)
    assert verify_enrolment(enrolment.seal(SITE), SITE.key) == enrolment
    with pytest.raises(BadStatement, match="publicKey is not the key that signed it"):
        verify_enrolment(enrolment.seal(NEXT), NEXT.key)


def test_a_rotation_needs_both_signatures() -> None:
    rotate = next(statement for statement in STATEMENTS if isinstance(statement, Rotate))
    assert verify_rotation(rotate.seal(SITE, NEXT), SITE.key, NEXT.key) == rotate
    for signers in ((SITE,), (NEXT,), (NEXT, SITE), (SITE, SITE), (HUB, NEXT)):
        with pytest.raises(BadSignature):
            verify_rotation(rotate.seal(*signers), SITE.key, NEXT.key)
    with pytest.raises(BadStatement, match="newKey must be the second key"):
        verify_rotation(rotate.seal(SITE, HUB), SITE.key, HUB.key)


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": None}, {"kind": "evaluate"}, {"kind": "finish"}, {"reason": "Done"}, {"files": []},
        {"cohortSize": 257},
        {"files": [{"name": "modeling_evil.py", "sizeBytes": 1, "sha256": "5f" * 32}]},
        {"files": [{"name": "config.json", "sizeBytes": 1, "sha256": "5f" * 32}] * 2},
        {"files": [{"name": f"config{i}.json", "sizeBytes": 1, "sha256": "5f" * 32} for i in range(17)]},
    ],
)  # fmt: skip
def test_a_task_has_the_fields_of_its_kind_within_bounds(changes: dict[str, object]) -> None:
    task = STATEMENTS[8]
    with pytest.raises(ValidationError):
        type(task).model_validate_json(canonical_json(json.loads(canonical_json(task)) | changes))
