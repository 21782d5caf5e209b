"""``make bench-audit``: an audit beside plain reads of the same bytes plus the merges, in the same run.

A real aggregator and numpy participants make a job in a real object store. Then, in turn and several times:

- ``reads_seconds``: every model, outer state and part that an audit reads, whole and once, into nothing;
- ``merges_seconds``: the same merges from files in the page cache into a sink that only hashes;
- ``audit_seconds``: ``photon audit --recompute all``, without the start of the program.

    of_reads_and_merges   audit_seconds / (reads_seconds + merges_seconds), medians

Writes runs/bench/audit.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks.telling import telling
from photon.api.learning import resolve
from photon.api.placement import StorageSpec
from photon.codec import codec_for
from photon.local.object_store import EmbeddedStore
from photon.protocol.records import Commit, UpdateManifest
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.sink import DigestSink, multipart_stripe_bytes
from photon.store.source import Connections, FileSource, UrlSource
from photon.store.tensors import Header
from photon_aggregator.audit.findings import Verdict
from photon_aggregator.audit.run import audit
from photon_aggregator.merge import UpdateInput, merge_round
from photon_aggregator.merge.outer import state_names
from tests.aggregator import fake_worker
from tests.aggregator.running import aggregator, working

RESULT: Final = Path("runs/bench/audit.json")
READ_BYTES: Final = 8 * 2**20
THREADS: Final = 4
URL_SECONDS: Final = 6 * 3600


def train(job: Any, store: ObjectStore, elements: int) -> None:
    """Make the job: a model of one tensor with ``elements``."""
    fake_worker.SHAPES.clear()
    fake_worker.SHAPES["w"] = (elements,)
    fake_worker.write_round_zero(job, store)
    names = [participant.name for participant in job.spec.participants]
    with (
        aggregator(job, store) as running,
        working(*[fake_worker.FakeWorker(name, [running.url]) for name in names]),
    ):
        running.wait(3600)
    if running.code != 0:
        raise RuntimeError(f"the job did not complete: {running.error}")


def large(store: ObjectStore) -> dict[str, int]:
    """Sizes of all safetensors files of the job, which an audit reads once each."""
    return {info.key: info.size_bytes for info in store.list(keys.ROUNDS) if info.key.endswith(".safetensors")}


def read_all(store: ObjectStore, sizes: dict[str, int]) -> None:
    connections = Connections()

    def read(item: tuple[str, int]) -> None:
        key, size = item
        source = UrlSource(store.presign_get(key, valid_seconds=URL_SECONDS), size, connections=connections)
        buffer = memoryview(bytearray(min(READ_BYTES, size)))
        for offset in range(0, size, len(buffer)):
            source.read_into(offset, buffer[: min(len(buffer), size - offset)])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, sizes.items()))
    connections.close()


def merge_all(job: Any, store: ObjectStore, files: Path, rounds: int) -> Callable[[], None]:
    """The merges of all rounds, from files that were read just before."""
    learning = resolve(job)
    commits = [Commit.model_validate_json(store.get(keys.commit(number))) for number in range(rounds + 1)]

    def source(key: str) -> FileSource:
        return FileSource(files / key.replace("/", "_"))

    def inputs(commit: Commit) -> list[UpdateInput]:
        found: list[UpdateInput] = []
        for update in commit.accepted:
            data = store.get(keys.manifest(commit.round, update.participant))
            manifest = UpdateManifest.model_validate_json(data)
            names = [keys.part(commit.round, update.participant, part.index, part.sha256) for part in manifest.parts]
            found.append(
                UpdateInput(
                    participant=update.participant,
                    parts=[source(name) for name in names],
                    ranges=[(part.start, part.stop) for part in manifest.parts],
                    codec=codec_for(manifest.codec),
                    weight=float(manifest.tokens),
                    clip=update.clip,
                    norm=update.norm,
                    tokens=manifest.tokens,
                )
            )
        return found

    def sink(name: str, header: Header) -> DigestSink:
        return DigestSink(name, header.file_bytes, multipart_stripe_bytes(header.file_bytes))

    def work() -> None:
        for base, commit in itertools.pairwise(commits):
            states = state_names(learning.outer) if base.state else ()
            digests = {file.name: file.sha256 for file in [*base.files, *base.state]}
            result = merge_round(
                inputs(commit),
                model=source(f"{base.folder}/{keys.WEIGHTS}"),
                state={name: source(f"{base.folder}/{keys.outer_state(name)}") for name in states},
                digests={"": digests[keys.WEIGHTS]} | {name: digests[keys.outer_state(name)] for name in states},
                outer=learning.outer,
                step=base.outer_steps + 1,
                open_sink=sink,
            )
            if result.model.sha256 != {file.name: file.sha256 for file in commit.files}[keys.WEIGHTS]:
                raise RuntimeError(f"round {commit.round} was merged to another model")

    return work


def audited(store: ObjectStore) -> None:
    report = audit(store)
    if report.verdict is not Verdict.HOLDS:
        raise RuntimeError(f"the job does not hold: {report.findings[:3]} {report.reason}")


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with EmbeddedStore(folder / "store", log_path=folder / "store.log") as running:
        spec = StorageSpec(endpoint=running.endpoint, bucket="photon", prefix="audit")
        with ObjectStore.open(spec, access_key=running.access_key, secret_key=running.secret_key) as store:
            store.check(create_bucket=True)
            names = [f"site-{index}" for index in range(arguments.participants)]
            job = fake_worker.job_document(
                spec, names, rounds=arguments.rounds, exchange={"partBytes": 64 * 2**20}, evaluation={"everyRounds": 0}
            )
            with telling("training the job"):
                train(job, store, arguments.elements)
            sizes = large(store)
            files = folder / "files"
            files.mkdir()
            for key in sizes:
                (files / key.replace("/", "_")).write_bytes(store.get(key))
            merges = merge_all(job, store, files, arguments.rounds)
            works = {"reads": lambda: read_all(store, sizes), "merges": merges, "audit": lambda: audited(store)}
            taken: dict[str, list[float]] = {name: [] for name in works}
            with telling("measuring"):
                for _ in range(arguments.repeats):
                    for name, work in works.items():
                        taken[name].append(seconds(work))
    medians = {f"{name}_seconds": statistics.median(times) for name, times in taken.items()}
    return {
        **medians,
        "of_reads_and_merges": medians["audit_seconds"] / (medians["reads_seconds"] + medians["merges_seconds"]),
        "bytes": sum(sizes.values()),
        "rounds": arguments.rounds,
        "participants": arguments.participants,
        "elements": arguments.elements,
        "repeats": arguments.repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=30_000_000)
    parser.add_argument("--participants", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="photon-bench-audit-") as folder:
        result = measure(arguments, Path(folder))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    print(f"an audit takes {result['of_reads_and_merges']:.2f} x the time of plain reads and the merges")


if __name__ == "__main__":
    main()
