"""A statement of each kind, and the keys of a hub and a site."""

from __future__ import annotations

from typing import Final

from photon.api.status import MemberState
from photon.trust.keys import Identity
from photon.trust.statements import (
    Commit,
    Commit2,
    Cosign,
    Enrolment,
    Evaluation,
    Hello,
    Leave,
    Membership,
    Rotate,
    Session,
    Statement,
    Task,
    Task2,
    TaskFile,
    Update,
)

HUB: Final = Identity.new()
SITE: Final = Identity.new()
NEXT: Final = Identity.new()
SHA: Final = "5f" * 32
NONCE: Final = "0a" * 16
_OF_SITE: Final = {"audience": HUB.key.id, "participant": "st-mary"}

STATEMENTS: Final[tuple[Statement, ...]] = (
    Enrolment(
        **_OF_SITE, job_name="train/radiology-1b", invitation="k3v7q2mx", public_key=SITE.key.text, version="0.2.0",
        protocol=1, nonce=NONCE,
    ),
    Session(**_OF_SITE, job=SHA, challenge=NONCE, version="0.2.0", protocol=1),
    Update(**_OF_SITE, job=SHA, round=3, plan=SHA, manifest=SHA, tokens=10**6),
    Evaluation(**_OF_SITE, job=SHA, round=3, commit=SHA, result=SHA),
    Leave(**_OF_SITE, job=SHA, reason="Finished"),
    Rotate(**_OF_SITE, new_key=NEXT.key.text),
    Cosign(**_OF_SITE, job=SHA, size=7, head=SHA),
    Hello(
        nonce=NONCE, challenge=NONCE, job=SHA, job_name="train/radiology-1b", protocols=[1], version="0.2.0",
        object_origins=["https://hub.example.org"], audit_size=7, audit_head=SHA,
    ),
    Membership(job=SHA, participant="st-mary", key=SITE.key.id, state=MemberState.ACTIVE, nonce=NONCE),
    Task(
        job=SHA, participant="st-mary", id="train-00003", kind="train", round=3, base=SHA, cohort_size=4, plan=SHA,
        first_step=60, local_steps=20, files=[TaskFile(name="model.safetensors", size_bytes=100, sha256=SHA)],
    ),
    Task2(
        job=SHA, participant="st-mary", id="finish", kind="finish", round=3, base=SHA, cohort_size=0,
        reason="QuorumLost", failed=True,
    ),
    Commit2(
        job=SHA, round=3, commit=SHA, previous=SHA, participant="st-mary", key=SITE.key.id, version="0.2.0",
        audit_size=7, audit_head=SHA,
    ),
    Commit(
        job=SHA, round=3, commit=SHA, previous=SHA, keys={"st-mary": SITE.key.id}, version="0.2.0", audit_size=7,
        audit_head=SHA,
    ),
)  # fmt: skip
