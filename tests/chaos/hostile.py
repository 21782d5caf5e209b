"""An enrolled participant that sends the worst: a different attack in each round, with a token that is good.

Attacks are pure functions of the round, so that a job in which one of them is accepted (an update that is merely far
too large) can be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from photon.codec import codec_for, part_ranges
from photon.protocol.canonical import sha256_hex
from photon.protocol.messages import PartsReply, TrainTask
from photon.protocol.records import Part
from tests.aggregator.fake_worker import Prepared
from tests.chaos.patient import PatientWorker

HUGE_INTEGER: Final = 2**62
HUGE: Final = 1.7e308
ESCAPES: Final = "\x1b[2K\r2026Z ERROR aggregator disk full\n"


@dataclass
class HostileWorker(PatientWorker):
    """``statuses``: of all that it was answered, by status code (0: the connection was closed)."""

    statuses: dict[int, int] = field(default_factory=dict)

    def train(self, task: TrainTask) -> None:
        self._until_done(task, self._attack)

    def _attack(self, task: TrainTask) -> None:
        prepared = self.prepare(task)
        ATTACKS[task.round % len(ATTACKS)](self, task, prepared)
        self.post_raw("/v1/progress", progress(task.id))
        self.post_raw("/v1/progress", progress(f"{task.id}{ESCAPES}"))

    def post_raw(self, path: str, body: Any, **headers: str) -> httpx.Response | None:
        """Send anything; note what came back."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response: httpx.Response | None = None
        try:
            sent = {"Content-Type": "application/json", **headers}
            response = self.http.post(f"{self.urls[0]}{path}", content=content, headers=sent)
        except httpx.TransportError:
            pass
        code = 0 if response is None else response.status_code
        self.statuses[code] = self.statuses.get(code, 0) + 1
        return response

    def put_parts(self, task: TrainTask, prepared: Prepared) -> None:
        self.upload(task, prepared)

    def hand_in(self, task: TrainTask, manifest: dict[str, Any], times: int = 1) -> None:
        """Submit a manifest, as plain JSON, until there is a verdict."""
        for _ in range(times):
            for _ in range(50):
                reply = self.post_raw(f"/v1/rounds/{task.round}/update", {"manifest": manifest})
                if reply is None or reply.status_code != 200 or reply.json()["state"] != "checking":
                    break


Attack = Callable[[HostileWorker, TrainTask, Prepared], None]


def plain(prepared: Prepared) -> dict[str, Any]:
    found: dict[str, Any] = prepared.manifest.model_dump(mode="json", by_alias=True)
    return found


def progress(task_id: str) -> dict[str, Any]:
    """Figures that no training has."""
    return {
        "taskId": task_id,
        "phase": "train",
        "step": HUGE_INTEGER,
        "loss": -HUGE,
        "tokensPerSecond": HUGE,
        "bytesUp": HUGE_INTEGER,
        "bytesDown": HUGE_INTEGER,
        "seconds": {"train": HUGE, "push": HUGE},
        "retries": {"push": HUGE_INTEGER},
    }


def with_values(worker: HostileWorker, prepared: Prepared, change: Callable[[np.ndarray], np.ndarray]) -> Prepared:
    """The update with other values, correctly encoded and described."""
    exchange = worker.learning.exchange
    codec = codec_for(exchange.codec)
    parts: list[bytes] = []
    records: list[Part] = []
    for index, (start, stop) in enumerate(part_ranges(prepared.manifest.elements, exchange.part_bytes)):
        values = np.empty(stop - start, np.float32)
        raw = np.frombuffer(prepared.parts[index][-4 * values.size :], np.float32)
        with np.errstate(all="ignore"):
            values[:] = change(raw.copy())
        data = bytes(codec.encode(values))
        parts.append(data)
        records.append(Part(index=index, start=start, stop=stop, size_bytes=len(data), sha256=sha256_hex(data)))
    manifest = prepared.manifest.model_copy(update={"parts": records})
    return Prepared(parts=parts, records=records, manifest=manifest)


def _claim(**metrics: Any) -> Attack:
    def attack(worker: HostileWorker, task: TrainTask, prepared: Prepared) -> None:
        manifest = plain(prepared)
        manifest["metrics"] |= metrics
        worker.put_parts(task, prepared)
        worker.hand_in(task, manifest)

    return attack


