"""The commands of docs/guides/kubernetes.md as a reader copies them: its ``bash`` blocks, each below its heading.

Blocks that are only indented are for looking and for choosing; they are not part of the path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GUIDE: Final = Path(__file__).parents[2] / "docs" / "guides" / "kubernetes.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One block of commands."""

    heading: str
    commands: str


def steps() -> list[Step]:
    """All of the guide's ``bash`` blocks."""
    found = []
    heading = ""
    for match in re.finditer(
        r"^## (?P<heading>[^\n]+)$|^```bash\n(?P<commands>.*?)^```$", GUIDE.read_text(), re.M | re.S
    ):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Step(heading=heading, commands=match["commands"]))
    return found
