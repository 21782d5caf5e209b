"""``make chaos``: the long job of tests/chaos, in real time; writes runs/bench/chaos.json."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests.chaos.job import Script, disturbed, undisturbed

SHORT = Script(
    rounds=14,
    store_away_after=2,
    store_away_seconds=45,
    stopped_after=4,
    stopped_seconds=45,
    clock_jumps_after=6,
    clock_seconds=8,
    vanishes_after=8,
    deadline_seconds=10,
    limit_seconds=600,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes for everything")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="buckets and logs; emptied first")
    arguments = parser.parse_args()
    script = SHORT if arguments.short else Script()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    folder = arguments.folder.resolve()
    print(f"a job of {script.rounds} rounds; logs in {arguments.folder}", flush=True)
    found, commits = disturbed(folder / "disturbed", script)
    print(f"{found.reason} after {found.rounds} rounds; now the same updates, undisturbed", flush=True)
    found.digest_equal = undisturbed(folder / "undisturbed", script, commits) == found.last_commit
    result = found.to_json()
    output = Path("runs/bench/chaos.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if found.completed and found.digest_equal and not found.server_errors and not found.deaths else 1


if __name__ == "__main__":
    sys.exit(main())
