"""``make soak``: 50 short jobs in 30 minutes on a real cluster of two nodes; writes runs/soak/summary.json."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests.cluster.fixtures import RunningCluster
from tests.cluster.release import installed
from tests.soak.documents import kinds
from tests.soak.soak import Soak
from tools.cluster.kube import Object
from tools.cluster.launcher import Cluster, why_no_pods


def main() -> int:
    """Exit code 1 when a job did not end as its document says, or when something is left over."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="over which the jobs are begun, but for the last")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--width", type=int, default=4, help="jobs at a time, at most")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for each thing that must come")
    parser.add_argument("--between", type=float, nargs=2, default=(20.0, 75.0), help="seconds between disturbances")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"), help="emptied first")
    chosen = parser.parse_args()
    if reason := why_no_pods():
        sys.stderr.write(f"error: {reason}\n")
        return 2
    chosen.folder = chosen.folder.absolute()
    shutil.rmtree(chosen.folder, ignore_errors=True)
    local = Cluster()
    try:
        local.up(nodes=chosen.nodes, tied=True)
        with installed(RunningCluster(kube=local.kube, local=local)) as release:
            soak = Soak(
                release=release,
                cluster=local,
                kinds=kinds(release, chosen.folder),
                jobs=chosen.jobs,
                width=chosen.width,
                spread=chosen.minutes * 60 * 0.9,
                patience=chosen.patience,
                seed=chosen.seed,
                between=tuple(chosen.between),
            )
            found = soak.run(say)
    finally:
        local.down()
    (chosen.folder / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    say(table(found))
    return 0 if found["as_documented"] == found["jobs"] and not found["left_over"] else 1


def say(line: str) -> None:
    """To the terminal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def table(found: Object) -> str:
    """What a person reads of it."""
    lines = [f"{'story':<18}{'jobs':>5}{'ok':>5}{'slowest':>10}"]
    for name, row in found["stories"].items():
        lines.append(f"{name:<18}{row['jobs']:>5}{row['ok']:>5}{row['slowest_seconds']:>8.0f} s")
    lines.append(f"{'all':<18}{found['jobs']:>5}{found['as_documented']:>5}{found['minutes']:>6.0f} min")
    lines.append("")
    lines += [f"{name:<24}{count:>4} times" for name, count in found["disturbances"].items()]
    lines.append("")
    lines.append(f"operator, MiB at most in each third: {found['operator_mib_by_third']}")
    lines.append(f"left over: {', '.join(found['left_over']) or 'nothing'}")
    lines += found["problems"]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
