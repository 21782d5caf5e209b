"""`make bench-evaluation`: cost of evaluation in the first job of the README, with little and with much text.

Uses `examples/first.yaml` with different data: 12 MB and 200 MB per participant, prepared with the defaults, of which
2 % is held out. The training and evaluation seconds of each participant are read from the round logs.

Writes runs/bench/evaluation.json. The exit code is 1 if evaluation took more than a tenth of the time.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.telling import telling

RESULT: Final = Path("runs/bench/evaluation.json")
EXAMPLE: Final = Path(__file__).parent.parent / "examples" / "first.yaml"
PROGRAM: Final = str(Path(sys.executable).parent / "photon")
SIZES: Final = (12, 200)
LIMIT: Final = 0.1
DOCUMENT_BYTES: Final = 20_000


def write_text(path: Path, megabytes: int) -> None:
    """Made-up words in documents of JSON lines, none like another."""
    chance = random.Random(megabytes)
    words = ["".join(chance.choices("etaoinshrdlcumwfgypbvk", k=chance.randint(2, 9))) for _ in range(20_000)]
    written = 0
    with path.open("w") as file:
        while written < megabytes * 10**6:
            text = " ".join(chance.choices(words, k=DOCUMENT_BYTES // 7))
            written += len(text)
            file.write(json.dumps({"text": text}) + "\n")


def measure(megabytes: int, folder: Path, rounds: int | None) -> dict[str, Any]:
    """One run of the example. Both participants read the same folder."""
    text, data = folder / f"{megabytes}.jsonl", folder / f"data-{megabytes}"
    with telling(f"preparing {megabytes} MB"):
        write_text(text, megabytes)
        # Made-up text has no near-duplicates, and looking for them takes most of the time.
        prepare = [PROGRAM, "data", "prepare", str(text), "--output", str(data), "--near-duplicates", "keep"]
        subprocess.run(prepare, check=True, capture_output=True)
    job = yaml.safe_load(EXAMPLE.read_text())
    for participant in job["spec"]["participants"]:
        participant["worker"]["data"]["uri"] = str(data)
    job["spec"]["rounds"] = rounds or job["spec"]["rounds"]
    path = folder / f"first-{megabytes}.yaml"
    path.write_text(yaml.safe_dump(job))
    began = time.monotonic()
    with telling(f"photon run with {megabytes} MB"):
        runs = folder / f"runs-{megabytes}"
        subprocess.run([PROGRAM, "run", str(path), "--runs-dir", str(runs)], check=True, capture_output=True)
    wall = time.monotonic() - began
    lines = [json.loads(line) for line in (runs / "first" / "history.jsonl").read_text().splitlines()]
    shares = [share for line in lines if line["kind"] == "log" for share in line["record"]["participants"].values()]
    train, evaluate = (sum(share["seconds"].get(phase, 0.0) for share in shares) for phase in ("train", "evaluate"))
    summary = json.loads((runs / "first" / "summary.json").read_text())
    figures = next(iter(summary["held_out"].values()))[""]
    people = len(job["spec"]["participants"])
    return {
        "megabytes": megabytes,
        "train_seconds": round(train / people, 3),
        "evaluate_seconds": round(evaluate / people, 3),
        "wall_seconds": round(wall, 3),
        "share_of_training": round(evaluate / train, 4),
        "share_of_wall": round(evaluate / people / wall, 4),
        "tokens_measured": figures["tokens"],
        "held_out": figures["held_out"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="override the number of rounds of the example")
    parser.add_argument("--megabytes", type=int, nargs="+", default=SIZES)
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="photon-evaluation-") as name:
        for megabytes in given.megabytes:
            one = measure(megabytes, Path(name), given.rounds)
            found.append(one)
            print(
                f"{megabytes:>4} MB: training {one['train_seconds']:.1f} s, evaluation {one['evaluate_seconds']:.1f} s "
                f"per participant: {100 * one['share_of_training']:.1f} % of the training time, "
                f"{100 * one['share_of_wall']:.1f} % of the job time; {one['tokens_measured']:,} of "
                f"{one['held_out']:,} held-out tokens per round"
            )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if any(one["share_of_wall"] > LIMIT for one in found) else 0)


if __name__ == "__main__":
    main()
