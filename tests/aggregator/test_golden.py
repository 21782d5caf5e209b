"""The last commit digest of a job of each kind, as earlier releases wrote it: refactoring changes no model.

A digest that changes means that a job which runs while Photon is upgraded ends in another model. Where that is meant,
say so in docs/decisions and write the file again:

    PHOTON_WRITE_GOLDEN=1 python -m pytest tests/aggregator/test_golden.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from photon.api.learning import resolve
from photon.api.placement import StorageSpec
from photon.api.training import Codec, OuterType
from photon.api.validate import load_job
from photon.protocol.canonical import digest
from photon.store.objects import ObjectStore
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import chain, working
from tests.aggregator.test_program import Program

GOLDEN = Path(__file__).with_name("golden.json")
ROOT = Path(__file__).parents[2]
EXAMPLES = sorted([*(ROOT / "examples").glob("*.yaml"), *(ROOT / "manifests" / "examples").glob("*.yaml")])
NAMES = ["east", "north", "south"]

# Every setting is stated, so that a change of a default changes no digest here.
OUTER: dict[str, dict[str, Any]] = {
    "FedAvg": {"learningRate": 1.0},
    "FedMom": {"learningRate": 1.0, "momentum": 0.5},
    "Nesterov": {"learningRate": 0.7, "momentum": 0.9},
    "FedAdam": {"learningRate": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3},
    "FedYogi": {"learningRate": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3},
    "FedAdagrad": {"learningRate": 0.01, "eps": 1e-3},
}


def jobs() -> dict[str, dict[str, Any]]:
    """Name -> fields of the spec."""
    fedavg = {"type": "FedAvg", **OUTER["FedAvg"]}
    found = {
        f"outer-{outer.value}": {"outer": {"type": outer.value, **OUTER[outer.value]}, "codec": "DenseFP32"}
        for outer in OuterType
    }
    found |= {
        f"codec-{codec.value}": {"outer": fedavg, "codec": codec.value}
        for codec in Codec
        if codec is not Codec.DENSE_FP32
    }
    found["cohort"] = {"outer": fedavg, "codec": "DenseFP32", "participation": {"cohortSize": 2}}
    return found


def expected(name: str, found: str) -> str:
    """The digest in the file; ``found`` where it is being written."""
    if os.environ.get("PHOTON_WRITE_GOLDEN"):
        known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps({**known, name: found}, indent=2, sort_keys=True) + "\n")
        return found
    known = json.loads(GOLDEN.read_text())
    return str(known[name])


@pytest.mark.parametrize("name", sorted(jobs()))
def test_the_last_commit(name: str, store: ObjectStore, storage: StorageSpec, s3: Any, tmp_path: Path) -> None:
    spec = jobs()[name]
    exchange = {"codec": spec.pop("codec"), "partBytes": 65536}
    job = job_document(storage, NAMES, rounds=3, exchange=exchange, **spec)
    write_round_zero(job, store)
    program = Program(tmp_path, s3, job, NAMES)
    # The program chooses the kernels that sum a round's metrics, unless the environment chose before.
    program.environment = {k: v for k, v in program.environment.items() if not k.startswith("OPENBLAS")}
    process = program.start("--stop-when-done")
    try:
        workers = [FakeWorker(participant, [f"http://127.0.0.1:{program.port}"]) for participant in NAMES]
        with working(*workers):
            _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    last = chain(store)[-1]
    assert last.round == 3
    assert digest(last) == expected(name, digest(last))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_the_digest_of_an_examples_job(path: Path) -> None:
    found = digest(resolve(load_job(path)))
    assert found == expected(f"job-{path.relative_to(ROOT)}", found)
