"""The report in a real browser: its charts are drawn, nothing is fetched, and runs are compared by what they share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from photon.report.history import History, parse
from photon.report.page import render
from tests.cli.test_report import lines
from tests.sight.browser import Watched, executable
from tools.browser import chromium

pytestmark = pytest.mark.sight


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(executable()) as running:
        yield running


def centralised(rounds: int = 2) -> History:
    """A run whose rounds are four times as many tokens as those of the others."""
    told = [json.loads(line) for line in lines(rounds)]
    for line in told:
        if line["kind"] == "commit":
            line["record"]["tokens"] *= 4
    return parse([json.dumps(line) for line in told], name="centralised")


def opened(browser: Browser, folder: Path, *runs: History) -> Watched:
    file = folder / "report.html"
    file.write_text(render(runs))
    watched = Watched.open(browser, file.as_uri())
    watched.until("() => document.querySelectorAll('#charts canvas').length > 5")
    assert watched.console == []
    assert watched.elsewhere == []
    return watched


def axis(watched: Watched) -> str:
    return watched.text("[aria-label='Horizontal axis'] [aria-pressed=true]")


def test_runs_whose_rounds_are_alike_are_compared_by_round(browser: Browser, tmp_path: Path) -> None:
    watched = opened(browser, tmp_path, parse(lines(), name="one"), parse(lines(2), name="other"))
    assert axis(watched) == "Rounds"
    assert "Round3one2" in watched.text("#charts .card >> nth=2")


def test_runs_whose_rounds_differ_are_compared_by_tokens_until_someone_says_otherwise(
    browser: Browser, tmp_path: Path
) -> None:
    watched = opened(browser, tmp_path, parse(lines(), name="one"), centralised())
    assert axis(watched) == "Tokens"
    watched.page.get_by_role("button", name="Rounds").click()
    assert axis(watched) == "Rounds"
    assert watched.page.locator("#charts canvas").count() > 5
