"""Nothing leaves that is not in the ledger."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from photon.store.errors import DigestMismatch, Unreachable
from photon.store.objects import ObjectStore
from photon.store.retry import RetryPolicy
from photon.store.transfer import UploadOutcome, upload
from photon_gate.ledger.book import Ledger
from photon_gate.ledger.verify import read_ledger
from photon_gate.recording import Recording
from photon_gate.relay.grants import Grants
from photon_gate.relay.server import Relay

pytestmark = pytest.mark.s3

DATA = b"an update" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


def test_each_upload_is_in_the_ledger_before_it_is_complete(store: ObjectStore, tmp_path: Path) -> None:
    grants = Grants([store.endpoint], clock=time.monotonic)
    put = store.presign_put("part", size_bytes=len(DATA), sha256=SHA256, valid_seconds=60)
    granted = grants.put(
        put.url, put.headers, what="part 0", round=7, size_bytes=len(DATA), sha256=SHA256, valid_seconds=60
    )
    ledger = Ledger(tmp_path)
    recording = Recording(ledger)
    with Relay(grants, on_leaving=recording.leaving, on_passed=recording.passed) as relay:

        def send(data: bytes) -> UploadOutcome:
            url = relay.url(granted)
            return upload(url, put.headers, memoryview(data), retry=RetryPolicy(attempts=1))

        with pytest.raises(DigestMismatch):
            send(DATA[:-1] + b"x")
        assert send(DATA) is UploadOutcome.CREATED
        assert send(DATA) is UploadOutcome.ALREADY_THERE
        entries = [line.entry for line in read_ledger(tmp_path) if line.entry is not None]
        assert [(entry.decision, entry.name, entry.round) for entry in entries] == [
            ("WrongBytes", "part 0", 7),
            ("Allowed", "part 0", 7),
            ("Allowed", "part 0", 7),
            ("AlreadyThere", "part 0", 7),
        ]
        assert entries[1].sha256 == SHA256
        store.delete(["part"])
        # What cannot be recorded does not leave.
        ledger.close()
        with pytest.raises(Unreachable, match="cannot record what leaves"):
            send(DATA)
        assert store.head("part") is None
