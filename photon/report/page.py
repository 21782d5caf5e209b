"""The report as one HTML file: data, style and script inside, nothing fetched (a Content-Security-Policy sees to it).

Everything that comes from a run goes into one JSON block and reaches the page as text, never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from photon.report.columns import run_data
from photon.report.history import History

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>$chart_style</style>
<style>$style</style>
</head>
<body>
<main id="report"><noscript>The charts of this report are drawn by a script inside this file.</noscript></main>
<script type="application/json" id="data">$data</script>
<script>$chart_script</script>
<script>$script</script>
</body>
</html>
""")


def render(histories: Sequence[History]) -> str:
    """The page for one or several runs; several are laid over each other."""
    title = " · ".join(h.name for h in histories)
    return _PAGE.substitute(
        title=escape(f"{title} - Photon report"),
        chart_style=_shared("uPlot.min.css"),
        style=_shared("palette.css") + _asset("page.css"),
        data=json_block([run_data(h) for h in histories]),
        chart_script=_shared("uPlot.iife.min.js"),
        script=_asset("page.js"),
    )


def json_block(value: Any) -> str:
    """JSON that may stand inside a ``<script>``: no ``<``, ``>`` or ``&``, whatever the data says."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return files("photon.report").joinpath(name).read_text(encoding="utf-8")


def _shared(name: str) -> str:
    """What the report has in common with the page that the aggregator serves."""
    return files("photon").joinpath("web_assets", name).read_text(encoding="utf-8")
