"""``make fuzz``: 10,000 mutations of what participants and strangers may send, against a real aggregator.

    python -m benchmarks.fuzz [--inputs N] [--rounds N] [--seed N]

Writes runs/bench/fuzz.json and ends with 1 when anything was found: ``server_errors`` (5xx), ``deaths`` of the
aggregator, ``wrongly_accepted`` (an update that is no valid one, an answer to a stranger, a model that the accepted
updates alone do not make), or memory that grew by more than ROOM_MIB from a quarter of the rounds to their end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from photon.store.embedded import EmbeddedStore
from tests.fuzz.campaign import Campaign

ROOT = Path(__file__).resolve().parent.parent
# Of what is kept on purpose: records of rounds, events, threads that were not needed before.
ROOM_MIB = 32.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutations against a real aggregator.")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = ROOT / "runs" / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    with EmbeddedStore(folder / "data", log_path=folder / "weed.log") as s3:
        result = Campaign(s3, folder, inputs=options.inputs, rounds=options.rounds, seed=options.seed).run()
    statuses = dict(sorted(result.statuses.items()))
    found = {**vars(result), "statuses": statuses, "seconds": round(time.monotonic() - began)}
    bench = ROOT / "runs" / "bench"
    bench.mkdir(parents=True, exist_ok=True)
    (bench / "fuzz.json").write_text(json.dumps(found, indent=2) + "\n")
    for problem in result.problems:
        print(problem)
    for name in ("inputs", "server_errors", "deaths", "wrongly_accepted", "rss_growth_mib", "accepted_mutations"):
        print(f"{name:<20}{found[name]:>10}")
    print(f"seed {options.seed}, {found['seconds']} s; {bench / 'fuzz.json'}")
    return int(bool(result.problems) or result.rss_growth_mib > ROOM_MIB)


if __name__ == "__main__":
    sys.exit(main())
