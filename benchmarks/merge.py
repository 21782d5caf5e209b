"""``make bench-merge``: merging compared with Flower, a plain pass over the same bytes, and plain transfers.

Cases: 8 updates of 124M fp32 parameters and 4 of 1.3B (Llama shapes, 64 MiB parts). For each case,
each run in a fresh process:

    from files   ours: read K updates and the model, weighted mean, FedAvg, metrics, write the next model; sha256 of
                 the output and of the input model, as in the aggregator
                 unverified: the same without the digest of the input model (``cpu_of_verifying``: additional CPU time
                 of the verification)
                 plain pass: read the same bytes with two threads, 4 MiB at a time, and write as many bytes as the
                 result has
                 Flower: read the same updates, convert them to replies, FedAvg, extract the mean (nothing is written or
                 hashed); and, as a part of that, only its ``aggregate_train``, on replies in memory
    from store   ours: the same merge with ranged GETs from, and a multipart PUT to, SeaweedFS on this machine
                 plain transfers: only the same GETs and PUT on the same number of connections

Page cache: ``of_plain_pass`` is cold: before every run, the inputs are dropped from the page cache for both contenders
(the K updates of a realistic model do not fit). If memory can hold the inputs twice, both are also measured warm
(``of_plain_pass_warm``): the plain pass is then a copy in memory, and the ratio shows the cost of compute and hashing.
Flower reads its files warm, so ``over_flower`` uses our warm time if available; ``over_flower_aggregate`` compares our
complete merge with only Flower's ``aggregate_train``. Nothing is fsynced; outputs are deleted and the disk is synced
between runs. All times are medians, and ratios are ratios of medians. Peak memory is the largest resident size (VmHWM)
of all runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3

from benchmarks.merge_child import MODEL_DIGEST
from benchmarks.merge_data import CASES, CODEC, Case, file_names, move_to_store, part_name, write_files
from benchmarks.telling import telling
from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.store.objects import ObjectStore
from photon_aggregator.blas import fix_kernels

ROOT = Path(__file__).resolve().parent.parent
RUN_SECONDS = 1800
KEYS = ("over_flower", "of_plain_pass", "of_plain_transfer", "peak_rss_mib")


def run_child(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    with telling(" ".join(Path(word).name for word in command[1:5])):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with code {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(
    contender: str, case: Case, place: str, out: str, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    return run_child([sys.executable, "-m", "benchmarks.merge_child", contender, case.name, place, out], environment)


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def set_cache(case: Case, folder: Path, *, warm: bool) -> None:
    """Put all inputs into the page cache, or none."""
    os.sync()
    for name in file_names(case):
        descriptor = os.open(folder / name, os.O_RDONLY)
        if warm:
            while os.read(descriptor, 2**24):
                pass
        else:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def drop_bucket(name: str, environment: dict[str, str]) -> None:
    """Deletes its volumes as well: SeaweedFS keeps the bytes of a deleted object until compaction."""
    client = boto3.client(
        "s3",
        endpoint_url=environment["BENCH_ENDPOINT"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    for found in client.list_objects_v2(Bucket=name).get("Contents", []):
        client.delete_object(Bucket=name, Key=found["Key"])
    client.delete_bucket(Bucket=name)


class Flower:
    """The newest installable release of Flower, in a separate environment under .cache."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        if self.python.exists():
            return
        beside = Path(sys.executable).parent / "uv"
        uv = str(beside) if beside.exists() else "uv"
        print("creating the environment of Flower ...", flush=True)
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        with telling("installing Flower"):
            subprocess.run(
                [uv, "pip", "install", "--quiet", "--python", str(self.python), "flwr>=1.41", "numpy"], check=True
            )

    def run(self, case: Case, folder: Path) -> dict[str, Any]:
        spec = folder / "flower.json"
        spec.write_text(
            json.dumps(
                {
                    "tensors": [[entry.name, entry.shape] for entry in case.header.entries],
                    "updates": [
                        [
                            [
                                str(folder / part_name(name, index)),
                                CODEC.part_header(stop - start).data_offset,
                                4 * (stop - start),
                            ]
                            for index, (start, stop) in enumerate(case.ranges)
                        ]
                        for name in case.participants()
                    ],
                }
            )
        )
        limit = int(available_bytes() * 0.9)
        # -P: the folder of the script contains operator.py and would otherwise precede the standard library.
        command = [str(self.python), "-P", str(ROOT / "benchmarks" / "flower_child.py"), str(spec), str(limit)]
        return run_child(command)


