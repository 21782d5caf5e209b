"""A figure reads the same in the terminal, on the job's page and in the report, which format it in two languages."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright._impl._driver import compute_driver_executable

from photon.protocol.figures import LEARNING
from photon.terminal import units

# Text as people read it, by kind of figure; None where the report does not write such a figure.
CASES: dict[str, dict[float, str]] = {
    "amount": {
        0: "0", 7: "7", 999: "999", 1000: "1.00k", 1234: "1.23k", 9994: "9.99k", 9996: "10.0k", 99_940: "99.9k",
        99_960: "100k", 999_400: "999k", 999_600: "1.00M", 2_100_000: "2.10M", 844_928: "845k", 3.2e9: "3.20G",
        4.56e12: "4.56T", 7.89e15: "7.89P", 1.2e18: "1200P",
    },
    "bytes": {
        0: "0 B", 999: "999 B", 1000: "1.00 kB", 14_200_000: "14.2 MB", 999_600: "1.00 MB", 5.5e9: "5.50 GB",
        2**50: "1.13 PB",
    },
    "duration": {
        0: "0:00", 7.2: "0:07", 59.6: "1:00", 761: "12:41", 11_229: "3:07:09", 172_799: "47:59:59", 172_800: "2 d 00 h",
        187_200: "2 d 04 h", -3: "0:00",
    },
    "loss": {0: "0.000", 2.5: "2.500", 11.0986: "11.099"},
    "perplexity": {
        1: "1.00", 18.234: "18.23", 999.99: "999.99", 1234.4: "1234", 99_999: "99999", 123_456: "1.23e+05",
        1.14e26: "1.14e+26",
    },
}  # fmt: skip
TERMINAL = {
    "amount": units.amount,
    "bytes": units.data_size,
    "duration": units.duration,
    "loss": units.loss,
    "perplexity": units.perplexity,
}


def of_the_page(name: str) -> str:
    return (files("photon_aggregator") / "http" / "web" / name).read_text(encoding="utf-8")


def of_the_report() -> str:
    return (files("photon") / "report" / "page.js").read_text(encoding="utf-8")


def in_node(folder: Path, module: str) -> Any:
    """What a JavaScript module prints as JSON."""
    program = folder / "ask.mjs"
    program.write_text(module, encoding="utf-8")
    node, _ = compute_driver_executable()
    done = subprocess.run([node, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", CASES)
def test_the_terminal(kind: str) -> None:
    assert {value: TERMINAL[kind](value) for value in CASES[kind]} == CASES[kind]


def test_the_page(tmp_path: Path) -> None:
    (tmp_path / "format.mjs").write_text(of_the_page("format.js"), encoding="utf-8")
    asked = json.dumps({kind: list(cases) for kind, cases in CASES.items()})
    said = in_node(
        tmp_path,
        'import * as format from "./format.mjs";\n'
        f"const found = Object.entries({asked}).map(([kind, values]) => [kind, values.map(format[kind])]);\n"
        "console.log(JSON.stringify(Object.fromEntries(found)));\n",
    )
    assert said == {kind: list(cases.values()) for kind, cases in CASES.items()}


def test_the_report(tmp_path: Path) -> None:
    figures = re.search(r"// ---- figures -+\n(.*?)// ---- page elements -", of_the_report(), re.DOTALL)
    assert figures is not None
    kinds = {"amount": "(v) => si(v)", "bytes": "bytes", "duration": "duration", "loss": "decimals"}
    asked = json.dumps({kind: list(CASES[kind]) for kind in kinds})
    functions = ", ".join(f"{kind}: {function}" for kind, function in kinds.items())
    said = in_node(
        tmp_path,
        f"{figures[1]}\nconst functions = {{ {functions} }};\n"
        f"const found = Object.entries({asked})\n"
        "  .map(([kind, values]) => [kind, values.map((v) => functions[kind](v))]);\n"
        "console.log(JSON.stringify(Object.fromEntries(found)));\n",
    )
    assert said == {kind: list(CASES[kind].values()) for kind in kinds}


def test_the_charts_of_page_and_report_have_the_same_titles() -> None:
    page, report = of_the_page("curves.js"), of_the_report()
    titles = dict(re.findall(r'(\w+): chart\("\w+", "([^"]+)"', page))
    shown = re.findall(r'show\("(\w+)", (\[.*\])', page)
    charts = re.findall(r'^ *\["([^"]+)", .*?\(\) => (.*?), \{ format', report, re.MULTILINE)
    compared = set()
    for figure in LEARNING:
        on_page = {
            (titles[chart], label)
            for chart, lines in shown
            for label, column in re.findall(r'line\("([^"]+)", "(\w+)"', lines)
            if column == figure.curve
        }
        in_report = {(title, lines) for title, lines in charts if f'"{figure.field}"' in lines}
        assert in_report, f"the report draws no {figure.field}"
        for title, label in on_page:
            compared.add(figure.field)
            ((report_title, lines),) = in_report
            assert report_title == title
            several = re.findall(r'\["([^"]+)", "(\w+)"\]', lines)
            assert not several or (label, figure.field) in several
    assert compared >= {"pseudo_gradient_norm", "momentum_norm", "consensus", "mean_pairwise_cosine"}
