"""Write the dashboards, or report outdated files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tools.dashboards import gate, institution, job, operator

DASHBOARDS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "job.json": job.build,
    "institution.json": institution.build,
    "gate.json": gate.build,
    "operator.json": operator.build,
}


def render(name: str) -> str:
    """The text of a file of manifests/dashboards."""
    return json.dumps(DASHBOARDS[name](), indent=1) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.dashboards", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FOLDER", help="exit 1 if a file in FOLDER is outdated")
    action.add_argument("--write", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    folder: Path = arguments.write or arguments.check
    outdated = [name for name in DASHBOARDS if _text(folder / name) != render(name)]
    if arguments.write:
        folder.mkdir(parents=True, exist_ok=True)
        for name in outdated:
            (folder / name).write_text(render(name))
        return 0
    for name in outdated:
        sys.stderr.write(f"error: {folder / name} is outdated; run make generate\n")
    return int(bool(outdated))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    raise SystemExit(main())