class Bench:
    """Runs and their results."""

    def __init__(self, work: Path, repeats: int) -> None:
        self.work = work
        self.repeats = repeats
        self.runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.reasons: dict[str, str] = {}
        self.flower_version: str | None = None

    def note(self, case: Case, contender: str, result: dict[str, Any]) -> None:
        self.runs.setdefault(case.name, {}).setdefault(contender, []).append(result)
        print(
            f"  {case.name:8} {contender:22} {result['seconds']:8.2f} s  {result['peak_rss_mib']:8.0f} MiB", flush=True
        )

    def files(self, case: Case, folder: Path, flower: Flower) -> None:
        out = folder / "out.safetensors"
        fits = case.input_bytes * 2 < available_bytes()
        for _ in range(self.repeats):
            # A warm run takes a second, of which the machine's noise is a large part: more of them.
            for cache in ("cold", "warm", "warm", "warm") if fits else ("cold",):
                for contender in ("ours", "unverified", "plain"):
                    set_cache(case, folder, warm=cache == "warm")
                    self.note(case, f"{contender} files {cache}", child(contender, case, str(folder), str(out)))
                    out.unlink()
            if f"over_flower {case.name}" not in self.reasons:
                self.flower(case, folder, flower)
        if not fits:
            self.reasons[f"of_plain_pass_warm {case.name}"] = "the inputs do not fit the page cache"

    def flower(self, case: Case, folder: Path, flower: Flower) -> None:
        set_cache(case, folder, warm=case.input_bytes * 2 < available_bytes())
        result = flower.run(case, folder)
        self.flower_version = result["version"]
        if "out_of_memory" in result:
            self.reasons[f"over_flower {case.name}"] = (
                f"Flower runs out of memory: {case.updates} replies of {case.header.file_bytes / 2**30:.1f} GiB "
                f"and their mean do not fit {result['limit_mib'] / 1024:.1f} GiB"
            )
            print(f"  {case.name:8} flower                 out of memory", flush=True)
            return
        self.note(case, "flower", result)
        self.note(case, "flower aggregate", {**result, "seconds": result["aggregate_seconds"]})

    def objects(self, case: Case, folder: Path) -> None:
        data = self.work / "store"
        with EmbeddedStore(data, log_path=self.work / "store.log") as server:
            environment = {
                "BENCH_ENDPOINT": server.endpoint,
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
            }
            store = ObjectStore.open(
                StorageSpec(endpoint=server.endpoint, bucket="bench", prefix=case.name),
                access_key=server.access_key,
                secret_key=server.secret_key,
            )
            store.check(create_bucket=True)
            print(f"  {case.name}: filling the store ...", flush=True)
            move_to_store(case, folder, store)
            shutil.rmtree(folder)
            for _ in range(self.repeats):
                for contender in ("ours", "plain"):
                    os.sync()
                    bucket = f"bench-{contender}"
                    self.note(case, f"{contender} store", child(contender, case, "store", bucket, environment))
                    drop_bucket(bucket, environment)
        shutil.rmtree(data)

    def median(self, case: Case, contender: str) -> float | None:
        results = self.runs.get(case.name, {}).get(contender)
        return statistics.median(result["seconds"] for result in results) if results else None

    def ratio(self, case: Case, slower: str, ours: str) -> float | None:
        """The time of ``slower`` divided by that of ``ours``."""
        theirs, own = self.median(case, slower), self.median(case, ours)
        return theirs / own if theirs and own else None

    def cpu_of_verifying(self, case: Case) -> float | None:
        """Additional CPU time of verifying the model digest, relative to the merge without it; runs from files."""
        ours, without = (
            [
                statistics.median(run["cpu_seconds"] for run in runs)
                for cache in ("cold", "warm")
                if (runs := self.runs.get(case.name, {}).get(f"{contender} files {cache}"))
            ]
            for contender in ("ours", "unverified")
        )
        return ours[-1] / without[-1] - 1 if ours and without else None

    def report(self, cases: list[Case]) -> dict[str, Any]:
        def by_case(slower: str, ours: str) -> dict[str, float | None]:
            return {case.name: self.ratio(case, slower, ours) for case in cases}

        ours = ("ours files cold", "ours files warm", "ours store")
        over_flower = {
            case.name: self.ratio(case, "flower", "ours files warm") or self.ratio(case, "flower", "ours files cold")
            for case in cases
        }
        return {
            "over_flower": over_flower,
            "of_plain_pass": by_case("plain files cold", "ours files cold"),
            "of_plain_transfer": by_case("plain store", "ours store"),
            "peak_rss_mib": {
                case.name: max(
                    (run["peak_rss_mib"] for kind in ours for run in self.runs.get(case.name, {}).get(kind, [])),
                    default=None,
                )
                for case in cases
            },
            "of_plain_pass_warm": by_case("plain files warm", "ours files warm"),
            "cpu_of_verifying": {case.name: self.cpu_of_verifying(case) for case in cases},
            "over_flower_cold": by_case("flower", "ours files cold"),
            "over_flower_aggregate": by_case("flower aggregate", "ours files warm"),
            "flower_peak_rss_mib": {
                case.name: max(
                    (run["peak_rss_mib"] for run in self.runs.get(case.name, {}).get("flower", [])), default=None
                )
                for case in cases
            },
            "reasons": self.reasons,
            "flower_version": self.flower_version,
            "repeats": self.repeats,
            "runs": self.runs,
        }


