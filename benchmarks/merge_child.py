"""One measured run of ``benchmarks.merge``, in a separate process to measure its peak memory.

    python -m benchmarks.merge_child CONTENDER CASE PLACE OUT

CONTENDER is ours, unverified (the same merge without verifying the model digest), or plain. PLACE is a folder, or
``store`` for the object store in the environment variables, which also contain the sha256 of the model. Prints one line
of JSON: seconds, cpu_seconds, peak_rss_mib. Imports and opening files are excluded from the time, for all contenders.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.merge_data import CASES, CODEC, Case, file_names, model_name, part_name
from photon.api.placement import StorageSpec
from photon.api.training import OuterSpec
from photon.store.objects import ObjectStore
from photon.store.sink import FileSink, MultipartSink, Sink, multipart_stripe_bytes
from photon.store.source import Connections, FileSource, Source, UrlSource
from photon.store.tensors import Header
from photon_aggregator.merge import FROM_FILES, FROM_STORE, MergeSettings, UpdateInput, merge_round

MODEL_DIGEST = "BENCH_MODEL_SHA256"
FILE_STRIPE = 8 * 2**20
PLAIN_READ = 4 * 2**20


class Place(ABC):
    """Where a case's inputs are and its output goes."""

    def __init__(self, case: Case, settings: MergeSettings, sources: dict[str, Source]) -> None:
        self.case = case
        self.settings = settings
        self.sources = sources

    @abstractmethod
    def sink(self, header: Header) -> Sink:
        """Where the result goes."""


class Folder(Place):
    def __init__(self, case: Case, folder: Path, out: Path) -> None:
        super().__init__(case, FROM_FILES, {name: FileSource(folder / name) for name in file_names(case)})
        self._out = out

    def sink(self, header: Header) -> Sink:
        return FileSink(self._out, header.file_bytes, stripe_bytes=FILE_STRIPE)


class Objects(Place):
    """``out`` names the bucket of the result: a separate bucket, so that deleting it frees the space at once."""

    def __init__(self, case: Case, out: str) -> None:
        inputs, self.results = (
            ObjectStore.open(
                StorageSpec(endpoint=os.environ["BENCH_ENDPOINT"], bucket=bucket, prefix=case.name),
                access_key=os.environ["AWS_ACCESS_KEY_ID"],
                secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            )
            for bucket in ("bench", out)
        )
        self.results.check(create_bucket=True)
        connections = Connections()
        infos = {info.key: info for info in inputs.list()}
        super().__init__(
            case,
            FROM_STORE,
            {
                name: UrlSource(
                    inputs.presign_get(name, valid_seconds=3600),
                    infos[name].size_bytes,
                    etag=infos[name].etag,
                    connections=connections,
                )
                for name in file_names(case)
            },
        )

    def sink(self, header: Header) -> Sink:
        return MultipartSink(
            self.results.multipart(model_name()),
            header.file_bytes,
            stripe_bytes=multipart_stripe_bytes(header.file_bytes),
            name=model_name(),
        )


def ours(place: Place, *, verified: bool) -> Callable[[], None]:
    """The merge itself: weighted mean, FedAvg, metrics, digest of the result, and of the model that is read."""
    case = place.case
    updates = [
        UpdateInput(
            participant=name,
            parts=[place.sources[part_name(name, index)] for index in range(len(case.ranges))],
            ranges=case.ranges,
            codec=CODEC,
            weight=1000.0 + number,
            norm=1.0,
            tokens=1000 + number,
        )
        for number, name in enumerate(case.participants())
    ]

    def run() -> None:
        merge_round(
            updates,
            model=place.sources[model_name()],
            state={},
            digests={"": os.environ[MODEL_DIGEST]} if verified else None,
            outer=OuterSpec(),
            step=1,
            open_sink=lambda _, header: place.sink(header),
            settings=place.settings,
        )

    return run


def in_threads(count: int, make: Callable[[], Callable[[int], None]], jobs: Iterable[int]) -> None:
    """Each thread makes its own worker (its buffers) and calls it with job after job."""
    remaining = iter(jobs)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def loop() -> None:
        try:
            work = make()
            while True:
                with lock:
                    job = next(remaining, None)
                if job is None:
                    return
                work(job)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=loop) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def plain_pass(folder: Path, case: Case, out: Path) -> Callable[[], None]:
    """The least that any merge of these files must do: read every input once, write the result's bytes once.

    Two threads, 4 MiB at a time, in buffers made once; nothing is computed, hashed or synced.
    """
    names = file_names(case)
    descriptors = [os.open(folder / name, os.O_RDONLY) for name in names]
    jobs = [
        (number, offset)
        for number, name in enumerate(names)
        for offset in range(0, (folder / name).stat().st_size, PLAIN_READ)
    ]

    def run() -> None:
        target = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)

        def make() -> Callable[[int], None]:
            buffer = memoryview(bytearray(PLAIN_READ))

            def work(job: int) -> None:
                number, offset = jobs[job]
                count = os.preadv(descriptors[number], [buffer], offset)
                if number == 0:  # the model: its bytes stand for the result's
                    os.pwrite(target, buffer[:count], offset)

            return work

        in_threads(FROM_FILES.threads, make, range(len(jobs)))
        os.close(target)

    return run


def plain_transfer(place: Objects) -> Callable[[], None]:
    """The merge's transfers and nothing else: for each stripe the same ranged GETs of all updates and of the model, and
    then the same part of a multipart PUT, on as many connections."""
    case, settings = place.case, place.settings
    header = case.header
    stripe_bytes = multipart_stripe_bytes(header.file_bytes)
    parts = [
        [place.sources[part_name(name, index)] for index in range(len(case.ranges))] for name in case.participants()
    ]
    offset = CODEC.byte_ranges(1, 0, 1)[0][0]

    def run() -> None:
        with place.results.multipart(model_name()) as upload:

            def make() -> Callable[[int], None]:
                buffer = memoryview(bytearray(stripe_bytes))

                def work(index: int) -> None:
                    first = index * stripe_bytes
                    last = min(first + stripe_bytes, header.file_bytes)
                    start = max(0, first - header.data_offset) // 4
                    stop = (last - header.data_offset) // 4
                    for sources in parts:
                        for source, (begin, end) in zip(sources, case.ranges, strict=True):
                            low, high = max(start, begin), min(stop, end)
                            if low < high:
                                source.read_into(offset + 4 * (low - begin), buffer[: 4 * (high - low)])
                    piece = buffer[: last - first]
                    place.sources[model_name()].read_into(first, piece)
                    upload.upload_part(index + 1, piece)

                return work

            in_threads(settings.threads, make, range(-(-header.file_bytes // stripe_bytes)))
            upload.complete()

    return run


def peak_rss_mib() -> float:
    """Of this program alone. getrusage's ru_maxrss would also count what the parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    contender, name, where, out = sys.argv[1:]
    case = CASES[name]
    verified = contender == "ours"
    if where == "store":
        objects = Objects(case, out)
        run = plain_transfer(objects) if contender == "plain" else ours(objects, verified=verified)
    elif contender == "plain":
        run = plain_pass(Path(where), case, Path(out))
    else:
        run = ours(Folder(case, Path(where), Path(out)), verified=verified)
    before, cpu = time.perf_counter(), time.process_time()
    run()
    seconds, cpu_seconds = time.perf_counter() - before, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_rss_mib": peak_rss_mib()}))


if __name__ == "__main__":
    main()
