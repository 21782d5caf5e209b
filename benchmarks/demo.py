"""The demo: four institutions train one model, compared with centralised training and with each institution alone.

All runs start from the same weights. The federated and the centralised run use the same number of tokens; each
institution alone uses as many tokens as it contributed to the federation. All models are evaluated on the held-out text
of every institution.

    make demo        # or: python -m benchmarks.demo [--job examples/demo.yaml] [--runs-dir runs/demo] [--fresh]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks.compare import Arm, first_commit, measure, program, run_together, run_watched, summary_of
from benchmarks.telling import telling
from photon.api.job import FederatedTrainingJob
from photon.api.validate import load_job
from tools.demo_data import prepare_demo_data

FEDERATED: Final = "federated"
CENTRALISED: Final = "centralised"


def main() -> None:
    arguments = _arguments()
    # SIGTERM also stops the active runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs: Path = arguments.runs_dir
    job = load_job(arguments.job, overrides=arguments.overrides)
    if arguments.fresh:
        for arm in (FEDERATED, CENTRALISED, *(f"alone-{p.name}" for p in job.spec.participants)):
            shutil.rmtree(runs / arm, ignore_errors=True)
    started = time.monotonic()

    print("1. Preparing the text of four institutions from the installed environment", flush=True)
    data = prepare_demo_data(runs / "data")
    names = [p.name for p in job.spec.participants]

    print(f"\n2. Federated training: {job.spec.rounds} rounds of {job.spec.local.steps} local steps", flush=True)
    wall_seconds = run_watched(arguments.job, Arm(name=FEDERATED), runs, arguments.overrides)

    print("\n3. Baselines with the same number of tokens: centralised, and each institution alone", flush=True)
    alone = [Arm(name=f"alone-{name}", flags=("--alone", name)) for name in names]
    arms = [Arm(name=CENTRALISED, flags=("--centralised",)), *alone]
    pace = [*arguments.overrides, *_few_long_rounds(job)]
    settings = {arm.name: [*pace, "spec.evaluation.everyRounds=0"] for arm in alone}
    settings[CENTRALISED] = [*pace, "spec.evaluation.everyRounds=2"]  # for the report's curves
    run_together(arguments.job, arms, runs, settings)

    print("\n4. Held-out perplexity of each model on the text of each institution", flush=True)
    everyone = [FEDERATED, *(arm.name for arm in arms)]
    _same_start(runs, everyone)
    length = job.spec.local.sequence_length
    measured: dict[str, dict[str, Any]] = {}

    def measured_one(arm: str) -> None:
        measured[arm] = measure(runs / arm / "checkpoint", data, sequence_length=length)

    progress = telling(lambda: f"{len(measured)} of {len(everyone)} models evaluated")
    with progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(measured_one, everyone))
    measured = {arm: measured[arm] for arm in everyone}
    summary = _summary(job, runs, measured, wall_seconds=wall_seconds)
    (runs / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(_table(measured, names))
    # Each institution alone would show the perplexity of its own text only, which is another thing than theirs.
    command = [program("photon"), "report", *(str(runs / arm) for arm in (FEDERATED, CENTRALISED))]
    subprocess.run([*command, "--output", str(runs / "report.html")], check=True, stdout=subprocess.DEVNULL)
    print(_closing(summary, runs, time.monotonic() - started))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", type=Path, default=Path("examples/demo.yaml"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--fresh", action="store_true", help="delete earlier runs instead of resuming them")
    return parser.parse_args()


def _few_long_rounds(job: FederatedTrainingJob) -> list[str]:
    """The same steps in an eighth as many rounds, where that comes out even.

    A round of a single participant only passes its weights through the bucket: training goes on as if nothing were, and
    what a comparison costs is best spent on its training.
    """
    factor = next(f for f in (8, 4, 2, 1) if job.spec.rounds % f == 0)
    return [
        f"spec.rounds={job.spec.rounds // factor}",
        f"spec.local.steps={job.spec.local.steps * factor}",
    ]


def _same_start(runs: Path, arms: list[str]) -> None:
    """A comparison requires the same initial weights."""

    def weights(arm: str) -> str:
        files = {file["name"]: file["sha256"] for file in first_commit(runs / arm)["files"]}
        return str(files["model.safetensors"])

    if len({weights(arm) for arm in arms}) != 1:
        sys.exit("error: the runs did not start from the same weights; rerun with --fresh")


def _summary(
    job: FederatedTrainingJob, runs: Path, measured: dict[str, dict[str, Any]], *, wall_seconds: float
) -> dict[str, Any]:
    federated = summary_of(runs / FEDERATED)
    overall = {arm: figures["all"]["perplexity"] for arm, figures in measured.items()}
    return {
        "validation_perplexity": {
            FEDERATED: overall[FEDERATED],
            CENTRALISED: overall[CENTRALISED],
            "alone": {p.name: overall[f"alone-{p.name}"] for p in job.spec.participants},
        },
        "federated_over_centralised": overall[FEDERATED] / overall[CENTRALISED],
        "by_institution": {
            arm: {name: source["perplexity"] for name, source in figures["sources"].items()}
            for arm, figures in measured.items()
        },
        "tokens": federated["tokens"],
        "tokens_centralised": summary_of(runs / CENTRALISED)["tokens"],
        "tokens_alone": {p.name: summary_of(runs / f"alone-{p.name}")["tokens"] for p in job.spec.participants},
        "rounds": federated["rounds"],
        "local_steps": job.spec.local.steps,
        "bytes_up": federated["bytes_up"],
        "bytes_down": federated["bytes_down"],
        "wall_seconds": round(wall_seconds, 1),
        "training_seconds": federated["training_seconds"],
        "checkpoint": str(runs / FEDERATED / "checkpoint"),
        "last_commit": federated["last_commit"],
    }


def _table(measured: dict[str, dict[str, Any]], names: list[str]) -> str:
    lines = [f"{'perplexity per byte':<20}" + "".join(f"{name:>11}" for name in names) + f"{'all':>11}"]
    for arm, figures in measured.items():
        cells = [figures["sources"][name]["perplexity"] for name in names] + [figures["all"]["perplexity"]]
        lines.append(f"{arm:<20}" + "".join(f"{cell:>11.3f}" for cell in cells))
    return "\n".join(lines)


def _closing(summary: dict[str, Any], runs: Path, seconds: float) -> str:
    perplexity = summary["validation_perplexity"]
    best = min(perplexity["alone"], key=perplexity["alone"].get)
    ratio, gain = summary["federated_over_centralised"], perplexity["alone"][best] / perplexity[FEDERATED]
    up, down = summary["bytes_up"] / 1e6, summary["bytes_down"] / 1e6
    return "\n".join(
        [
            "",
            f"Perplexity: federated is {ratio:.3f} x centralised; "
            f"the best single institution ({best}) is {gain:.2f} x federated.",
            f"{summary['tokens'] / 1e6:.2f} M tokens, {summary['rounds']} rounds, {up:.0f} MB up, {down:.0f} MB down; "
            "no text left an institution.",
            f"{seconds / 60:.1f} min in total.",
            "",
            f"model    {summary['checkpoint']}",
            f"report   {runs / 'report.html'}",
            f"figures  {runs / 'summary.json'}",
        ]
    )


if __name__ == "__main__":
    main()
