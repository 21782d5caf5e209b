"""Words that foreign English brings back, kept out of what people read: ``python -m tools.words``.

Documentation of Kubernetes and PyTorch is the model: article, noun, verb. Each line says what to write instead.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

INSTEAD: Final = {
    r"so many\b|so-many": "N, every Nth, at most N",
    r"so long\b": "how long, for this long, N seconds",
    r"anew": "again",
    r"mend(?:s|ed|ing)?": "fix, retry",
    r"whoever": "the one that, anyone who",
    r"nobody": "no one, no participant, nothing",
    r"besides": "in addition to, also, except for",
    r"lies": "is",
    r"that are there": "present, existing, connected",
    r"for want of": "without, not reached",
    r"befalls?": "happen, occur",
    r"signs? of life": "heartbeat",
    r"optimis(?:er|ers|ation|e|ed)": "optimizer, optimize",
}
# Tests' names are sentences, decisions and the changelog are history, and the other two quote the words.
LEFT_OUT: Final = ("tests/", "docs/decisions/", "CHANGELOG.md", "tools/words.py", ".github/", "photon/web_assets/")
_FOUND: Final = re.compile("|".join(rf"\b(?:{word})\b" for word in INSTEAD), re.IGNORECASE)


def main() -> int:
    """Print each place and what to write instead; 1 if there is any."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True, timeout=60).stdout
    found = 0
    for name in listed.split("\0"):
        path = Path(name)
        if not name or name.startswith(LEFT_OUT) or not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for match in _FOUND.finditer(line):
                word = next(i for pattern, i in INSTEAD.items() if re.fullmatch(pattern, match[0], re.IGNORECASE))
                sys.stdout.write(f'{name}:{number}: "{match[0]}": write {word}\n')
                found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