def table(report: dict[str, Any]) -> str:
    names = list(report["over_flower"])
    rows = [
        ("speedup over Flower", "over_flower", "{:.1f} x", ">= 10"),
        ("speedup over aggregate_train", "over_flower_aggregate", "{:.1f} x", ""),
        ("throughput / plain pass, cold", "of_plain_pass", "{:.0%}", ">= 60%"),
        ("throughput / plain pass, warm", "of_plain_pass_warm", "{:.0%}", ""),
        ("throughput / plain transfers", "of_plain_transfer", "{:.0%}", ">= 80%"),
        ("CPU time of verification", "cpu_of_verifying", "{:+.0%}", ""),
        ("peak memory, MiB", "peak_rss_mib", "{:.0f}", "< 1024"),
        ("peak memory of Flower, MiB", "flower_peak_rss_mib", "{:.0f}", ""),
    ]
    lines = [f"{'':30}" + "".join(f"{name:>12}" for name in names) + f"{'target':>12}"]
    for title, key, form, target in rows:
        cells = ["-" if report[key][name] is None else form.format(report[key][name]) for name in names]
        lines.append(f"{title:30}" + "".join(f"{cell:>12}" for cell in cells) + f"{target:>12}")
    lines += [f"{key}: {reason}" for key, reason in report["reasons"].items()]
    return "\n".join(lines)


def main() -> None:
    # Inherited by every run: those import numpy before the aggregator could ask for its kernels.
    fix_kernels()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only 8 updates of 10M parameters, as a smoke test")
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), help="default: 8x124m 4x1.3b")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-store", action="store_true", help="files only")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".cache" / "bench-merge", help="scratch folder (50 GB free)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench" / "merge.json")
    arguments = parser.parse_args()
    names = arguments.cases or (["8x10m"] if arguments.quick else ["8x124m", "4x1.3b"])
    cases = [CASES[name] for name in names]
    bench = Bench(arguments.work, arguments.repeats)
    flower = Flower(ROOT / ".cache" / "bench-flower")
    arguments.work.mkdir(parents=True, exist_ok=True)
    try:
        for case in cases:
            # The inputs and a result; with the store, also an object that is not yet deleted from the folder.
            needed = case.input_bytes + (1 if arguments.no_store else 3) * case.header.file_bytes
            free = shutil.disk_usage(arguments.work).free
            if free < needed:
                raise SystemExit(
                    f"error: {case.name} needs {needed / 2**30:.0f} GiB in {arguments.work}, but only "
                    f"{free / 2**30:.0f} GiB are free: set a different folder with --work"
                )
            print(f"{case.name}: writing {case.input_bytes / 2**30:.1f} GiB ...", flush=True)
            folder = arguments.work / case.name
            os.environ[MODEL_DIGEST] = write_files(case, folder)
            bench.files(case, folder, flower)
            if arguments.no_store:
                bench.reasons[f"of_plain_transfer {case.name}"] = "skipped (--no-store)"
                shutil.rmtree(folder)
            else:
                bench.objects(case, folder)
    finally:
        shutil.rmtree(arguments.work, ignore_errors=True)
    report = bench.report(cases)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
