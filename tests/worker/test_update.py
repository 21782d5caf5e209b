"""Uploading parts: windows, what is there already, URLs that expire, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load

from photon.api.training import Codec
from photon.codec.registry import codec_for
from photon.protocol.messages import PartsReply, PartUpload, UpdateReply
from photon.protocol.records import UpdateManifest, UpdateMetrics
from photon.store.errors import AccessDenied, Unreachable
from photon.store.source import FileSource
from photon_worker.lifecycle.errors import Cancelled, WorkerError
from photon_worker.round import update as updates
from photon_worker.round.progress import TaskProgress
from photon_worker.round.update import WINDOW_PARTS, PartSender, encoded_parts, submit

PART_BYTES = 4096 * 2


@pytest.mark.parametrize("codec", list(Codec))
def test_parts_are_what_numpy_and_the_codec_say(tiny: Any, initial_file: FileSource, codec: Codec) -> None:
    strategy = tiny.strategy(tiny.learning())
    base = tiny.vector(strategy)
    local = base + np.random.default_rng(0).standard_normal(len(base), dtype=np.float32) * np.float32(1e-3)
    strategy.write("weights", 0, local)
    offset = initial_file.size_bytes - strategy.header.data_bytes
    parts = list(encoded_parts(strategy, initial_file, offset, codec_name=codec, part_bytes=PART_BYTES))
    assert [p.start for p, _ in parts] == list(range(0, len(base), PART_BYTES // 4))
    assert parts[-1][0].stop == len(base)
    for part, data in parts:
        expected = codec_for(codec).encode((base - local)[part.start : part.stop])
        assert bytes(data) == bytes(expected)
        assert load(bytes(data))


def test_weights_that_are_not_finite_are_not_sent(tiny: Any, initial_file: FileSource) -> None:
    strategy = tiny.strategy(tiny.learning())
    strategy.write("weights", 5000, np.array([np.inf], dtype=np.float32))
    offset = initial_file.size_bytes - strategy.header.data_bytes
    with pytest.raises(WorkerError, match="not finite"):
        list(encoded_parts(strategy, initial_file, offset, codec_name=Codec.DENSE_FP32, part_bytes=PART_BYTES))


class Bucket:
    """Stands for the aggregator's presigned URLs: each upload may fail as told."""

    def __init__(self, failures: dict[int, list[Exception]] | None = None, present: set[int] | None = None) -> None:
        self.windows: list[list[int]] = []
        self.sent: list[int] = []
        self.failures = failures or {}
        self.present = present or set()

    def parts(self, _round: int, request: Any) -> Any:
        self.windows.append([part.index for part in request.parts])

        return PartsReply(
            uploads=[
                PartUpload(index=p.index, present=p.index in self.present, url=f"http://b/{p.index}")
                for p in request.parts
            ]
        )

    def upload(self, url: str, _headers: Any, _data: Any, *, on_retry: Callable[[], None]) -> None:
        index = int(url.rpartition("/")[2])
        if self.failures.get(index):
            on_retry()
            raise self.failures[index].pop(0)
        self.sent.append(index)


@pytest.fixture
def send(
    tiny: Any, initial_file: FileSource, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Bucket, TaskProgress], list[Any]]:
    def run(bucket: Bucket, progress: TaskProgress) -> list[Any]:
        monkeypatch.setattr(updates, "upload", bucket.upload)
        strategy = tiny.strategy(tiny.learning())
        offset = initial_file.size_bytes - strategy.header.data_bytes
        with PartSender(bucket, round_number=1, plan="a" * 64, progress=progress) as sender:  # type: ignore[arg-type]
            for part in encoded_parts(
                strategy, initial_file, offset, codec_name=Codec.DENSE_FP32, part_bytes=PART_BYTES
            ):
                sender.add(*part)
            return sender.finish()

    return run


def test_parts_go_in_windows_and_all_arrive(send: Any) -> None:
    bucket, progress = Bucket(), TaskProgress("t")
    parts = send(bucket, progress)
    assert sorted(bucket.sent) == [p.index for p in parts] == list(range(len(parts)))
    assert max(map(len, bucket.windows)) == WINDOW_PARTS
    assert progress.snapshot().bytes_up == sum(p.size_bytes for p in parts)


def test_what_the_bucket_has_is_not_sent_again(send: Any) -> None:
    bucket = Bucket(present={0, 2, 5})
    parts = send(bucket, TaskProgress("t"))
    assert sorted(bucket.sent) == sorted({p.index for p in parts} - {0, 2, 5})


def test_an_expired_url_is_asked_for_again(send: Any) -> None:
    bucket = Bucket(failures={1: [AccessDenied("expired")]})
    send(bucket, TaskProgress("t"))
    assert [1] in bucket.windows
    assert bucket.sent.count(1) == 1


def test_a_repeated_request_is_reported_with_its_phase(send: Any) -> None:
    progress = TaskProgress("t")
    with progress.phase("push"):
        send(Bucket(failures={1: [AccessDenied("expired")]}), progress)
    assert progress.snapshot().retries == {"push": 1}


def test_urls_that_are_refused_for_ever_end_it(send: Any) -> None:
    with pytest.raises(WorkerError, match="part 1 of the update cannot be uploaded: not for you"):
        send(Bucket(failures={1: [AccessDenied("not for you")] * 9}), TaskProgress("t"))


def test_a_store_that_stays_away_ends_it(send: Any) -> None:
    with pytest.raises(Unreachable):
        send(Bucket(failures={4: [Unreachable("nobody there")]}), TaskProgress("t"))


def test_a_cancelled_task_sends_nothing_more(send: Any) -> None:
    progress = TaskProgress("t")
    progress.cancel()
    bucket = Bucket()
    with pytest.raises(Cancelled):
        send(bucket, progress)
    assert bucket.sent == []


MANIFEST = UpdateManifest.model_construct(
    round=1,
    participant="a",
    metrics=UpdateMetrics(loss_mean=1, loss_last=1, grad_norm_mean=1, grad_norm_max=1, clipped_fraction=0),
)


class Judge:
    """Answers submissions with the given states in turn."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)

    def submit(self, _round: int, _submission: Any) -> UpdateReply:
        return UpdateReply(state=self.states.pop(0))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _any_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "UpdateSubmission", lambda **_: None)


def test_the_verdict_is_waited_for() -> None:
    pauses: list[float] = []
    judge = Judge("checking", "checking", "accepted")
    reply = submit(judge, MANIFEST, TaskProgress("t"), sleep=pauses.append)  # type: ignore[arg-type]
    assert reply.state == "accepted"
    assert pauses == sorted(pauses)
    assert len(pauses) == 2


def test_a_verdict_counts_even_if_the_task_is_void_since() -> None:
    progress = TaskProgress("t")
    progress.cancel()
    assert submit(Judge("accepted"), MANIFEST, progress).state == "accepted"  # type: ignore[arg-type]


def test_a_round_that_ends_while_checking_is_given_up() -> None:
    progress = TaskProgress("t")
    progress.cancel()
    with pytest.raises(Cancelled):
        submit(Judge("checking"), MANIFEST, progress)  # type: ignore[arg-type]


def test_checking_has_a_deadline() -> None:
    times = iter(range(0, 10**6, 1000))
    with pytest.raises(WorkerError, match="giving up"):
        submit(
            Judge(*["checking"] * 9),  # type: ignore[arg-type]
            MANIFEST,
            TaskProgress("t"),
            clock=lambda: float(next(times)),
            sleep=lambda _: None,
        )
