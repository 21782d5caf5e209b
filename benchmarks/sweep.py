"""The sweep that selected the recipe of the demo: the demo job with one setting changed at a time.

Each recipe is a complete `photon run` of examples/demo.yaml, evaluated in the same way as the demo. The centralised run
is swept as well, so that the baseline is the best centralised run instead of one with the federated learning rate.

    make sweep       # all recipes, hours on 2 cores; --only NAME... selects some; results are kept in runs/sweep
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.compare import Arm, measure, run_together, summary_of
from benchmarks.telling import telling
from photon.api.validate import load_job
from tools.demo_data import prepare_demo_data

RATE: Final = "spec.local.learningRate.max"
FINAL: Final = "spec.local.learningRate.finalFraction"
STEPS: Final = "spec.local.steps"
ROUNDS: Final = "spec.rounds"

CENTRALISED: Final[dict[str, list[str]]] = {
    f"centralised lr {rate}": [f"{RATE}={rate}"] for rate in ("1.5e-3", "2e-3", "3e-3", "4e-3")
}


def _outer(kind: str, rate: float, momentum: float = 0.0) -> list[str]:
    return [f"spec.outer.type={kind}", f"spec.outer.learningRate={rate}", f"spec.outer.momentum={momentum}"]


FEDERATED: Final[dict[str, list[str]]] = {
    **{f"FedAvg lr {rate}": [*_outer("FedAvg", 1.0), f"{RATE}={rate}"] for rate in ("1.5e-3", "2e-3", "3e-3")},
    **{
        f"Nesterov 1.0/0.5 lr {rate}": [*_outer("Nesterov", 1.0, 0.5), f"{RATE}={rate}"]
        for rate in ("1e-3", "1.5e-3", "2e-3", "3e-3")
    },
    "Nesterov 1.0/0.3 lr 2e-3": [*_outer("Nesterov", 1.0, 0.3), f"{RATE}=2e-3"],
    "Nesterov 0.7/0.9 lr 1e-3": [*_outer("Nesterov", 0.7, 0.9), f"{RATE}=1e-3"],
    "Nesterov 1.0/0.5 lr 2e-3, state reset": [*_outer("Nesterov", 1.0, 0.5), f"{RATE}=2e-3", "spec.local.state=Reset"],
    "Nesterov 1.0/0.5 lr 2e-3, to zero": [*_outer("Nesterov", 1.0, 0.5), f"{RATE}=2e-3", f"{FINAL}=0"],
    "Nesterov 1.0/0.5 lr 2e-3, 32 steps": [
        *_outer("Nesterov", 1.0, 0.5),
        f"{RATE}=2e-3",
        f"{STEPS}=32",
        f"{ROUNDS}=64",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", type=Path, default=Path("examples/demo.yaml"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="only recipes whose name has TEXT")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args()
    # SIGTERM also stops the active run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    data = prepare_demo_data(Path("runs/demo/data"), say=lambda _: None)
    results = []
    for name, changes in {**CENTRALISED, **FEDERATED}.items():
        if arguments.only and not any(text in name for text in arguments.only):
            continue
        flags = ("--centralised",) if name in CENTRALISED else ()
        results.append(_one(arguments, name, [*arguments.overrides, *changes], flags, data))
        _write(arguments.runs_dir, results)
    print(_table(results))


def _one(
    arguments: argparse.Namespace, name: str, changes: list[str], flags: tuple[str, ...], data: dict[str, Path]
) -> dict[str, Any]:
    arm = Arm(name="".join(c if c.isalnum() or c in "._-" else "_" for c in name), flags=flags)
    print(name, flush=True)
    overrides = [*changes, "spec.evaluation.everyRounds=0"]
    run_together(arguments.job, [arm], arguments.runs_dir, {arm.name: overrides})
    run = arguments.runs_dir / arm.name
    length = load_job(arguments.job, overrides=overrides).spec.local.sequence_length
    with telling("evaluating the model"):
        figures = measure(run / "checkpoint", data, sequence_length=length)
    summary = summary_of(run)
    return {
        "name": name,
        "changes": changes,
        "perplexity": figures["all"]["perplexity"],
        "by_institution": {key: value["perplexity"] for key, value in figures["sources"].items()},
        "tokens": summary["tokens"],
        "rounds": summary["rounds"],
        "last_commit": summary["last_commit"],
    }


def _write(folder: Path, results: list[dict[str, Any]]) -> None:
    (folder / "sweep.json").write_text(json.dumps(results, indent=2) + "\n")


def _table(results: list[dict[str, Any]]) -> str:
    central = [r["perplexity"] for r in results if r["name"] in CENTRALISED]
    width = max((len(r["name"]) for r in results), default=0)
    lines = [f"{'recipe':<{width}}  perplexity  ratio to best centralised"]
    for result in results:
        ratio = f"{result['perplexity'] / min(central):>10.3f}" if central else ""
        lines.append(f"{result['name']:<{width}}  {result['perplexity']:>10.3f}  {ratio}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
