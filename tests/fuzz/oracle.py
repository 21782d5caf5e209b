"""Whether what a job took is what it may take, judged without the code that let it in."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
from safetensors.numpy import load

from photon.protocol.canonical import canonical_json
from photon.protocol.records import Evaluation, UpdateManifest
from photon.store import keys
from photon.store.objects import ObjectStore


def update_problem(store: ObjectStore, valid: UpdateManifest, digest: str) -> str | None:
    """What is wrong with an accepted update, given a valid one of the same participant and round."""
    data = store.get(keys.manifest(valid.round, valid.participant))
    if hashlib.sha256(data).hexdigest() != digest:
        return "the manifest is not the one that was accepted"
    found, due = json.loads(data), json.loads(canonical_json(valid))
    if data != canonical_json(UpdateManifest.model_validate_json(data)):
        return "the manifest is not canonical"
    if {k: v for k, v in found.items() if k not in ("metrics", "parts")} != {
        k: v for k, v in due.items() if k not in ("metrics", "parts")
    }:
        return "it says something else of the round"
    measured = found["metrics"]
    if set(measured) != set(due["metrics"]) or not all(_measure(name, value) for name, value in measured.items()):
        return f"metrics {measured}"
    if len(found["parts"]) != len(due["parts"]):
        return "it has another number of parts"
    for part, wanted in zip(found["parts"], due["parts"], strict=True):
        if {k: v for k, v in part.items() if k != "sha256"} != {k: v for k, v in wanted.items() if k != "sha256"}:
            return f"part {part}"
        held = store.get(keys.part(valid.round, valid.participant, part["index"], part["sha256"]))
        if len(held) != part["sizeBytes"] or hashlib.sha256(held).hexdigest() != part["sha256"]:
            return f"part {part['index']} has other bytes than it says"
        if not _values(held, part["stop"] - part["start"]):
            return f"part {part['index']} holds no {part['stop'] - part['start']} finite values"
    return None


def evaluation_problem(data: bytes, participant: str, round_number: int) -> str | None:
    """What is wrong with an evaluation in the bucket."""
    found = json.loads(data)
    if data != canonical_json(Evaluation.model_validate_json(data)):
        return "not canonical"
    result = found["result"]
    right = (found["participant"], found["round"]) == (participant, round_number)
    whole = all(type(result[name]) is int and 0 <= result[name] < 2**63 for name in ("tokens", "bytes"))
    return None if right and whole and math.isfinite(result["lossSum"]) and result["lossSum"] >= 0 else str(found)


def _measure(name: str, value: Any) -> bool:
    most = {"lossMean": 1e4, "lossLast": 1e4, "clippedFraction": 1.0}.get(name, 1e12)
    return type(value) in (int, float) and 0.0 <= value <= most


def _values(data: bytes, count: int) -> bool:
    try:
        (values,) = load(data).values()
    except Exception:
        return False
    # What fp32 cannot square, no optimizer that squares can take.
    return values.dtype == np.float32 and values.size == count and bool(np.all(np.abs(values) < 1.8e19))