def _field(**fields: Any) -> Attack:
    def attack(worker: HostileWorker, task: TrainTask, prepared: Prepared) -> None:
        worker.put_parts(task, prepared)
        worker.hand_in(task, plain(prepared) | fields)

    return attack


def _values(change: Callable[[np.ndarray], np.ndarray], times: int = 1) -> Attack:
    def attack(worker: HostileWorker, task: TrainTask, prepared: Prepared) -> None:
        spoilt = with_values(worker, prepared, change)
        worker.put_parts(task, spoilt)
        worker.hand_in(task, plain(spoilt), times)

    return attack


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[:10] = value
        return values

    return change


def _other_bytes(worker: HostileWorker, task: TrainTask, prepared: Prepared) -> None:
    """Announce one thing and send another."""
    lie = Prepared(
        parts=[bytes(len(part)) for part in prepared.parts], records=prepared.records, manifest=prepared.manifest
    )
    worker.put_parts(task, lie)
    worker.hand_in(task, plain(prepared))


def _no_parts(worker: HostileWorker, task: TrainTask, prepared: Prepared) -> None:
    worker.hand_in(task, plain(prepared))


def _floods(worker: HostileWorker, task: TrainTask, _: Prepared) -> None:
    nested = b"[" + b"[]," * (8 * 2**20) + b"[]]"
    worker.post_raw(f"/v1/rounds/{task.round}/update", nested)
    worker.post_raw("/v1/progress", nested, Authorization="Bearer nobody")
    worker.post_raw(f"/v1/rounds/{task.round}/parts", b"[" * 100_000)


def _header(worker: HostileWorker, task: TrainTask, prepared: Prepared) -> None:
    """A part whose safetensors header carries a terminal's control sequences."""
    data = prepared.parts[0]
    header = json.dumps({f"values{ESCAPES}": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    spoilt = (len(header).to_bytes(8, "little") + header).ljust(len(data), b" ")[: len(data)]
    records = [prepared.records[0].model_copy(update={"sha256": sha256_hex(spoilt)}), *prepared.records[1:]]
    lie = Prepared(
        parts=[spoilt, *prepared.parts[1:]],
        records=records,
        manifest=prepared.manifest.model_copy(update={"parts": records}),
    )
    worker.put_parts(task, lie)
    worker.hand_in(task, plain(lie))


def _evaluations(worker: HostileWorker, task: TrainTask, _: Prepared) -> None:
    """Results for rounds that were never asked for, and results that nothing can outweigh."""
    for round_number, result in (
        (task.round, {"lossSum": 0.0, "tokens": HUGE_INTEGER, "bytes": 1}),
        (max(0, task.round - 1), {"lossSum": 0.0, "tokens": HUGE_INTEGER, "bytes": 1}),
        (max(0, task.round - 1), {"lossSum": HUGE, "tokens": 1, "bytes": 1}),
        (max(0, task.round - 1), {"lossSum": -1.0, "tokens": 1, "bytes": 1}),
    ):
        body = {
            "job": worker.job_digest,
            "round": round_number,
            "commit": task.model.commit,
            "participant": worker.name,
            "result": result,
        }
        worker.post_raw(f"/v1/rounds/{round_number}/evaluation", body)


def _thousand_urls(worker: HostileWorker, task: TrainTask, prepared: Prepared) -> None:
    """Ask for places for one part with ever another digest."""
    part = prepared.records[0].model_dump(mode="json", by_alias=True)
    for number in range(100):
        part |= {"sha256": sha256_hex(str(number).encode())}
        answer = worker.post_raw(f"/v1/rounds/{task.round}/parts", {"plan": task.plan, "parts": [part]})
        if answer is not None and answer.status_code == 200:
            PartsReply.model_validate_json(answer.content)


ATTACKS: Final[tuple[Attack, ...]] = (
    _claim(lossMean=HUGE),
    _values(_first(np.nan)),
    _values(_first(3.4e38)),
    _values(lambda values: values * np.float32(1e6)),
    _other_bytes,
    _field(tokens=HUGE_INTEGER),
    _field(participant="north"),
    _floods,
    _header,
    _values(_first(np.inf), times=100),
    _evaluations,
    _no_parts,
    _thousand_urls,
    _values(lambda values: values * np.float32(-1e20)),
    _claim(gradNormMax=HUGE, clippedFraction=-3.0),
    _field(parts=[]),
)
