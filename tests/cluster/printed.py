"""What the commands of docs/guides/kubernetes.md really print, put into the guide below its ``<!-- printed: NAME -->``.

python -m pytest tests/cluster/test_guide.py    # runs the guide and writes runs/printed/NAME.txt
python -m tests.cluster.printed                 # takes those into the guide
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.chart.guide import GUIDE

FOLDER: Final = Path(__file__).parents[2] / "runs" / "printed"
_MARK: Final = re.compile(r"<!-- printed: (?P<name>[\w-]+) -->\n(?:\n?```text\n.*?^```\n)?", re.M | re.S)


def write(name: str, text: str) -> None:
    """Keep what was printed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.txt").write_text(text.strip("\n") + "\n")


def names(guide: str) -> list[str]:
    """What the guide shows."""
    return [match["name"] for match in _MARK.finditer(guide)]


def filled(guide: str, printed: Mapping[str, str]) -> str:
    """The guide with ``printed`` below its marks; what is not among it stays as it is."""

    def block(match: re.Match[str]) -> str:
        text = printed.get(match["name"])
        if text is None:
            return match[0]
        return f"<!-- printed: {match['name']} -->\n```text\n{text.strip(chr(10))}\n```\n"

    return _MARK.sub(block, guide)


def without_spec(described: str) -> str:
    """``kubectl describe`` of a job without what its reader wrote: the spec, and what the API server notes down."""
    text = re.sub(r"^Spec:\n(?: .*\n)*", "Spec:\n  ...\n", described, flags=re.M)
    text = re.sub(r"^Metadata:\n(?: .*\n)*", "", text, flags=re.M)
    return re.sub(r"^(?:Labels|Annotations|API Version|Kind): .*\n", "", text, flags=re.M)


def main() -> int:
    """Exit code 2 when the guide shows what was not recorded."""
    guide = GUIDE.read_text()
    printed = {path.stem: path.read_text() for path in FOLDER.glob("*.txt")}
    GUIDE.write_text(filled(guide, printed))
    missing = [name for name in names(guide) if name not in printed]
    for name in missing:
        sys.stderr.write(f"not recorded: {name}\n")
    return 2 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
