"""``make fuzz``: send 10,000 mutated requests, with and without a valid token, to a real aggregator.

    python -m benchmarks.fuzz [--inputs N] [--rounds N] [--seed N]

Writes runs/bench/fuzz.json. The exit code is 1 if any problem was found: ``server_errors`` (5xx), ``deaths`` (crashes
of the aggregator), ``wrongly_accepted`` (an invalid update, a response to an unauthenticated client, or a model that
does not follow from the accepted updates alone), or memory growth of more than ROOM_MIB between the first quarter of
the rounds and their end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from photon.local.object_store import EmbeddedStore
from tests.fuzz.campaign import Campaign

ROOT = Path(__file__).resolve().parent.parent
# Expected growth: records of rounds, events, and threads that start on demand.
ROOM_MIB = 32.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Send mutated requests to a real aggregator.")
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
