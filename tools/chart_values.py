"""The table of values in the chart's README, made from values.yaml: ``python -m tools.chart_values --write``.

The text of a value is the comment above it that begins with ``# --``; so values.yaml stays the one place to say it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parents[1] / "charts" / "photon"

BEGIN: Final = "<!-- values: made by make generate -->\n"
END: Final = "<!-- end of values -->\n"
_MARK: Final = "# -- "


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One line of the table. ``text`` is None where values.yaml has no comment for it."""

    path: tuple[str, ...]
    default: Any
    text: str | None


def values() -> list[Value]:
    """Every value of the chart: scalars, lists, and maps that hold no further values of ours."""
    text = (CHART / "values.yaml").read_text()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_values(root, yaml.safe_load(text), (), text.splitlines()))


def _values(node: yaml.MappingNode, data: Any, path: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, child in node.value:
        here = (*path, key.value)
        default = data[key.value]
        comment = _comment(lines, key.start_mark.line)
        if comment is None and isinstance(child, yaml.MappingNode) and child.value:
            yield from _values(child, default, here, lines)
        else:
            yield Value(path=here, default=default, text=comment)


def _comment(lines: list[str], line: int) -> str | None:
    above = lines[line - 1].strip() if line else ""
    return above.removeprefix(_MARK) if above.startswith(_MARK) else None


def table() -> str:
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in values():
        default = json.dumps(value.default, ensure_ascii=False)
        rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {value.text} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    """``readme`` with its table replaced.

    Raises:
        ValueError: The two marks are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README needs the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> int:
    """Write the table, or say that it is outdated."""
    parser = argparse.ArgumentParser(prog="python -m tools.chart_values", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FILE")
    action.add_argument("--write", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    path: Path = arguments.check or arguments.write
    found = path.read_text()
    wanted = with_table(found)
    if arguments.write:
        path.write_text(wanted)
    elif found != wanted:
        sys.stderr.write(f"error: the table of values in {path} is outdated; run make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
